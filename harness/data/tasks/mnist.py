"""MNIST, MNIST by writer, and Fashion-MNIST: four idx files each.

LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist; Xiao, Rasul, Vollgraf, arXiv:1708.07747.
Writers of MNIST's images: Yadav and Bottou, "Cold case: the lost MNIST digits", NeurIPS 2019 (QMNIST).
"""

import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.data.formats.idx import read_idx, read_idx_images
from harness.data.splits import Stored
from harness.data.task import Examples
from harness.data.tasks.files import FileTask, Hub, Source
from harness.data.tasks.images import Card
from harness.types import DataError

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class Mnist(FileTask):
    """Handwritten digits, 28x28."""

    wanted: ClassVar[str] = "mnist/MNIST/raw/train-images-idx3-ubyte[.gz] and its three companions"
    hub: ClassVar[Hub | None] = Hub("ylecun/mnist", folder="mnist")
    folders: ClassVar[tuple[str, ...]] = ("mnist/MNIST/raw", "MNIST/raw", "mnist/raw", "mnist")
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }
    """As published with the original files."""

    def card(self) -> Card:
        return Card((28, 28, 1), 10, 60_000, mean=(0.1307,), std=(0.3081,))

    def find(self, root: Path) -> Source | None:
        for folder in self.folders:
            paths = [_either(root / folder / name) for name in _FILES]
            found = tuple(path for path in paths if path is not None)
            if len(found) == len(_FILES):
                return Source(found, lambda files=found: self._read(files))  # type: ignore[misc]
        return None

    def _read(self, files: tuple[Path, ...]) -> Stored:
        return Stored(
            train=read_idx_images(files[0], files[1], md5=self.md5),
            test=read_idx_images(files[2], files[3], md5=self.md5),
        )


class FashionMnist(Mnist):
    """Articles of clothing, 28x28, in MNIST's format."""

    wanted: ClassVar[str] = "fashion_mnist/train-images-idx3-ubyte[.gz] and its three companions"
    hub: ClassVar[Hub | None] = Hub("zalando-datasets/fashion_mnist", folder="fashion_mnist")
    folders: ClassVar[tuple[str, ...]] = (
        "fashion_mnist/FashionMNIST/raw",
        "FashionMNIST/raw",
        "fashion_mnist/raw",
        "fashion_mnist",
    )
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }
    """As published in the data set's repository."""

    def card(self) -> Card:
        return Card((28, 28, 1), 10, 60_000, mean=(0.2860,), std=(0.3530,))


class MnistWriters(Mnist):
    """MNIST with the writer of every training image: a natural non-IID partition."""

    wanted: ClassVar[str] = (
        "MNIST's four idx files, with mnist/mnist_writers.npz "
        "or mnist/QMNIST/raw/qmnist-train-labels-idx2-int[.gz]"
    )
    # The hub's MNIST does not say who wrote what.
    hub: ClassVar[Hub | None] = None

    def find(self, root: Path) -> Source | None:
        images = super().find(root)
        writers = next((path for path in _writer_files(root) if path.is_file()), None)
        if images is None or writers is None:
            return None
        return Source((*images.files, writers), lambda: self._with_writers(images.read(), writers))

    def _with_writers(self, stored: Stored, path: Path) -> Stored:
        ids = _read_writers(path)
        if ids.shape != stored.train.targets.shape:
            raise DataError(
                f"{path}: needs one writer per image, got {ids.shape} for {len(stored.train)} images"
            )
        # Ids in the file have gaps; a writer is a number from 0, and below 0 stays unknown.
        known = np.unique(ids[ids >= 0])
        writers = np.where(ids >= 0, np.searchsorted(known, ids), -1).astype(np.int64)
        return Stored(Examples(stored.train.inputs, stored.train.targets, writers), stored.test)


def _either(path: Path) -> Path | None:
    """`path`, packed or not."""
    for candidate in (path.with_name(f"{path.name}.gz"), path):
        if candidate.is_file():
            return candidate
    return None


def _writer_files(root: Path) -> list[Path]:
    labels = [f"{folder}QMNIST/raw/qmnist-train-labels-idx2-int" for folder in ("mnist/", "")]
    return [
        root / "mnist/mnist_writers.npz",
        *(root / f"{name}{end}" for name in labels for end in (".gz", "")),
    ]


def _read_writers(path: Path) -> NDArray[np.int64]:
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as archive:
                return np.asarray(archive["train_writer"], np.int64)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: must hold `train_writer` ({error})") from None
    table = read_idx(path)
    if table.ndim != 2 or table.shape[1] < 3:
        raise DataError(f"{path}: must hold QMNIST's label rows, got {table.shape}")
    return table[:, 2].astype(np.int64)
