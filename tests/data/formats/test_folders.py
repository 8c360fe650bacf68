from pathlib import Path

import numpy as np
import pytest
from data_makers import write_png

from harness.data.formats.folders import read_folder
from harness.types import DataError


def test_classes_in_order_and_grey_becomes_colour(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    write_png(tmp_path / "cat/b.png", pixels)
    write_png(tmp_path / "cat/a.png", np.full((2, 2), 9, np.uint8))
    write_png(tmp_path / "ant/z.png", pixels + 100)
    got = read_folder(tmp_path, classes=("ant", "cat"), side=2)
    assert got.targets.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(got.inputs[0], pixels + 100)
    np.testing.assert_array_equal(got.inputs[1], np.full((2, 2, 3), 9))
    np.testing.assert_array_equal(got.inputs[2], pixels)


def test_errors_name_the_file(tmp_path: Path) -> None:
    image = write_png(tmp_path / "cat/a.png", np.zeros((2, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.png: must be 2x2, got 3x2"):
        read_folder(tmp_path, classes=("cat",), side=2)
    image.write_bytes(image.read_bytes()[:40])
    with pytest.raises(DataError, match=r"a\.png: truncated or not a png"):
        read_folder(tmp_path, classes=("cat",), side=2)
    with pytest.raises(DataError, match=r"dog: holds no \.png"):
        read_folder(tmp_path, classes=("dog",), side=2)
