"""What every image classification task shares: options, splits, normalisation, augmentation.

A family says what its images are like (`card`) and where they come from (`stored`); the rest is here.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.config import TaskConfig, nearest, require
from harness.data.augment import augment, check_names
from harness.data.splits import Stored, hold_out
from harness.data.task import Examples, Splits, Task
from harness.types import DataError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Card:
    """What is known about a data set before it is read."""

    shape: tuple[int, int, int]
    """(H, W, C) of a stored image."""
    num_classes: int
    """Labels are 0..num_classes-1."""
    num_train: int
    """Examples that are not test."""
    mean: tuple[float, ...]
    """[C] of pixels scaled to 0..1; inputs are (pixel - mean) / std."""
    std: tuple[float, ...]
    """[C]."""


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """`task.options` of every image task."""

    val_from: str = "train"
    """Split that val is held out of: train, or test where every training example must be dealt out."""


class ImageTask(Task):
    """Classification of images stored as [N, H, W, C] uint8."""

    Options: ClassVar[type[ImageOptions]] = ImageOptions
    options: ImageOptions

    def __init__(self, cfg: TaskConfig) -> None:
        """Raises ConfigError for an unknown option or augmentation."""
        super().__init__(cfg)
        self.options = read_options(self.Options, cfg.options)
        sides = ["train", "test"]
        got = self.options.val_from
        require(got in sides, f"task.options.val_from: unknown split {got!r}{nearest(got, sides)}")
        require(
            cfg.image_size is None or cfg.image_size >= 1,
            f"task.image_size must be >= 1, got {cfg.image_size}",
        )
        check_names(cfg.augment)
        card = self.card()
        height, width, channels = card.shape
        self.size = (cfg.image_size, cfg.image_size) if cfg.image_size else (height, width)
        self.input_shape = (channels, *self.size)
        self.num_classes = card.num_classes
        self.num_train = card.num_train
        self.black = tuple(-m / s for m, s in zip(card.mean, card.std, strict=True))
        # (pixel / 255 - mean) / std as one multiplication and one addition.
        self._scale = torch.tensor([1 / (255 * s) for s in card.std]).view(1, -1, 1, 1)
        self._shift = torch.tensor(self.black).view(1, -1, 1, 1)

    @abstractmethod
    def card(self) -> Card:
        """Shape, classes, size and normalisation, from cfg and options alone."""

    @abstractmethod
    def stored(self) -> Stored:
        """Checked images of `self.size` and labels, rows in `stratified_order`. Raises DataError."""

    def load(self) -> Splits:
        """Read and split. Raises DataError for bad data, ConfigError for splits that cannot be."""
        return hold_out(self.stored(), cfg=self.cfg, val_from=self.options.val_from)

    def to_inputs(self, rows: NDArray[np.generic]) -> Tensor:
        """[B, H, W, C] uint8 -> normalised float32 [B, C, H, W]."""
        # A slice of a mapped file is read-only, which a tensor cannot be.
        pixels = torch.from_numpy(rows if rows.flags.writeable else rows.copy()).permute(0, 3, 1, 2)
        planes = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        return planes.mul_(self._scale).add_(self._shift)

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """`task.augment`, in order."""
        black = torch.tensor(self.black)
        return augment(inputs, names=self.cfg.augment, generator=generator, black=black)


def read_options(cls: type[T], given: Mapping[str, Any]) -> T:
    """`task.options` as a family's dataclass. Raises ConfigError for an unknown key or a wrong type."""
    defaults = {f.name: f.default for f in fields(cls)}  # type: ignore[arg-type]
    values: dict[str, object] = {}
    for key, value in given.items():
        require(key in defaults, f"task.options.{key}: unknown key{nearest(key, list(defaults))}")
        default = defaults[key]
        assert default is not MISSING
        wanted = type(default)
        if wanted is tuple:
            value = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
            names = isinstance(default[0], str)
            fits = all(isinstance(v, str if names else int | float) for v in value)
            kind = "names" if names else "numbers"
            require(fits, f"task.options.{key} must hold {kind}, got {given[key]!r}")
        require(
            isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool),
            f"task.options.{key} must be {wanted.__name__}, got {value!r}",
        )
        values[key] = value
    return cls(**values)


def check_examples(
    examples: Examples, *, shape: tuple[int, int, int], num_classes: int, where: str
) -> Examples:
    """`examples` if they are images of `shape` [H, W, C] with labels in range, else DataError."""
    x, y, writers = examples.inputs, examples.targets, examples.writers
    if x.dtype != np.uint8 or x.shape[1:] != shape:
        raise DataError(
            f"{where}: images must be uint8 [N, {', '.join(map(str, shape))}], got {x.dtype} {x.shape}"
        )
    if y.shape != (len(x),) or not len(y):
        raise DataError(f"{where}: needs one label per image, got {y.shape} for {len(x)} images")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= num_classes:
        raise DataError(f"{where}: labels must lie in 0..{num_classes - 1}, got {low}..{high}")
    if writers is not None and writers.shape != y.shape:
        raise DataError(f"{where}: needs one writer per image, got {writers.shape} for {len(x)} images")
    return examples
