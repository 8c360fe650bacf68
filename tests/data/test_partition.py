import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from harness.config import PartitionConfig
from harness.data.partition import COUNT_PRESETS, Partition, partition, partition_names
from harness.types import ConfigError

MNIST_TOTALS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def deal(
    targets: ArrayLike, writers: ArrayLike | None = None, num_classes: int = 10, seed: int = 0, **keys: Any
) -> Partition:
    cfg = PartitionConfig(**keys)
    y = np.asarray(targets, np.int64)
    w = None if writers is None else np.asarray(writers, np.int64)
    return partition(cfg, targets=y, writers=w, num_classes=num_classes, seed=seed)


def lists(dealt: Partition) -> list[list[int]]:
    return [dealt[client].tolist() for client in range(len(dealt))]


def check_horizontal(dealt: Partition, num_examples: int) -> None:
    """Every example is somewhere, nowhere twice; rows ascend within a client."""
    everything = np.concatenate([dealt.rows, dealt.remainder])
    np.testing.assert_array_equal(np.sort(everything), np.arange(num_examples))
    for client in range(len(dealt)):
        assert (np.diff(dealt[client]) > 0).all()
    assert (np.diff(dealt.remainder) > 0).all()
    assert dealt.sizes.sum() + len(dealt.remainder) == num_examples
    assert dealt.rows.dtype == dealt.offsets.dtype == dealt.remainder.dtype == np.int64
    assert dealt.views is None


labels = st.lists(st.integers(0, 3), min_size=1, max_size=300)
clients = st.integers(1, 12)
seeds = st.integers(0, 2**32)


# --- the result


def test_csr_by_hand() -> None:
    dealt = Partition(np.array([1, 4, 0, 2, 5]), np.array([0, 2, 2, 5]), np.array([3]))
    assert lists(dealt) == [[1, 4], [], [0, 2, 5]]
    assert len(dealt) == 3
    assert dealt.sizes.tolist() == [2, 0, 3]
    counts = dealt.label_counts(np.array([0, 1, 1, 0, 1, 2]), num_classes=3)
    assert counts.tolist() == [[0, 2, 0], [0, 0, 0], [1, 1, 1]]
    for client in (-1, 3):
        with pytest.raises(IndexError, match=f"client {client} of 3"):
            dealt[client]


# --- properties that hold for every rule


MAY_FAIL = {"by_writer": "writers of the task|examples, fewer", "dirichlet": "no Dirichlet draw"}


@pytest.mark.parametrize("name", ["iid", "shards", "quantity_skew", "by_writer", "dirichlet"])
@given(st.integers(1, 8), seeds, st.integers(0, 2), st.data())
@settings(max_examples=40, deadline=None)
def test_every_horizontal_rule(name: str, k: int, seed: int, least: int, data: st.DataObject) -> None:
    y = data.draw(st.lists(st.integers(0, 3), min_size=4 * k, max_size=120))
    writers = data.draw(st.lists(st.integers(-1, 20), min_size=len(y), max_size=len(y)))
    keys: dict[str, Any] = {"name": name, "num_clients": k, "min_examples": least, "alpha": 2.0}
    try:
        dealt = deal(y, writers, 4, seed, **keys)
    except ConfigError as error:
        if not re.search(MAY_FAIL.get(name, "never"), str(error)):
            raise
        return
    check_horizontal(dealt, len(y))
    assert len(dealt) == k
    assert dealt.sizes.min() >= least
    np.testing.assert_array_equal(dealt.rows, deal(y, writers, 4, seed, **keys).rows)
    counts = dealt.label_counts(np.asarray(y), num_classes=4)
    np.testing.assert_array_equal(counts.sum(axis=1), dealt.sizes)


@pytest.mark.parametrize("name", ["iid", "dirichlet", "shards", "quantity_skew", "by_writer"])
def test_another_seed_deals_differently(name: str) -> None:
    y, w = np.arange(400) % 10, np.arange(400) % 40
    one, two = (deal(y, w, seed=seed, name=name, num_clients=8) for seed in (1, 2))
    assert lists(one) != lists(two)


# --- iid


@given(labels, clients, seeds)
def test_iid_sizes_differ_by_at_most_one(y: list[int], k: int, seed: int) -> None:
    assume(len(y) >= k)
    dealt = deal(y, None, 4, seed, name="iid", num_clients=k)
    assert dealt.sizes.max() - dealt.sizes.min() <= 1
    assert len(dealt.remainder) == 0


def test_iid_at_scale() -> None:
    dealt = deal(np.zeros(1_000_000, np.int64), num_clients=10_000)
    assert set(dealt.sizes.tolist()) == {100}


# --- dirichlet


def test_dirichlet_caps_at_the_fair_share() -> None:
    """A client over N/K got there with the last class it was given: without that class it is below."""
    y = np.repeat(np.arange(10), 200)
    for seed in range(5):
        dealt = deal(y, seed=seed, name="dirichlet", num_clients=8, alpha=0.5, min_examples=10)
        check_horizontal(dealt, 2000)
        assert len(dealt.remainder) == 0
        counts = dealt.label_counts(y, num_classes=10)
        held = np.cumsum(counts, axis=1) - counts
        assert (counts[held >= 2000 / 8] == 0).all()
        assert dealt.sizes.min() >= 10


def test_dirichlet_approaches_iid_for_large_alpha_and_one_holder_for_small() -> None:
    y = np.repeat(np.arange(4), 1000)
    even = deal(y, num_classes=4, name="dirichlet", num_clients=4, alpha=1e6).label_counts(y, num_classes=4)
    assert np.abs(even - 250).max() <= 5
    keys: dict[str, Any] = {"name": "dirichlet", "num_clients": 4, "alpha": 1e-3, "min_examples": 0}
    skewed = deal(y, num_classes=4, **keys).label_counts(y, num_classes=4)
    assert (skewed.max(axis=0) > 990).all()


def test_dirichlet_says_what_to_change() -> None:
    y = np.zeros(20, np.int64)
    with pytest.raises(
        ConfigError, match=r"1000 gives each of 10 clients 3 .*raise partition.alpha .0\.1. or lower "
    ):
        deal(y, name="dirichlet", num_clients=10, alpha=0.1, min_examples=3)
    with pytest.raises(ConfigError, match=r"partition.alpha must be > 0, got 0"):
        deal(y, name="dirichlet", alpha=0.0)


# --- shards


@pytest.mark.parametrize(
    ("num_clients", "each", "count", "size", "left"),
    [(100, 2, 200, 300, 0), (64, 5, 320, 187, 160)],
    ids=["McMahan et al.", "MFL"],
)
def test_published_shards_of_mnist(num_clients: int, each: int, count: int, size: int, left: int) -> None:
    y = np.repeat(np.arange(10), MNIST_TOTALS)
    dealt = deal(y, name="shards", num_clients=num_clients, shards_per_client=each)
    assert set(dealt.sizes.tolist()) == {each * size}
    assert len(dealt.remainder) == left
    counts = dealt.label_counts(y, num_classes=10)
    # A shard spans at most two digits: the sorted labels change nine times.
    assert (counts > 0).sum() <= count + 9
    assert (counts > 0).sum(axis=1).max() <= 2 * each


def test_shards_by_hand() -> None:
    y = [1, 0, 1, 0, 1, 0, 1]
    dealt = deal(y, num_classes=2, name="shards", num_clients=2, shards_per_client=1, num_shards=3)
    sorted_rows = [[1, 3], [5, 0], [2, 4]]
    got = lists(dealt)
    assert all(sorted(shard) in [sorted(rows) for rows in sorted_rows] for shard in got)
    assert got[0] != got[1]
    assert len(dealt.remainder) == 3
    assert 6 in dealt.remainder


def test_shards_errors() -> None:
    with pytest.raises(
        ConfigError, match=r"num_shards must be >= num_clients \* shards_per_client, got 3 < 2 \* 2"
    ):
        deal(np.zeros(9), name="shards", num_clients=2, num_shards=3)
    with pytest.raises(ConfigError, match=r"9 examples cannot fill 20 shards; lower it"):
        deal(np.zeros(9), name="shards", num_clients=2, num_shards=20)
    with pytest.raises(ConfigError, match=r"shards_per_client must be >= 1, got 0"):
        deal(np.zeros(9), name="shards", num_clients=2, shards_per_client=0)


# --- by_writer


def test_a_client_per_writer_in_order() -> None:
    dealt = deal(np.zeros(7), [5, -1, 2, 5, 9, -1, 2], name="by_writer", num_clients=3)
    assert lists(dealt) == [[2, 6], [0, 3], [4]]
    assert dealt.remainder.tolist() == [1, 5]


def test_writers_dealt_whole_to_fewer_clients() -> None:
    writers = np.arange(200) % 23
    dealt = deal(np.zeros(200), writers, name="by_writer", num_clients=5)
    held = [set(writers[rows].tolist()) for rows in lists(dealt)]
    assert sorted(len(names) for names in held) == [4, 4, 5, 5, 5]
    assert len(set.union(*held)) == 23


def test_by_writer_errors() -> None:
    with pytest.raises(ConfigError, match="by_writer needs a task with writers"):
        deal(np.zeros(4), None, name="by_writer", num_clients=2)
    with pytest.raises(ConfigError, match=r"num_clients must be <= the 2 writers of the task, got 3"):
        deal(np.zeros(4), [0, 1, -1, 1], name="by_writer", num_clients=3)


# --- explicit_counts


@given(st.integers(1, 5), seeds, st.data())
@settings(deadline=None)
def test_explicit_counts_are_met_exactly(k: int, seed: int, data: st.DataObject) -> None:
    row = st.lists(st.integers(0, 6), min_size=3, max_size=3)
    counts = data.draw(st.lists(row, min_size=k, max_size=k))
    spare = data.draw(st.lists(st.integers(0, 4), min_size=3, max_size=3))
    totals = np.sum(counts, axis=0) + spare
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(3), totals))
    keys: dict[str, Any] = {"name": "explicit_counts", "num_clients": k, "min_examples": 0, "counts": counts}
    dealt = deal(y, num_classes=3, seed=seed, **keys)
    check_horizontal(dealt, len(y))
    assert dealt.label_counts(y, num_classes=3).tolist() == counts
    assert len(dealt.remainder) == sum(spare)


def test_the_published_mnist_table_uses_every_image() -> None:
    y = np.repeat(np.arange(10), MNIST_TOTALS)
    dealt = deal(y, name="explicit_counts", num_clients=10, preset="rpn_mnist")
    assert len(dealt.remainder) == 0
    counts = dealt.label_counts(y, num_classes=10)
    assert counts[0].tolist() == [763, 586, 423, 533, 582, 607, 690, 568, 539, 541]
    assert counts[9].tolist() == [1141, 537, 434, 404, 746, 326, 566, 770, 415, 1373]
    assert np.sum(COUNT_PRESETS["rpn_mnist"], axis=0).tolist() == MNIST_TOTALS


def test_explicit_counts_errors() -> None:
    base = PartitionConfig(name="explicit_counts", num_clients=2)
    y = np.array([0, 0, 1, 1, 1])
    for keys, reason in (
        ({"counts": [[1, 1], [2, 1]]}, "class 0 has 2 examples, 3 asked for"),
        ({"counts": [[1, 1]]}, "partition.counts must have a row per client, got 1 for num_clients=2"),
        ({"counts": [[1], [1]]}, r"partition.counts must have 2 columns, got \[1\]"),
        ({"counts": [[1, -1], [1, 1]]}, "partition.counts must be >= 0, got -1"),
        ({}, "needs either partition.counts or partition.preset"),
        ({"counts": [[1, 1], [1, 1]], "preset": "rpn_mnist"}, "either partition.counts or"),
        ({"preset": "rpn_minst"}, r"unknown table 'rpn_minst'; did you mean rpn_mnist\?"),
        ({"preset": "rpn_mnist"}, "partition.preset must have a row per client, got 10"),
    ):
        with pytest.raises(ConfigError, match=reason):
            partition(replace(base, **keys), targets=y, writers=None, num_classes=2, seed=0)


# --- quantity_skew


@given(st.integers(1, 20), st.integers(0, 5), st.floats(0.01, 50), seeds)
def test_quantity_skew_deals_everything_and_keeps_the_minimum(
    k: int, least: int, alpha: float, seed: int
) -> None:
    keys: dict[str, Any] = {"name": "quantity_skew", "num_clients": k, "min_examples": least, "alpha": alpha}
    dealt = deal(np.zeros(120), seed=seed, **keys)
    check_horizontal(dealt, 120)
    assert len(dealt.remainder) == 0
    assert dealt.sizes.min() >= least


def test_quantity_skew_follows_alpha() -> None:
    wide = deal(np.zeros(10_000), name="quantity_skew", num_clients=10, alpha=0.3).sizes
    even = deal(np.zeros(10_000), name="quantity_skew", num_clients=10, alpha=1e5).sizes
    assert wide.max() > 2 * np.median(wide)
    assert np.abs(even - 1000).max() < 50
    with pytest.raises(ConfigError, match="10 clients x 3 is more than the 20 examples"):
        deal(np.zeros(20), name="quantity_skew", min_examples=3)


# --- views


@given(st.integers(1, 40), st.integers(1, 12))
def test_every_client_of_views_holds_every_row(num_examples: int, k: int) -> None:
    dealt = deal(np.zeros(num_examples), name="views", num_clients=k)
    assert lists(dealt) == [list(range(num_examples))] * k
    assert len(dealt.remainder) == 0
    five = ("blur", "erase", "hflip", "vflip", "crop")
    assert dealt.views == (five * 3)[:k]


def test_views_of_ones_own() -> None:
    dealt = deal(np.zeros(3), name="views", num_clients=2, views=["identity", "blur"])
    assert dealt.views == ("identity", "blur")
    with pytest.raises(ConfigError, match=r"a view per client, got 1 for partition.num_clients=2"):
        deal(np.zeros(3), name="views", num_clients=2, views=["blur"])
    with pytest.raises(ConfigError, match="unknown view 'blr'"):
        deal(np.zeros(3), name="views", num_clients=2, views=["blur", "blr"])


# --- what every rule refuses


def test_the_registry_and_its_suggestion() -> None:
    assert partition_names() == [
        "by_writer",
        "dirichlet",
        "explicit_counts",
        "iid",
        "object_counts",
        "quantity_skew",
        "shards",
        "views",
    ]
    with pytest.raises(
        ConfigError, match=r"partition.name: unknown rule 'dirichelt'; did you mean dirichlet\?"
    ):
        deal(np.zeros(3), name="dirichelt")
    with pytest.raises(ConfigError, match=r"partition.num_clients must be >= 1, got 0"):
        deal(np.zeros(3), num_clients=0)


def test_too_few_examples_names_client_size_and_key() -> None:
    with pytest.raises(
        ConfigError, match=r"partition.min_examples: client 0 holds 0 examples, fewer than 1; lower"
    ):
        deal(np.zeros(3), name="iid", num_clients=4)
    with pytest.raises(ConfigError, match=r"client 2 holds 1 examples, fewer than 2"):
        deal(np.zeros(6), [0, 0, 1, 1, 1, 2], name="by_writer", num_clients=3, min_examples=2)
