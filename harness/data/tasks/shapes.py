"""Drawn rectangles, discs and triangles on noisy backgrounds: detection and segmentation without any file.

Letters: N examples, S side in pixels, M shapes at most in an image.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.config import TaskConfig, require
from harness.data.resize import resize
from harness.data.splits import Stored, stratified_order
from harness.data.task import Examples
from harness.data.tasks.dense import DenseTask, DetectionTask, SegmentationTask
from harness.data.tasks.images import Card, ImageOptions

SHAPES = ("rectangle", "disc", "triangle")
DATA_SEED = 11
"""Fixed: the data set does not depend on the run's seed."""
NOISE = 12.0
"""Standard deviation of a pixel, in 0..255."""
CONTRAST = 70
"""A shape differs from the mean of its background by at least this much in one colour."""
MAX_SHARED = 0.15
"""Shapes may cover each other by no more than this share of the smaller box."""

_CHUNK = 1024

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ShapesOptions(ImageOptions):
    """`task.options` of the shapes tasks."""

    num_train: int = 1200
    """Examples to train on, val included."""
    num_test: int = 300
    """Examples to test on."""
    image_size: int = 64
    """Side in pixels; task.image_size wins."""
    max_shapes: int = 3
    """1 to so many shapes in an image."""


class Drawn(NamedTuple):
    """What is in an image."""

    boxes: NDArray[np.float32]
    """[M, 5] rows (class, cx, cy, w, h) in 0..1; class -1 fills up."""
    mask: NDArray[np.uint8]
    """[S, S] 1 + class of the shape on top, 0 the background."""


class ShapesTask(DenseTask):
    """What both share: the generator."""

    Options: ClassVar[type[ImageOptions]] = ShapesOptions
    options: ShapesOptions
    names: ClassVar[tuple[str, ...]] = SHAPES

    def __init__(self, cfg: TaskConfig) -> None:
        super().__init__(cfg)
        self.class_names = self.names

    def card(self) -> Card:
        o = self.options
        for key in ("num_train", "num_test", "max_shapes"):
            require(getattr(o, key) >= 1, f"task.options.{key} must be >= 1, got {getattr(o, key)}")
        size = self.cfg.image_size or o.image_size
        require(size >= 16, f"task.image_size must be >= 16 for shapes, got {size}")
        return Card((size, size, 3), len(self.names), o.num_train, mean=(0.5,) * 3, std=(0.25,) * 3)

    def stored(self) -> Stored:
        o = self.options
        rng = np.random.default_rng(DATA_SEED)
        return Stored(*(self._draw(count, rng) for count in (o.num_train, o.num_test)))

    def _draw(self, count: int, rng: np.random.Generator) -> Examples:
        coarse = rng.integers(85, 171, (count, 4, 4, 3)).astype(np.uint8)
        images = resize(coarse, size=self.size[0])
        drawn = [draw(image, rng=rng, max_shapes=self.options.max_shapes) for image in images]
        for start in range(0, count, _CHUNK):
            part = images[start : start + _CHUNK]
            noise = NOISE * rng.standard_normal(part.shape, np.float32)
            part[:] = np.clip(np.rint(part + noise), 0, 255)
        what = "boxes" if self.kind == "detection" else "mask"
        targets = np.stack([getattr(each, what) for each in drawn])
        order = stratified_order(self.labels(targets))
        return Examples(images[order], targets[order])


class ShapesDetection(ShapesTask, DetectionTask):
    """Find the shapes."""


class ShapesSegmentation(ShapesTask, SegmentationTask):
    """Paint the shapes."""

    names: ClassVar[tuple[str, ...]] = ("background", *SHAPES)


def draw(image: NDArray[np.uint8], *, rng: np.random.Generator, max_shapes: int) -> Drawn:
    """Draw 1 to max_shapes shapes into an image [S, S, 3], fewer where there is no room."""
    size, mean = len(image), image.mean(axis=(0, 1))
    boxes = np.zeros((max_shapes, 5), np.float32)
    boxes[:, 0] = -1
    mask = np.zeros((size, size), np.uint8)
    taken: list[NDArray[np.float64]] = []
    for _ in range(rng.integers(1, max_shapes + 1)):
        label = int(rng.integers(len(SHAPES)))
        side, ratio = rng.uniform(0.18, 0.5) * size, rng.uniform(0.75, 1.3) if label != 1 else 1.0
        extent = np.minimum(np.array([side * ratio, side / ratio]), 0.9 * size)
        corner = rng.uniform(0, size - extent)
        corners = np.concatenate([corner, corner + extent])
        if any(_covers(corners, other) > MAX_SHARED for other in taken):
            continue
        inside = OUTLINES[SHAPES[label]](size, corners)
        boxes[len(taken)] = [label, *(corner + extent / 2) / size, *extent / size]
        taken.append(corners)
        image[inside] = _colour(rng, mean)
        mask[inside] = label + 1
    return Drawn(boxes, mask)


def _colour(rng: np.random.Generator, mean: NDArray[np.float64]) -> NDArray[np.int64]:
    """[3] random, but told from the background, whose mean is never so far from both ends."""
    while True:
        colour = rng.integers(0, 256, 3)
        if np.abs(colour - mean).max() >= CONTRAST:
            return colour


def _covers(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Shared area of two boxes (x1, y1, x2, y2) over the smaller one's."""
    sides = np.clip(np.minimum(left[2:], right[2:]) - np.maximum(left[:2], right[:2]), 0, None)
    return float(sides.prod() / min((box[2:] - box[:2]).prod() for box in (left, right)))


def _grid(size: int, corners: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[S, S] x and y of pixel centres, -1..1 within the box."""
    centre, half = (corners[:2] + corners[2:]) / 2, (corners[2:] - corners[:2]) / 2
    y, x = np.mgrid[:size, :size] + 0.5
    return (x - centre[0]) / half[0], (y - centre[1]) / half[1]


def _rectangle(size: int, corners: NDArray[np.float64]) -> Bools:
    x, y = _grid(size, corners)
    return np.maximum(np.abs(x), np.abs(y)) <= 1


def _disc(size: int, corners: NDArray[np.float64]) -> Bools:
    x, y = _grid(size, corners)
    return x**2 + y**2 <= 1


def _triangle(size: int, corners: NDArray[np.float64]) -> Bools:
    """Point up, base down."""
    x, y = _grid(size, corners)
    return (np.abs(x) <= (y + 1) / 2) & (np.abs(y) <= 1)


OUTLINES = {"rectangle": _rectangle, "disc": _disc, "triangle": _triangle}
"""[S, S] which pixels a shape in a box covers."""
