"""The contract of a task, and the arrays it hands out.

Shape letters: N examples, H and W pixels, C channels, B batch, M boxes at most in an image.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.config import TaskConfig
from harness.data.scores import Accuracy, Scorer
from harness.data.views import apply_view

Kind = Literal["classification", "detection", "segmentation"]
"""What a network says about an image: its class, boxes in it, or the class of every pixel.

| kind | targets, stored | targets in a Batch |
|---|---|---|
| classification | [N] int64 class | [B] int64 |
| detection | [N, M, 5] float32, rows (class, cx, cy, w, h), in 0..1 of the image | [B, M, 5] |
| segmentation | [N, H, W] uint8 class, 255 void | [B, H, W] int64 |

Rows of a detection target whose class is below 0 train nothing: -1 fills up, and -2 - c is a "difficult" box
of class c (PASCAL VOC), which a score neither counts nor penalises.
"""


@dataclass(frozen=True, slots=True)
class Examples:
    """One split, as it is stored: plain arrays that many processes may map at once. Never written to."""

    inputs: NDArray[np.generic]
    """[N, H, W, C] uint8 images, or [N, D] float32 vectors."""
    targets: NDArray[Any]
    """[N, ...] as the table of `Kind` says."""
    writers: NDArray[np.int64] | None = None
    """[N] who made the example (0..num_writers-1), where the task knows it; -1 unknown."""

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, slots=True)
class Splits:
    """A task's data. Tuning and stopping read val; test is read at the chosen round."""

    train: Examples
    val: Examples
    test: Examples


class Batch(NamedTuple):
    """What a training or evaluation step sees."""

    inputs: Tensor
    """[B, C, H, W] or [B, D] float32, normalised."""
    targets: Tensor
    """[B, ...] as the table of `Kind` says."""
    ids: Tensor
    """[B] int64, row of each example in its split (the SAMPLE id: stable under shuffling)."""


class Task(ABC):
    """What is learned. Building one is cheap and reads nothing: `describe` works without a data set."""

    input_shape: tuple[int, ...]
    """Of one example as a network sees it: (C, H, W) or (D,)."""
    num_classes: int
    num_train: int
    """Examples in train + val of the full data set (known or nominal), for `describe`."""
    kind: ClassVar[Kind] = "classification"
    metric: ClassVar[str] = "accuracy"
    """Suffix of eval/<metric> and val/<metric>; higher is better."""
    target_shape: tuple[int, ...] = ()
    """Of one example in a Batch, nominal where it depends on the data: for shapes without data."""
    target_dtype: ClassVar[torch.dtype] = torch.int64
    """In a Batch."""
    default_model: ClassVar[str] = "cnn"
    """Network that `task.model: auto` means."""
    class_names: tuple[str, ...] = ()
    """[num_classes], where they have names."""
    black: tuple[float, ...] = (0.0,)
    """A zero pixel of each channel as a network sees it (normalised): what views pad and erase with."""

    def __init__(self, cfg: TaskConfig) -> None:
        self.cfg = cfg

    @abstractmethod
    def load(self) -> Splits:
        """Read, check and split the data. Raises DataError naming the file and the reason."""

    @abstractmethod
    def to_inputs(self, rows: NDArray[np.generic]) -> Tensor:
        """Stored rows [B, ...] -> normalised float32 network inputs [B, C, H, W] or [B, D]."""

    def to_targets(self, rows: NDArray[Any]) -> Tensor:
        """Stored targets [B, ...] as a Batch holds them."""
        return torch.from_numpy(rows).to(self.target_dtype)

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Random training transforms of images, shape kept; the identity where none are configured."""
        return inputs

    def augmented(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The same of a batch: targets that lie in the picture move with it."""
        return batch._replace(inputs=self.augment(batch.inputs, generator))

    def class_counts(self, targets: NDArray[Any]) -> NDArray[np.int64]:
        """[N, num_classes] how often each class is in an example: 1 for its label, or boxes, or pixels."""
        counts: NDArray[np.int64] = np.eye(self.num_classes, dtype=np.int64)[targets]
        return counts

    def labels(self, targets: NDArray[Any]) -> NDArray[np.int64]:
        """[N] one class for each example, where something can look at one only (partitions, val)."""
        return targets

    def scorer(self) -> Scorer:
        """A new one: what `metric` and its companions are computed by."""
        return Accuracy()


@dataclass(frozen=True, slots=True)
class Shard:
    """The examples one client holds: rows of a split, as indices into shared arrays."""

    task: Task
    examples: Examples
    indices: NDArray[np.int64]
    """Rows of `examples`, ascending. They double as sample ids."""
    view: str | None = None
    """Name of the view that this client sees of every example (vertical partitions)."""

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: NDArray[np.int64]) -> Batch:
        """The examples at these positions of the shard, normalised, in the order asked for."""
        rows = self.indices[positions]
        ids = torch.from_numpy(rows)
        inputs = self.task.to_inputs(self.examples.inputs[rows])
        targets = self.task.to_targets(self.examples.targets[rows])
        if self.view is not None:
            black = torch.tensor(self.task.black)
            inputs = apply_view(self.view, inputs, ids=ids, black=black, classes=targets)
        return Batch(inputs=inputs, targets=targets, ids=ids)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """In index order, without augmentation, the last one possibly smaller (extraction, evaluation)."""
        for start in range(0, len(self), batch_size):
            yield self.take(np.arange(start, min(start + batch_size, len(self))))
