"""What a policy decides on, and what a policy is.

Shape letter: K clients of the federation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.config import SchedulerConfig
from harness.cost.submodel import SubmodelProfile
from harness.scheduling.fleet import Fleet
from harness.scheduling.plan import RoundPlan
from harness.types import SubmodelId


@dataclass(frozen=True, slots=True)
class DeviceStates:
    """What the scheduler knows of every device now."""

    fleet: Fleet
    battery_j: NDArray[np.float64]
    """[K] charge left; inf for mains."""
    num_examples: NDArray[np.int64] | None = None
    """[K] training examples held; None where the partition is not known."""
    examples_seen: NDArray[np.int64] | None = None
    """[K] examples that one round of local training runs through, over all its epochs."""
    available: NDArray[np.bool_] | None = None
    """[K] may take part now; None: all."""
    seed: int = 0
    """The run's: for what is dealt once and holds for every round."""

    def present(self) -> NDArray[np.int64]:
        """Clients that are available now, ascending."""
        if self.available is None:
            return np.arange(len(self.fleet), dtype=np.int64)
        return np.flatnonzero(self.available)

    def absent(self) -> dict[str, int]:
        """Why clients cannot take part now -> how many."""
        missing = len(self.fleet) - len(self.present())
        return {"unavailable": missing} if missing else {}


Policy = Callable[
    [int, DeviceStates, Mapping[SubmodelId, SubmodelProfile], SchedulerConfig, np.random.Generator], RoundPlan
]
"""A pure function: round, states, what may be assigned, the configuration, randomness -> a plan."""
