"""CIFAR-10 and CIFAR-100: Krizhevsky, "Learning multiple layers of features from tiny images", 2009."""

from pathlib import Path
from typing import ClassVar

from harness.data.formats.cifar import read_cifar
from harness.data.splits import Stored
from harness.data.tasks.files import FileTask, Hub, Source, first_dir_with
from harness.data.tasks.images import Card

_ARCHIVES = (".tar.gz", ".tar.xz", ".tar.bz2", ".tar", ".tgz")


class Cifar10(FileTask):
    """Ten kinds of objects, 32x32 colour."""

    wanted: ClassVar[str] = "cifar-10-batches-py/data_batch_1 ... or cifar-10-python.tar[.gz|.xz|.bz2]"
    hub: ClassVar[Hub | None] = Hub("uoft-cs/cifar10", image="img", folder="plain_text")
    stem: ClassVar[str] = "cifar-10"
    train: ClassVar[tuple[str, ...]] = tuple(f"data_batch_{number}" for number in range(1, 6))
    test: ClassVar[tuple[str, ...]] = ("test_batch",)
    label_key: ClassVar[str] = "labels"
    md5: ClassVar[dict[str, str]] = {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    }
    """Of the batches, whatever archive they travel in."""

    def card(self) -> Card:
        mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
        return Card((32, 32, 3), 10, 50_000, mean=mean, std=std)

    def find(self, root: Path) -> Source | None:
        places = ("", self.data_name)
        batches = (*self.train, *self.test)
        folders = tuple(f"{place}/{self._folder}".lstrip("/") for place in places)
        loose = first_dir_with(root, folders, batches)
        if loose is not None:
            return Source(tuple(loose / name for name in batches), lambda: self._read(loose))
        for place in places:
            for end in _ARCHIVES:
                tar = root / place / f"{self.stem}-python{end}"
                if tar.is_file():
                    return Source((tar,), lambda tar=tar: self._read(tar))  # type: ignore[misc]
        return None

    @property
    def _folder(self) -> str:
        return f"{self.stem}-batches-py"

    def _read(self, source: Path) -> Stored:
        pair = read_cifar(source, train=self.train, test=self.test, label_key=self.label_key, md5=self.md5)
        return Stored(*pair)


class Cifar100(Cifar10):
    """A hundred kinds of objects (the fine labels), 32x32 colour."""

    wanted: ClassVar[str] = "cifar-100-python/train ... or cifar-100-python.tar[.gz|.xz|.bz2]"
    hub: ClassVar[Hub | None] = Hub("uoft-cs/cifar100", image="img", label="fine_label", folder="cifar100")
    stem: ClassVar[str] = "cifar-100"
    train: ClassVar[tuple[str, ...]] = ("train",)
    test: ClassVar[tuple[str, ...]] = ("test",)
    label_key: ClassVar[str] = "fine_labels"
    md5: ClassVar[dict[str, str]] = {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    }

    def card(self) -> Card:
        mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
        return Card((32, 32, 3), 100, 50_000, mean=mean, std=std)

    @property
    def _folder(self) -> str:
        return f"{self.stem}-python"
