"""Detection and segmentation of photographs in the layout of PASCAL VOC, whoever made them.

Everingham et al., "The PASCAL Visual Object Classes (VOC) challenge", IJCV 2010. Training examples are those
of train.txt and val.txt, testing ones those of test.txt; without a test.txt (VOC2012) those of train.txt and
of val.txt. val is held out of training, as for every task.

Photographs are scaled to squares, their sides on their own. Boxes are kept in 0..1 of the image, and an
overlap of two boxes does not change when a side is scaled: mAP is that of the photographs as they were.
Segmentation is scored at the scaled size.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from harness.config import TaskConfig, require
from harness.data import cache
from harness.data.formats.voc import (
    CLASSES,
    find_image,
    image_size,
    read_boxes,
    read_image,
    read_list,
    read_mask,
)
from harness.data.splits import Stored, stratified_order
from harness.data.task import Examples
from harness.data.tasks.dense import DenseTask, DetectionTask, SegmentationTask
from harness.data.tasks.files import data_dir
from harness.data.tasks.images import Card, ImageOptions
from harness.types import DataError

DEFAULT_SIZE = 416
"""Side in pixels (Redmon and Farhadi, "YOLOv3: an incremental improvement", 2018)."""
KNOWN_CLASSES = {"VOC2007": CLASSES, "VOC2012": CLASSES, "BCCD": ("RBC", "WBC", "Platelets")}
KNOWN_SIZES = {
    ("VOC2007", "Main"): 5011,
    ("VOC2007", "Segmentation"): 422,
    ("VOC2012", "Main"): 5717,
    ("VOC2012", "Segmentation"): 1464,
    ("BCCD", "Main"): 292,
}
"""Training examples of (data set, folder of lists), for `describe`."""


@dataclass(frozen=True, slots=True)
class VocOptions(ImageOptions):
    """`task.options` of the VOC tasks."""

    dataset: str = "VOC2012"
    """Folder under HARNESS_DATA_DIR/VOCdevkit or HARNESS_DATA_DIR; a folder in `task.path` wins."""
    classes: tuple[str, ...] = ("auto",)
    """Names of the objects, in order; `auto`: those of VOC2007, VOC2012 or BCCD."""
    train: str = "auto"
    """Lists to train on, joined by +, such as train+val."""
    test: str = "auto"
    """Lists to test on."""
    allow_empty: bool = False
    """Take an image whose XML holds no object as one of background; else it is an error."""


class Photographs:
    """Image files as rows: read and scaled when they are asked for, so that they are never all in memory."""

    def __init__(self, paths: Sequence[Path], *, size: int) -> None:
        self.paths = list(paths)
        self.size = size
        self.shape = (len(self.paths), size, size, 3)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([read_image(self.paths[row], size=self.size) for row in rows])


class VocTask(DenseTask):
    """What both share: folders, lists, the cache."""

    Options: ClassVar[type[ImageOptions]] = VocOptions
    options: VocOptions
    lists: ClassVar[str]
    """Folder of the lists inside ImageSets."""
    background: ClassVar[tuple[str, ...]] = ()
    """Classes that stand before those of the objects."""

    def __init__(self, cfg: TaskConfig) -> None:
        """Raises ConfigError for a data set whose classes are not known."""
        super().__init__(cfg)
        self.class_names = (*self.background, *self.objects())

    def objects(self) -> tuple[str, ...]:
        """Names of the objects."""
        o = self.options
        if o.classes != ("auto",):
            require(
                len(set(o.classes)) == len(o.classes) > 0,
                f"task.options.classes must be different names, at least one, got {list(o.classes)}",
            )
            return o.classes
        require(
            o.dataset in KNOWN_CLASSES,
            f"task.options.classes must name the objects of {o.dataset}; only those of "
            f"{', '.join(KNOWN_CLASSES)} are known",
        )
        return KNOWN_CLASSES[o.dataset]

    def card(self) -> Card:
        size = self.cfg.image_size or DEFAULT_SIZE
        # Of ImageNet, as is usual for photographs.
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        num_train = KNOWN_SIZES.get((self.options.dataset, self.lists), 0)
        num_classes = len(self.background) + len(self.objects())
        return Card((size, size, 3), num_classes, num_train, mean=mean, std=std)

    @abstractmethod
    def annotation(self, root: Path, name: str) -> Path:
        """The file that says what is in an image."""

    @abstractmethod
    def read_targets(self, files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> NDArray[Any]:
        """[N, ...] from annotations, given each image's (W, H). Raises DataError."""

    def where(self) -> str | None:
        """Where the data was found, in words; None where it was not."""
        root = self.root()
        return str(root) if root else None

    def root(self) -> Path | None:
        """The folder with ImageSets in it."""
        name, data = self.options.dataset, data_dir()
        if self.cfg.path is not None:
            return Path(self.cfg.path).expanduser()
        found = [] if data is None else [data / "VOCdevkit" / name, data / name]
        return next((folder for folder in found if (folder / "ImageSets").is_dir()), None)

    def stored(self) -> Stored:
        """The mapped cache entry, made from the files where it is missing. Raises DataError."""
        root = self.root()
        if root is None:
            raise DataError(
                f"task {self.cfg.name}: no data found; looked for VOCdevkit/{self.options.dataset}/ImageSets "
                f"in HARNESS_DATA_DIR ({data_dir() or 'not set'}); set it, or task.path to such a folder"
            )
        sides = self._sides(root / "ImageSets" / self.lists)
        files = [f for names in sides for n in names for f in (find_image(root, n), self.annotation(root, n))]
        for file in files:
            if not file.is_file():
                raise DataError(f"{file}: not there, but its image is listed")
        settings = (
            f"{self.cfg.name} {self.size[0]}px {self.class_names} {self.options} {list(map(len, sides))}"
        )
        entry = cache.cache_dir() / self.cfg.name / cache.fingerprint(files, settings=settings)
        if not entry.is_dir():
            cache.write(entry, Stored(*(self._read(root, names) for names in sides)), ordered=True)
        return cache.read(entry)

    def _sides(self, folder: Path) -> tuple[list[str], list[str]]:
        """Names to train and to test on. Raises DataError."""
        has_test = (folder / "test.txt").is_file()
        train = self.options.train if self.options.train != "auto" else "train+val" if has_test else "train"
        test = self.options.test if self.options.test != "auto" else "test" if has_test else "val"
        sides = [
            [n for each in side.split("+") for n in read_list(folder / f"{each}.txt")]
            for side in (train, test)
        ]
        both = sorted(set(sides[0]) & set(sides[1]))
        if both or len(set(sides[0])) < len(sides[0]):
            name = both[0] if both else next(n for n in sides[0] if sides[0].count(n) > 1)
            raise DataError(f"{folder}: {name} stands in more than one of the lists {train} and {test}")
        return sides[0], sides[1]

    def _read(self, root: Path, names: Sequence[str]) -> Examples:
        """Rows in `stratified_order`; the images are read while they are written."""
        paths = [find_image(root, name) for name in names]
        sizes = [image_size(path) for path in paths]
        targets = self.read_targets([self.annotation(root, name) for name in names], sizes)
        order = stratified_order(self.labels(targets))
        images = Photographs([paths[row] for row in order], size=self.size[0])
        return Examples(cast(NDArray[np.uint8], images), targets[order])


class VocDetection(VocTask, DetectionTask):
    """Boxes from Annotations/*.xml."""

    lists: ClassVar[str] = "Main"

    def annotation(self, root: Path, name: str) -> Path:
        return root / "Annotations" / f"{name}.xml"

    def read_targets(self, files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        found = [
            read_boxes(file, classes=self.class_names, image_size=size, allow_empty=self.options.allow_empty)
            for file, size in zip(files, sizes, strict=True)
        ]
        targets = np.zeros((len(found), max(1, *map(len, found)), 5), np.float32)
        targets[..., 0] = -1
        for row, boxes in zip(targets, found, strict=True):
            row[: len(boxes)] = boxes
        return targets


class VocSegmentation(VocTask, SegmentationTask):
    """Palette images from SegmentationClass/*.png."""

    lists: ClassVar[str] = "Segmentation"
    background: ClassVar[tuple[str, ...]] = ("background",)

    def annotation(self, root: Path, name: str) -> Path:
        return root / "SegmentationClass" / f"{name}.png"

    def read_targets(self, files: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> NDArray[np.uint8]:
        return np.stack(
            [
                read_mask(file, size=self.size[0], image_size=size, num_classes=self.num_classes)
                for file, size in zip(files, sizes, strict=True)
            ]
        )
