"""On the published files themselves: HARNESS_DATA_DIR=... pytest -m data."""

from pathlib import Path

import numpy as np
import pytest

from harness.config import PartitionConfig, TaskConfig
from harness.data.partition import partition
from harness.data.task import Splits, Task
from harness.data.tasks import load_task
from harness.data.tasks.files import FileTask

pytestmark = pytest.mark.data


def load(name: str, **keys: object) -> tuple[Task, Splits]:
    task = load_task(TaskConfig(name=name, **keys))  # type: ignore[arg-type]
    assert isinstance(task, FileTask)
    if task.source() is None:
        pytest.skip(f"HARNESS_DATA_DIR holds no {name}")
    return task, task.load()


def test_mnist_and_its_published_table(real_data_dir: Path) -> None:
    task, splits = load("mnist", options={"val_from": "test"})
    assert (len(splits.train), len(splits.val), len(splits.test)) == (60_000, 1000, 9000)
    cfg = PartitionConfig(name="explicit_counts", preset="rpn_mnist")
    dealt = partition(cfg, targets=splits.train.targets, writers=None, num_classes=10, seed=0)
    assert len(dealt.remainder) == 0
    inputs = task.to_inputs(splits.train.inputs[:10_000])
    assert inputs.mean().item() == pytest.approx(0, abs=0.01)
    assert inputs.std().item() == pytest.approx(1, abs=0.01)


def test_mnist_writers(real_data_dir: Path) -> None:
    _, splits = load("mnist_writers")
    writers = splits.train.writers
    assert writers is not None
    assert len(np.unique(writers)) == 539
    cfg = PartitionConfig(name="by_writer", num_clients=539)
    dealt = partition(cfg, targets=splits.train.targets, writers=writers, num_classes=10, seed=0)
    assert dealt.sizes.sum() == 54_000
    assert dealt.sizes.max() <= 131


def test_cifar10(real_data_dir: Path) -> None:
    task, splits = load("cifar10")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (45_000, 5000, 10_000)
    for part in (splits.train, splits.val, splits.test):
        assert len(set(np.bincount(part.targets).tolist())) == 1
    inputs = task.to_inputs(splits.train.inputs[:2000])
    np.testing.assert_allclose(inputs.mean((0, 2, 3)).numpy(), 0, atol=0.06)
