import bz2
import gzip
import hashlib
import io
import lzma
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_makers import cifar_batch

from harness.data.formats.cifar import read_cifar
from harness.data.task import Examples
from harness.types import DataError

ROWS = np.random.default_rng(0).integers(0, 256, (3, 3072)).astype(np.uint8)


def read(source: Path, md5: dict[str, str] | None = None) -> tuple[Examples, Examples]:
    return read_cifar(source, train=("b1", "b2"), test=("t",), label_key="labels", md5=md5 or {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "batches"
    root.mkdir()
    (root / "b1").write_bytes(cifar_batch(ROWS[:2], [3, 1]))
    (root / "b2").write_bytes(cifar_batch(ROWS[2:], [9]))
    (root / "t").write_bytes(cifar_batch(ROWS[:1], [3]))
    return root


def pack(folder: Path, target: Path, squeeze: Callable[[bytes], bytes]) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("t", "b2", "b1"):  # not in reading order
            tar.add(folder / name, f"inside/{name}")
    target.write_bytes(squeeze(buffer.getvalue()))
    return target


def test_planes_become_pixels(folder: Path) -> None:
    train, test = read(folder)
    assert train.inputs.shape == (3, 32, 32, 3)
    assert train.targets.tolist() == [3, 1, 9]
    # Published layout: 1024 red, 1024 green, 1024 blue values, row after row.
    assert train.inputs[1, 4, 7].tolist() == [ROWS[1, plane * 1024 + 4 * 32 + 7] for plane in range(3)]
    assert test.targets.tolist() == [3]


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_tar_of_any_compression(folder: Path, tmp_path: Path, squeeze: Callable[[bytes], bytes]) -> None:
    packed = read(pack(folder, tmp_path / "all.tar.any", squeeze))
    for got, want in zip(packed, read(folder), strict=True):
        np.testing.assert_array_equal(got.inputs, want.inputs)
        np.testing.assert_array_equal(got.targets, want.targets)


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_truncated_tar(folder: Path, tmp_path: Path, squeeze: Callable[[bytes], bytes]) -> None:
    path = pack(folder, tmp_path / "all.tar.any", squeeze)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"all\.tar\.any"):
        read(path)


def test_not_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "page.tar.gz"
    path.write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"page\.tar\.gz: truncated or not a tar"):
        read(path)


def test_missing_batch(folder: Path) -> None:
    (folder / "b2").unlink()
    with pytest.raises(DataError, match="holds no batch named b2"):
        read(folder)


def test_checksum(folder: Path) -> None:
    good = hashlib.md5((folder / "b1").read_bytes()).hexdigest()
    assert len(read(folder, {"b1": good})[0]) == 3
    with pytest.raises(DataError, match="b1: wrong checksum"):
        read(folder, {"b1": "0" * 32})


class Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_that_runs_code_is_refused(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (folder / "b1").write_bytes(pickle.dumps({"data": Attack(mark), "labels": []}))
    with pytest.raises(DataError, match=r"b1: not a CIFAR batch .asks for"):
        read(folder)
    assert not mark.exists()
    pickle.loads((folder / "b1").read_bytes())
    assert mark.exists()  # it would have run


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (b"", "not a CIFAR batch"),
        (cifar_batch(ROWS, [1, 2, 3])[:-300], "not a CIFAR batch"),
        (pickle.dumps([1, 2]), "not a CIFAR batch"),
        (pickle.dumps({b"labels": [1]}), "holds no 'data'"),
        (cifar_batch(ROWS, [1, 2, 3], "other"), "holds no 'labels'"),
        (cifar_batch(ROWS[:, :100], [1, 2, 3]), r"must be uint8 \[N, 3072\], got uint8 \(3, 100\)"),
        (pickle.dumps({"data": ROWS.astype(np.float32), "labels": [1, 2, 3]}, 2), "got float32"),
        (pickle.dumps({"data": [1], "labels": [1]}), "got list"),
    ],
)
def test_damaged_batch(folder: Path, blob: bytes, reason: str) -> None:
    (folder / "b1").write_bytes(blob)
    with pytest.raises(DataError, match=reason) as error:
        read(folder)
    assert str(folder / "b1") in str(error.value)
