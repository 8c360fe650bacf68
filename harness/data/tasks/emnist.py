"""EMNIST: Cohen, Afshar, Tapson, van Schaik, arXiv:1702.05373. Its idx files hold images column by column."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness.config import nearest, require
from harness.data.formats.idx import read_idx_images
from harness.data.splits import Stored
from harness.data.tasks.files import FileTask, Source, first_dir_with
from harness.data.tasks.images import Card, ImageOptions

_SPLITS = {
    "byclass": (62, 697_932),
    "bymerge": (47, 697_932),
    "balanced": (47, 112_800),
    "letters": (26, 124_800),
    "digits": (10, 240_000),
    "mnist": (10, 60_000),
}
"""Classes and training images (table II of the paper)."""


@dataclass(frozen=True, slots=True)
class EmnistOptions(ImageOptions):
    """`task.options` of emnist."""

    split: str = "byclass"
    """byclass, bymerge, balanced, letters, digits or mnist."""


class Emnist(FileTask):
    """Handwritten digits and letters, 28x28, upright."""

    Options: ClassVar[type[ImageOptions]] = EmnistOptions
    options: EmnistOptions
    wanted: ClassVar[str] = "emnist/emnist-<split>-{train,test}-{images-idx3,labels-idx1}-ubyte.gz"
    folders: ClassVar[tuple[str, ...]] = (
        "emnist",
        "emnist/gzip",
        "emnist/raw",
        "EMNIST/raw",
        "emnist/EMNIST/raw",
    )

    @property
    def data_name(self) -> str:
        return f"{self.cfg.name}-{self.options.split}"

    @property
    def hub_files_repo(self) -> str:
        """Data set on the Hugging Face hub that holds the original idx files of this split."""
        return f"Royc30ne/emnist-{self.options.split}"

    @property
    def file_names(self) -> tuple[str, ...]:
        """The split's four idx files: train images, train labels, test images, test labels."""
        parts = (f"{side}-{kind}" for side in ("train", "test") for kind in ("images-idx3", "labels-idx1"))
        return tuple(f"emnist-{self.options.split}-{part}-ubyte.gz" for part in parts)

    def card(self) -> Card:
        split = self.options.split
        require(
            split in _SPLITS, f"task.options.split: unknown split {split!r}{nearest(split, list(_SPLITS))}"
        )
        num_classes, num_train = _SPLITS[split]
        # Mean and deviation of the byclass training pixels, used for every split.
        return Card((28, 28, 1), num_classes, num_train, mean=(0.1736,), std=(0.3317,))

    def find(self, root: Path) -> Source | None:
        folder = first_dir_with(root, self.folders, self.file_names)
        return None if folder is None else self.files_in(folder)

    def files_in(self, folder: Path) -> Source:
        """The split's four files in `folder`."""
        files = tuple(folder / name for name in self.file_names)
        return Source(files, lambda: self._read(files))

    def _read(self, files: tuple[Path, ...]) -> Stored:
        # Letters count from 1.
        first = 1 if self.options.split == "letters" else 0
        sides = (
            read_idx_images(images, labels, md5={}, transposed=True, first_label=first)
            for images, labels in (files[:2], files[2:])
        )
        return Stored(*sides)
