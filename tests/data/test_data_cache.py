import os
from pathlib import Path

import numpy as np
import pytest

from harness.data import cache
from harness.data.resize import resize
from harness.data.splits import Stored, stratified_order
from harness.data.task import Examples
from harness.types import DataError


def sample(count: int = 50) -> Stored:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
    labels = np.arange(count) % 5
    return Stored(Examples(images, labels, np.arange(count)), Examples(images[:10], labels[:10]))


def test_an_entry_holds_the_rows_in_stratified_order(tmp_path: Path) -> None:
    data, entry = sample(), tmp_path / "task" / "entry"
    cache.write(entry, data)
    got = cache.read(entry)
    order = stratified_order(data.train.targets)
    np.testing.assert_array_equal(got.train.inputs, data.train.inputs[order])
    np.testing.assert_array_equal(got.train.targets, data.train.targets[order])
    assert got.train.writers is not None
    np.testing.assert_array_equal(got.train.writers, order)
    assert got.test.writers is None
    assert [path.name for path in entry.parent.iterdir()] == ["entry"]  # no temporary folder stays


def test_arrays_are_mapped_and_read_only(tmp_path: Path) -> None:
    cache.write(tmp_path / "entry", sample())
    inputs = cache.read(tmp_path / "entry").train.inputs
    assert isinstance(inputs.base, np.memmap)
    assert not inputs.flags.writeable


def test_rows_are_written_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_CHUNK", 7)
    cache.write(tmp_path / "small", sample())
    monkeypatch.setattr(cache, "_CHUNK", 1000)
    cache.write(tmp_path / "whole", sample())
    np.testing.assert_array_equal(
        cache.read(tmp_path / "small").train.inputs, cache.read(tmp_path / "whole").train.inputs
    )


def test_the_first_of_two_writers_wins(tmp_path: Path) -> None:
    cache.write(tmp_path / "entry", sample(50))
    cache.write(tmp_path / "entry", sample(60))
    assert len(cache.read(tmp_path / "entry").train) == 50
    assert len(list(tmp_path.iterdir())) == 1


def test_replace_drops_derived_sizes(tmp_path: Path) -> None:
    entry = tmp_path / "prepared"
    cache.replace(entry, sample(50))
    assert cache.read(cache.sized(entry, 8)).train.inputs.shape == (50, 8, 8, 3)
    cache.replace(entry, sample(60))
    assert cache.read(cache.sized(entry, 8)).train.inputs.shape == (60, 8, 8, 3)


def test_sized_keeps_order_and_labels(tmp_path: Path) -> None:
    entry = tmp_path / "entry"
    cache.write(entry, sample())
    base, small = cache.read(entry), cache.read(cache.sized(entry, 2))
    np.testing.assert_array_equal(small.train.inputs, resize(base.train.inputs, size=2))
    np.testing.assert_array_equal(small.train.targets, base.train.targets)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    bad = Stored(sample().train, Examples(np.zeros((3, 4, 4, 3), np.uint8), np.zeros(9, np.int64)))
    with pytest.raises(IndexError):
        cache.write(tmp_path / "entry", bad)
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_unwritable_caches_are_named(tmp_path: Path) -> None:
    cache.write(tmp_path / "entry", sample())
    path = tmp_path / "entry" / "train_inputs.npy"
    os.truncate(path, 200)
    with pytest.raises(DataError, match=r"train_inputs\.npy: damaged cache .*; delete .*entry"):
        cache.read(tmp_path / "entry")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written .*; set HARNESS_CACHE_DIR"):
        cache.write(tmp_path / "file" / "entry", sample())


def test_fingerprint_follows_name_size_and_time(tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_text("abc")
    os.utime(path, ns=(1, 1))
    first = cache.fingerprint([path])
    assert cache.fingerprint([path]) == first
    os.utime(path, ns=(2, 2))
    second = cache.fingerprint([path])
    path.write_text("abcd")
    os.utime(path, ns=(1, 1))
    third = cache.fingerprint([path])
    path.write_text("abc")
    renamed = path.rename(tmp_path / "other")
    os.utime(renamed, ns=(1, 1))
    assert len({first, second, third, cache.fingerprint([renamed])}) == 4


def test_fingerprint_of_a_folder_counts_entries(tmp_path: Path) -> None:
    before = cache.fingerprint([tmp_path])
    (tmp_path / "new").write_text("")
    assert cache.fingerprint([tmp_path]) != before


def test_resize_by_hand() -> None:
    image = np.array([[0, 100], [200, 60]], np.uint8).reshape(1, 2, 2, 1)
    assert resize(image, size=1).item() == 90
    row = resize(image, size=4)[0, 0, :, 0]
    assert row.tolist() == [0, 25, 75, 100]  # bilinear at -1/4, 1/4, 3/4, 5/4 between two pixels
    flat = np.full((2, 5, 5, 3), 77, np.uint8)
    assert (resize(flat, size=9) == 77).all()
