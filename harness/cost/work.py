"""How much a client trains in a round, as plans and predictions see it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.config import MethodConfig


@dataclass(frozen=True, slots=True)
class LocalWork(MethodConfig):
    """How much a client trains in a round: what a scheduler has to know of a method."""

    batch_size: int = 10
    """Examples per step; 0 takes the whole shard."""
    local_epochs: int = 1
    """Passes over the shard per round."""
    local_steps: int | None = None
    """Steps per round instead of whole epochs; stops early within local_epochs' order, repeats beyond it."""


def examples_seen(num_examples: NDArray[np.int64], work: LocalWork) -> NDArray[np.int64]:
    """Examples that `learning.training.training_batches` yields in a round for shards of these sizes [K]."""
    if work.local_steps is None:
        return num_examples * work.local_epochs
    size = work.batch_size or np.maximum(num_examples, 1)
    passes, steps = np.divmod(work.local_steps, -(-num_examples // size))
    return passes * num_examples + np.minimum(steps * size, num_examples)
