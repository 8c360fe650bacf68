"""CINIC-10: CIFAR-10's classes from CIFAR and ImageNet (Darlow et al., arXiv:1810.03505).

Training uses its train folder and testing its test folder. Its valid folder stays unread: val is held out
of train, as for every task.
"""

from pathlib import Path
from typing import ClassVar

from harness.data.formats.folders import read_folder
from harness.data.splits import Stored
from harness.data.tasks.files import FileTask, Hub, Source
from harness.data.tasks.images import Card

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Cinic10(FileTask):
    """Ten kinds of objects, 32x32 colour, 90,000 to train on."""

    wanted: ClassVar[str] = "cinic10/{train,test}/<class>/*.png"
    hub: ClassVar[Hub | None] = Hub("flwrlabs/cinic10")

    def card(self) -> Card:
        # As published with the data set.
        mean, std = (0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835)
        return Card((32, 32, 3), 10, 90_000, mean=mean, std=std)

    def find(self, root: Path) -> Source | None:
        for name in ("cinic10", "CINIC-10", "cinic-10"):
            if (root / name / "train").is_dir() and (root / name / "test").is_dir():
                return _source(root / name)
        return None


def _source(root: Path) -> Source:
    sides = (root / "train", root / "test")
    # Folders, not 180,000 files: the fingerprint sees files come and go, not edits in place.
    folders = tuple(side / label for side in sides for label in _CLASSES)
    present = tuple(folder for folder in folders if folder.is_dir())
    return Source(
        present or sides, lambda: Stored(*(read_folder(side, classes=_CLASSES, side=32) for side in sides))
    )
