import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from data_makers import idx_bytes, write_idx
from numpy.typing import NDArray

from harness.data.formats.idx import read_idx, read_idx_images
from harness.types import DataError

CUBE = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_round_trip(tmp_path: Path, end: str, dtype: type[np.generic]) -> None:
    values: NDArray[np.generic] = (CUBE.astype(dtype) * 20)[:, ::-1]
    got = read_idx(write_idx(tmp_path / f"cube{end}", values))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, values)


def test_known_bytes(tmp_path: Path) -> None:
    path = tmp_path / "pair"
    path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
    assert read_idx(path).tolist() == [7, 9]


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (b"", "not an idx file"),
        (b"\x89PNG....", "not an idx file"),
        (bytes([0, 0, 0x0D, 1, 0, 0, 0, 0]), "not an idx file"),  # floats
        (bytes([0, 0, 8, 3, 0, 0]), "inside the header"),
        (idx_bytes(CUBE)[:-1], "12 bytes, got 11"),
        (idx_bytes(CUBE) + b"x", "12 bytes, got 13"),
    ],
)
def test_damaged_file_is_named_with_the_reason(tmp_path: Path, blob: bytes, reason: str) -> None:
    path = tmp_path / "bad-idx"
    path.write_bytes(blob)
    with pytest.raises(DataError, match=reason) as error:
        read_idx(path)
    assert str(path) in str(error.value)


def test_truncated_gzip(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "cube.gz", np.random.default_rng(0).integers(0, 255, (9, 9)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cube.gz: truncated"):
        read_idx(path)
    path.write_bytes(b"plain text")
    with pytest.raises(DataError, match=r"not gzip"):
        read_idx(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_idx(tmp_path / "absent")


def test_checksum_is_of_the_packed_file(tmp_path: Path) -> None:
    path = tmp_path / "cube.gz"
    path.write_bytes(gzip.compress(idx_bytes(CUBE), mtime=0))
    good = hashlib.md5(path.read_bytes()).hexdigest()
    assert read_idx(path, md5=good).shape == (2, 2, 3)
    with pytest.raises(DataError, match=f"wrong checksum .md5 {good}, published 0000"):
        read_idx(path, md5="0000")


def test_images_and_labels(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "images", CUBE)
    labels = write_idx(tmp_path / "labels", np.array([1, 5], np.uint8))
    got = read_idx_images(images, labels, md5={}, transposed=True, first_label=1)
    assert got.inputs.shape == (2, 3, 2, 1)
    assert got.inputs[0, 2, 1, 0] == CUBE[0, 1, 2]
    assert got.targets.tolist() == [0, 4]
    assert got.targets.dtype == np.int64


def test_images_must_fit_labels(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "images", CUBE)
    three = write_idx(tmp_path / "labels", np.zeros(3, np.uint8))
    with pytest.raises(DataError, match=r"one label per image, got .3,. for 2 images"):
        read_idx_images(images, three, md5={})
    with pytest.raises(DataError, match="must hold uint8"):
        read_idx_images(three, three, md5={})
