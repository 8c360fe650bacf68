"""Images of several classes, dealt towards a table of object counts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from local_run import make_config, make_job

from harness.config import PartitionConfig
from harness.data.partition import COUNT_PRESETS, Partition, partition
from harness.data.partition_objects import deal_objects, object_table, objects_held, objects_of
from harness.run.driver import picture_of
from harness.types import ConfigError

CFG = PartitionConfig(name="object_counts", num_clients=2, min_examples=0)


def deal(objects: list[list[int]], counts: list[list[int]], **keys: Any) -> Partition:
    table = np.array(objects)
    cfg = replace(CFG, counts=counts, **keys)
    labels = table.argmax(axis=1)
    return partition(cfg, targets=labels, writers=None, num_classes=table.shape[1], seed=0, objects=table)


def test_by_hand() -> None:
    """The rare second class goes first: (0, 2) to client 1, (1, 1) to client 0, and then what they lack."""
    dealt = deal([[1, 0], [1, 0], [1, 1], [0, 2], [1, 0], [5, 0]], [[2, 1], [2, 2]])
    held = objects_held(
        np.array([[1, 0], [1, 0], [1, 1], [0, 2], [1, 0], [5, 0]]), rows=dealt.rows, sizes=dealt.sizes
    )
    assert held.tolist() == [[2, 1], [2, 2]]
    assert dealt[1].tolist()[-1] == 4 or 3 in dealt[1]
    assert 2 in dealt[0]
    assert dealt.remainder.tolist() == [5]  # five more would take anyone further away than it brings


def test_a_class_of_which_there_is_too_little_is_shared_in_proportion() -> None:
    dealt = deal([[1]] * 9, [[20], [10]])
    assert dealt.sizes.tolist() == [6, 3]
    assert len(dealt.remainder) == 0


@settings(max_examples=30)
@given(
    st.integers(1, 4).flatmap(
        lambda c: st.lists(st.lists(st.integers(0, 3), min_size=c, max_size=c), min_size=1, max_size=25)
    ),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_every_image_has_one_owner_at_most_and_each_brought_its_owner_nearer(
    images: list[list[int]], k: int, seed: int
) -> None:
    objects = np.array(images)
    wanted = np.random.default_rng(seed).integers(0, 6, (k, objects.shape[1]))
    owner = deal_objects(objects, wanted, np.random.default_rng(seed))
    assert np.array_equal(owner, deal_objects(objects, wanted, np.random.default_rng(seed)))
    assert owner.min() >= -1
    assert owner.max() < k
    goal = wanted * np.minimum(1, objects.sum(axis=0) / np.maximum(wanted.sum(axis=0), 1))
    held = np.stack([objects[owner == client].sum(axis=0) for client in range(k)])
    assert (np.abs(goal - held).sum(axis=1) <= np.abs(goal).sum(axis=1) + 1e-9).all()
    assert (owner[objects.sum(axis=1) == 0] == -1).all()  # nothing to see, nothing to count


def test_the_table_of_the_paper() -> None:
    """Its row of cats adds up to 944, client 2 has 689 persons."""
    table = np.array(object_table("rpn_voc"))
    assert table.shape == (10, 20)
    assert table[:, 7].sum() == 944
    assert table[1, 14] == 689
    assert table.sum(axis=1).tolist()[0] == 1506


def test_it_is_nearly_reached_where_images_show_what_the_table_wants() -> None:
    table = np.array(object_table("rpn_voc"))
    rng = np.random.default_rng(0)
    # As many objects as are wanted, in images of one class or two.
    single = np.repeat(np.arange(20), table.sum(axis=0))
    rng.shuffle(single)
    objects = np.zeros((len(single) // 2, 20), np.int64)
    for image, pair in enumerate(single[: 2 * len(objects)].reshape(-1, 2)):
        np.add.at(objects[image], pair, 1)
    dealt = deal(objects.tolist(), table.tolist(), num_clients=10)
    held = objects_held(objects, rows=dealt.rows, sizes=dealt.sizes)
    assert np.abs(held - table).sum() < 0.05 * table.sum()
    assert len(dealt.remainder) < 0.02 * len(objects)


def test_mistakes() -> None:
    for keys, reason in (
        ({"preset": "rpn_vco"}, r"unknown table 'rpn_vco'; did you mean rpn_voc\?"),
        ({"preset": "rpn_voc"}, "partition.preset must have a row per client, got 10 for num_clients=2"),
        ({"preset": "rpn_voc", "num_clients": 10}, r"partition.preset must have 1 columns, got \[20\]"),
        ({"preset": "rpn_mnist"}, "unknown table 'rpn_mnist'"),
        ({}, "partition: object_counts needs either partition.counts or partition.preset"),
    ):
        with pytest.raises(ConfigError, match=reason):
            deal([[1], [1]], [], **keys)


def test_mnist_of_the_paper_adds_up() -> None:
    """Every column is MNIST's count of that digit; client 10 holds 415 eights."""
    table = np.array(COUNT_PRESETS["rpn_mnist"])
    assert table.sum(axis=0).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert table[9, 8] == 415


@pytest.mark.parametrize("task", ["shapes_detection", "shapes_segmentation"])
def test_a_task_with_several_classes_in_an_image(task: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    words = [f"task={task}", "task.options={num_train: 60, num_test: 5, image_size: 32}", "model=auto"]
    words += [
        "partition=object_counts",
        "partition.num_clients=2",
        "partition.counts=[[30, 10, 5], [5, 10, 30]]",
    ]
    job = make_job(make_config(words, base=()), tmp_path)
    picture = picture_of(job.partition, task=job.task, splits=job.splits)
    held = np.array(picture["object_counts"])
    assert held.shape == (2, 3)
    assert held[0, 0] > 2 * held[1, 0]
    assert held[1, 2] > 2 * held[0, 2]
    assert objects_of(job.task, job.splits.train.targets).shape == (len(job.splits.train), 3)
