from pathlib import Path

import numpy as np
import pytest
from data_makers import write_leaf

from harness.data.formats.leaf import read_leaf
from harness.types import DataError


def test_users_pixels_and_labels(tmp_path: Path) -> None:
    one = write_leaf(tmp_path / "a.json", {"zoe": ([[0, 0.2, 0.4, 1]], [5])})
    two = write_leaf(
        tmp_path / "b.json", {"adam": ([[1, 1, 1, 1], [0, 0, 0, 0]], [1, 2]), "zoe": ([[0] * 4], [3])}
    )
    got, names = read_leaf([one, two], side=2)
    assert names == ["adam", "zoe"]
    assert got.inputs.dtype == np.uint8
    assert got.inputs[0, :, :, 0].tolist() == [[0, 51], [102, 255]]
    assert got.targets.tolist() == [5, 1, 2, 3]
    assert got.writers is not None
    assert got.writers.tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([[0, 0, 0]], [1], r"must be \[N, 4\], got \(1, 3\)"),
        ([[0, 0, 0, 0], [0]], [1, 2], "must be lists of 4 numbers"),
        ([[0, 0, 0, 2]], [1], r"must lie in \[0, 1\]"),
        ([[0, 0, 0, None]], [1], "pixels|numbers"),
        ([[0, 0, 0, 0]], [1, 2], "one label per image"),
        ([[0, 0, 0, 0]], ["q"], "y must be integers"),
    ],
)
def test_wrong_values(tmp_path: Path, x: object, y: object, reason: str) -> None:
    path = write_leaf(tmp_path / "bad.json", {"ann": (x, y)})
    with pytest.raises(DataError, match=reason) as error:
        read_leaf([path], side=2)
    assert "bad.json, user ann" in str(error.value)


@pytest.mark.parametrize("text", ["", '{"users": ["a"]', '{"users": ["a"], "user_data": {}}', "[1]"])
def test_damaged_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"bad\.json: truncated or not LEAF"):
        read_leaf([path], side=2)


def test_no_users(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no user"):
        read_leaf([write_leaf(tmp_path / "empty.json", {})], side=2)
