import pickle

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from harness.config import TaskConfig
from harness.data.task import Examples, Splits, Task
from harness.data.tasks import load_task
from harness.data.tasks.images import check_examples
from harness.types import DataError


def sizes(splits: Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.val), len(splits.test)


def test_to_inputs_by_hand() -> None:
    task = load_task(TaskConfig(name="cifar10"))
    rows = np.zeros((2, 32, 32, 3), np.uint8)
    rows[1, 4, 7] = (255, 51, 102)
    got = task.to_inputs(rows)
    assert got.shape == (2, 3, 32, 32)
    assert got.dtype == torch.float32
    assert got.is_contiguous()
    want = torch.tensor([(1 - 0.4914) / 0.2470, (0.2 - 0.4822) / 0.2435, (0.4 - 0.4465) / 0.2616])
    torch.testing.assert_close(got[1, :, 4, 7], want)
    torch.testing.assert_close(
        got[0, :, 0, 0], torch.tensor([-0.4914 / 0.2470, -0.4822 / 0.2435, -0.4465 / 0.2616])
    )


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("mnist", 0.1307, 0.3081),
        ("cifar100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        ("fashion_mnist", 0.2860, 0.3530),
        ("emnist", 0.1736, 0.3317),
        ("femnist", 0.9637, 0.1597),
    ],
)
def test_normalisation_constants(name: str, mean: ArrayLike, std: ArrayLike) -> None:
    task = load_task(TaskConfig(name=name))
    channels, height, width = task.input_shape
    white = task.to_inputs(np.full((1, height, width, channels), 255, np.uint8))[0, :, 0, 0]
    want = (1 - np.atleast_1d(np.asarray(mean))) / np.atleast_1d(np.asarray(std))
    np.testing.assert_allclose(white.numpy(), want, rtol=1e-5)


def test_rows_are_never_written_to() -> None:
    task = load_task(TaskConfig(name="synthetic"))
    rows = np.full((1, 16, 16, 1), 9, np.uint8)
    rows.flags.writeable = False
    task.to_inputs(rows).zero_()
    assert (rows == 9).all()


def test_augment_follows_the_configuration() -> None:
    inputs = torch.rand(8, 1, 16, 16)
    plain = load_task(TaskConfig(name="synthetic"))
    assert plain.augment(inputs, torch.Generator()) is inputs
    busy = load_task(TaskConfig(name="synthetic", augment=["crop", "hflip"]))
    one, two = (busy.augment(inputs, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, inputs)


def test_digits() -> None:
    splits = load_task(TaskConfig(name="digits")).load()
    assert sizes(splits) == (1350, 150, 297)
    for part in (splits.train, splits.val, splits.test):
        shares = np.bincount(part.targets, minlength=10) / len(part)
        assert np.abs(shares - 0.1).max() < 0.01
    rows = np.concatenate([part.inputs for part in (splits.train, splits.val, splits.test)])
    assert len(np.unique(rows.reshape(1797, -1), axis=0)) == 1797
    assert rows.max() == 255
    again = load_task(TaskConfig(name="digits")).load()
    np.testing.assert_array_equal(splits.train.inputs, again.train.inputs)


def test_digits_constants_are_those_of_its_training_pixels() -> None:
    task = load_task(TaskConfig(name="digits", val_fraction=0.001))
    inputs = task.to_inputs(task.load().train.inputs)
    assert inputs.mean().item() == pytest.approx(0, abs=0.005)
    assert inputs.std().item() == pytest.approx(1, abs=0.005)


def test_digits_at_their_own_size_are_the_originals() -> None:
    from sklearn.datasets import load_digits

    splits = load_task(TaskConfig(name="digits", image_size=8)).load()
    originals = {row.tobytes() for row in np.rint(load_digits().images * 255 / 16).astype(np.uint8)}
    assert {row.tobytes() for row in splits.test.inputs[..., 0]} <= originals


def synthetic(**options: int) -> Task:
    return load_task(TaskConfig(name="synthetic", options=options))


def test_synthetic_has_what_was_asked_for() -> None:
    task = synthetic(num_train=300, num_test=60, num_classes=6, image_size=12, channels=3, num_writers=7)
    splits = task.load()
    assert sizes(splits) == (270, 30, 60)
    assert splits.train.inputs.shape == (270, 12, 12, 3)
    assert np.bincount(splits.test.targets).tolist() == [10] * 6
    assert splits.train.writers is not None
    assert set(splits.train.writers.tolist()) == set(range(7))
    assert task.input_shape == (3, 12, 12)
    np.testing.assert_array_equal(splits.train.inputs, task.load().train.inputs)
    assert synthetic().load().train.writers is None


def test_synthetic_is_learnable_and_not_trivial() -> None:
    splits = synthetic(num_train=500, num_test=200).load()
    x = splits.train.inputs.reshape(len(splits.train), -1).astype(float)
    means = np.stack([x[splits.train.targets == label].mean(axis=0) for label in range(10)])
    test = splits.test.inputs.reshape(200, -1).astype(float)
    nearest = ((test[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == splits.test.targets).mean() > 0.9
    assert x.std(axis=0).min() > 20


def test_limits_and_val_from() -> None:
    cfg = TaskConfig(name="digits", limit_train=90, limit_test=50)
    splits = load_task(cfg).load()
    assert sizes(splits) == (90, 10, 50)
    assert set(np.bincount(splits.train.targets, minlength=10)) <= {8, 9, 10}
    whole = load_task(TaskConfig(name="digits", options={"val_from": "test"})).load()
    assert sizes(whole) == (1500, 30, 267)


def test_a_task_travels_by_pickle() -> None:
    task = load_task(TaskConfig(name="cifar10", augment=["crop"]))
    twin = pickle.loads(pickle.dumps(task))
    rows = np.ones((1, 32, 32, 3), np.uint8)
    assert torch.equal(twin.to_inputs(rows), task.to_inputs(rows))


def examples(**changes: object) -> Examples:
    values = {"inputs": np.zeros((3, 4, 4, 1), np.uint8), "targets": np.array([0, 1, 2]), "writers": None}
    return Examples(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"inputs": np.zeros((3, 4, 4, 1), np.float32)}, r"must be uint8 \[N, 4, 4, 1\], got float32"),
        ({"inputs": np.zeros((3, 4, 5, 1), np.uint8)}, r"got uint8 \(3, 4, 5, 1\)"),
        ({"targets": np.array([0, 1])}, r"one label per image, got \(2,\) for 3"),
        ({"targets": np.array([0, 1, 3])}, r"labels must lie in 0\.\.2, got 0\.\.3"),
        ({"targets": np.array([0, -1, 2])}, r"got -1\.\.2"),
        ({"writers": np.array([0])}, "one writer per image"),
        ({"inputs": np.zeros((0, 4, 4, 1), np.uint8), "targets": np.zeros(0, int)}, "one label per image"),
    ],
)
def test_check_examples(changes: dict[str, object], reason: str) -> None:
    assert len(check_examples(examples(), shape=(4, 4, 1), num_classes=3, where="f")) == 3
    with pytest.raises(DataError, match=rf"^f: .*{reason}"):
        check_examples(examples(**changes), shape=(4, 4, 1), num_classes=3, where="f")
