"""Generated images, learnable within seconds: for tests and for trying out a cluster."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.config import require
from harness.data.resize import resize
from harness.data.splits import Stored, stratified_order
from harness.data.task import Examples
from harness.data.tasks.images import Card, ImageOptions, ImageTask

DATA_SEED = 7
"""Fixed: the data set does not depend on the run's seed."""
_NOISE = 40.0
_CHUNK = 8192


@dataclass(frozen=True, slots=True)
class SyntheticOptions(ImageOptions):
    """`task.options` of synthetic."""

    num_train: int = 2000
    """Examples to train on, val included."""
    num_test: int = 500
    """Examples to test on."""
    num_classes: int = 10
    """Classes, equally frequent."""
    image_size: int = 16
    """Side in pixels; task.image_size wins."""
    channels: int = 1
    """Colours."""
    num_writers: int = 0
    """Writers, equally frequent; 0: none are known."""


class Synthetic(ImageTask):
    """A smooth random pattern per class under noise."""

    Options: ClassVar[type[ImageOptions]] = SyntheticOptions
    options: SyntheticOptions

    def card(self) -> Card:
        o = self.options
        for key in ("num_train", "num_test", "num_classes", "image_size", "channels"):
            require(getattr(o, key) >= 1, f"task.options.{key} must be >= 1, got {getattr(o, key)}")
        size = self.cfg.image_size or o.image_size
        shape = (size, size, o.channels)
        return Card(shape, o.num_classes, o.num_train, mean=(0.5,) * o.channels, std=(0.25,) * o.channels)

    def stored(self) -> Stored:
        o = self.options
        rng = np.random.default_rng(DATA_SEED)
        coarse = rng.integers(40, 216, (o.num_classes, 4, 4, o.channels)).astype(np.uint8)
        patterns = resize(coarse, size=self.size[0])
        return Stored(*(self._draw(patterns, count, rng) for count in (o.num_train, o.num_test)))

    def _draw(self, patterns: NDArray[np.uint8], count: int, rng: np.random.Generator) -> Examples:
        labels = np.arange(count) % self.options.num_classes
        labels = labels[stratified_order(labels)]
        images = np.empty((count, *patterns.shape[1:]), np.uint8)
        for start in range(0, count, _CHUNK):
            clean = patterns[labels[start : start + _CHUNK]]
            noisy = clean + _NOISE * rng.standard_normal(clean.shape, np.float32)
            images[start : start + _CHUNK] = np.clip(np.rint(noisy), 0, 255)
        if not self.options.num_writers:
            return Examples(images, labels)
        return Examples(images, labels, rng.permutation(np.arange(count) % self.options.num_writers))
