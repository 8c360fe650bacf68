import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import TaskConfig
from harness.data.splits import Stored, hold_out, stratified_order
from harness.data.task import Examples, Splits
from harness.types import ConfigError


def stored(num_train: int, num_test: int) -> Stored:
    """Row i holds the pixel value i % 256; ten classes."""
    sides = []
    for count in (num_train, num_test):
        values = np.arange(count)
        images = np.broadcast_to((values % 256).astype(np.uint8)[:, None, None, None], (count, 2, 2, 1))
        sides.append(Examples(images, values % 10, values))
    return Stored(*sides)


def sizes(splits: Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.val), len(splits.test)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200).map(np.asarray))
def test_every_prefix_has_the_classes_in_proportion(labels: np.ndarray) -> None:
    order = stratified_order(labels)
    assert sorted(order) == list(range(len(labels)))
    share = np.bincount(labels, minlength=5) / len(labels)
    taken = np.cumsum(np.eye(5)[labels[order]], axis=0)
    # Each class is within half a row of its line; the prefix's length is off by at most half a row per class.
    assert np.abs(taken - np.arange(1, len(labels) + 1)[:, None] * share).max() <= 3


def test_equal_classes_are_cut_exactly_and_in_random_order() -> None:
    labels = np.repeat(np.arange(4), 25)
    order = stratified_order(labels)
    for stop in range(4, 100, 4):
        assert np.bincount(labels[order[:stop]]).tolist() == [stop // 4] * 4
    assert len({tuple(labels[order[i : i + 4]]) for i in range(0, 100, 4)}) > 5
    np.testing.assert_array_equal(order, stratified_order(labels))


def test_val_is_held_out_of_train_without_a_copy() -> None:
    data = stored(100, 20)
    splits = hold_out(data, cfg=TaskConfig(val_fraction=0.2), val_from="train")
    assert sizes(splits) == (80, 20, 20)
    assert splits.val.writers is not None
    assert splits.train.writers is not None
    assert splits.val.writers.tolist() == list(range(20))
    assert splits.train.writers.tolist() == list(range(20, 100))
    assert np.shares_memory(splits.train.inputs, data.train.inputs)


def test_limits() -> None:
    cfg = TaskConfig(val_fraction=0.2, limit_train=40, limit_test=7)
    splits = hold_out(stored(100, 20), cfg=cfg, val_from="train")
    # val stays a fifth of train + val.
    assert sizes(splits) == (40, 10, 7)
    wider = hold_out(stored(100, 20), cfg=TaskConfig(val_fraction=0.2, limit_train=80), val_from="train")
    assert splits.train.writers is not None
    assert wider.val.writers is not None
    assert not set(splits.train.writers.tolist()) & set(wider.val.writers.tolist())


def test_val_from_test_leaves_every_training_example() -> None:
    splits = hold_out(stored(100, 20), cfg=TaskConfig(val_fraction=0.25), val_from="test")
    assert sizes(splits) == (100, 5, 15)


def test_a_limit_above_the_data_warns() -> None:
    with pytest.warns(UserWarning, match="task.limit_train=1000 has no effect: there are 90 examples"):
        splits = hold_out(stored(100, 20), cfg=TaskConfig(limit_train=1000), val_from="train")
    assert sizes(splits) == (90, 10, 20)


def test_impossible_splits() -> None:
    with pytest.raises(ConfigError, match=r"task.limit_test must be >= 1, got 0"):
        hold_out(stored(10, 5), cfg=TaskConfig(limit_test=0), val_from="train")
    with pytest.raises(ConfigError, match=r"task.val_fraction: 0.9 of 1 examples leaves none"):
        hold_out(stored(1, 5), cfg=TaskConfig(val_fraction=0.9), val_from="train")
