from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.config import TaskConfig
from harness.data.task import Task
from harness.data.tasks import load_task
from harness.types import ConfigError, DataError

ARRAYS: dict[str, NDArray[np.generic]] = {
    "x_train": np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3)).astype(np.uint8),
    "y_train": np.arange(30) % 3,
    "x_test": np.zeros((6, 8, 8, 3), np.uint8),
    "y_test": np.arange(6) % 3,
}


def build(tmp_path: Path, *, options: dict[str, object] | None = None, **changes: Any) -> Task:
    arrays = {key: value for key, value in {**ARRAYS, **changes}.items() if value is not None}
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return load_task(TaskConfig(name="npz", path=str(path), options=options or {}))


def test_colour_images(tmp_path: Path) -> None:
    task = build(tmp_path)
    assert (task.input_shape, task.num_classes, task.num_train) == ((3, 8, 8), 3, 30)
    splits = task.load()
    assert (len(splits.train), len(splits.val), len(splits.test)) == (27, 3, 6)
    assert splits.train.writers is None
    assert task.to_inputs(np.full((1, 8, 8, 3), 255, np.uint8)).unique().tolist() == [1.0]


def test_grey_images_writers_and_options(tmp_path: Path) -> None:
    grey: dict[str, Any] = {key: ARRAYS[key][..., 0] for key in ("x_train", "x_test")}
    options = {"num_classes": 7, "mean": 0.25, "std": [0.5]}
    task = build(tmp_path, options=options, writer_train=np.arange(30) % 4, **grey)
    assert (task.input_shape, task.num_classes) == ((1, 8, 8), 7)
    assert task.to_inputs(np.full((1, 8, 8, 1), 255, np.uint8)).unique().tolist() == [1.5]
    writers = task.load().train.writers
    assert writers is not None
    assert set(writers.tolist()) == {0, 1, 2, 3}


def test_another_file_is_another_cache_entry(tmp_path: Path) -> None:
    assert len(build(tmp_path).load().test) == 6
    twice: dict[str, Any] = {key: np.concatenate([ARRAYS[key]] * 2) for key in ("x_test", "y_test")}
    assert len(build(tmp_path, **twice).load().test) == 12


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"x_train": None}, "holds no x_train"),
        ({"y_train": None}, "holds no y_train"),
        ({"y_test": None}, "holds no y_test"),
        ({"x_train": ARRAYS["x_train"].astype(np.float32)}, "x_train must be uint8, got float32"),
        ({"x_train": ARRAYS["x_train"].reshape(30, -1)}, r"x_train must be \[N, H, W\]"),
        ({"x_test": ARRAYS["x_test"][:, :7]}, r"\(test\): images must be uint8 \[N, 8, 8, 3\]"),
        ({"y_train": np.zeros(30)}, r"y_train must be integers \[N\], got float64"),
        ({"y_train": np.zeros((30, 1), int)}, r"y_train must be integers \[N\], got int64 \(30, 1\)"),
        ({"y_train": np.arange(29) % 3}, r"one label per image, got \(29,\) for 30"),
        ({"y_train": np.zeros(0, int)}, "y_train is empty"),
        ({"y_train": np.arange(30) % 3 - 1}, r"labels must lie in 0\.\.1, got -1"),
        ({"y_test": np.full(6, 3)}, r"\(test\): labels must lie in 0\.\.2, got 3"),
        ({"writer_train": np.zeros(29, int)}, "one writer per image"),
        ({"writer_train": np.zeros(30)}, "writer_train must be integers"),
        ({"y_test": np.array([{}] * 6, object)}, "truncated or not an .npz of plain arrays"),
    ],
)
def test_bad_arrays(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason) as error:
        build(tmp_path, **changes).load()
    assert "mine.npz" in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    cfg = TaskConfig(name="npz", path=str(path))
    with pytest.raises(DataError, match=r"mine\.npz: no such file"):
        load_task(cfg)
    for blob in (b"", b"text"):
        path.write_bytes(blob)
        with pytest.raises(DataError, match=r"mine\.npz: truncated or not an \.npz"):
            load_task(cfg)
    build(tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"mine\.npz: truncated"):
        load_task(cfg)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="a single array"):
        load_task(cfg)


def test_bad_constants(tmp_path: Path) -> None:
    for options, reason in (
        ({"mean": [0.1, 0.2]}, "task.options.mean must hold 1 or 3 numbers, got 2"),
        ({"std": 0.0}, "task.options.std must be > 0"),
        ({"std": ["a"]}, "task.options.std must hold numbers"),
    ):
        with pytest.raises(ConfigError, match=reason):
            build(tmp_path, options=options)  # type: ignore[arg-type]
