"""Each family end to end on files made here: found, read, cached, split."""

import os
from pathlib import Path

import numpy as np
import pytest
from data_makers import write_cifar10, write_idx, write_leaf, write_mnist, write_png

from harness.config import TaskConfig
from harness.data.task import Splits
from harness.data.tasks import load_task
from harness.data.tasks.cifar import Cifar10, Cifar100
from harness.data.tasks.cinic10 import _CLASSES
from harness.data.tasks.mnist import FashionMnist, Mnist
from harness.types import DataError


@pytest.fixture(autouse=True)
def _small_files_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files made here are not the published ones."""
    for cls in (Mnist, FashionMnist, Cifar10, Cifar100):
        monkeypatch.setattr(cls, "md5", {})


def load(name: str, **keys: object) -> Splits:
    return load_task(TaskConfig(name=name, **keys)).load()  # type: ignore[arg-type]


def sizes(splits: Splits) -> tuple[int, int, int]:
    return len(splits.train), len(splits.val), len(splits.test)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("folder", Mnist.folders)
def test_mnist(data_dir: Path, folder: str, end: str) -> None:
    images = write_mnist(data_dir / folder, end=end)
    splits = load("mnist")
    assert sizes(splits) == (54, 6, 20)
    got = {row.tobytes() for part in (splits.train, splits.val) for row in part.inputs}
    assert got == {row.tobytes() for row in images}
    # Labels stay with their images: image i has label i % 10.
    label = {image.tobytes(): i % 10 for i, image in enumerate(images)}
    assert [label[row.tobytes()] for row in splits.train.inputs] == splits.train.targets.tolist()


def test_fashion_mnist_is_not_taken_for_mnist(data_dir: Path) -> None:
    write_mnist(data_dir / "fashion_mnist")
    assert sizes(load("fashion_mnist")) == (54, 6, 20)
    with pytest.raises(DataError, match="task mnist: no data found"):
        load("mnist")


def test_the_published_checksum_is_checked(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(data_dir / "mnist")
    monkeypatch.setattr(Mnist, "md5", {"train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873"})
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte\.gz: wrong checksum .*f68b3c2dcbeaaa9fbdd348bbd"
    ):
        load("mnist")


def test_missing_data_says_where_it_looked(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as error:
        load("cifar10")
    text = str(error.value)
    for part in (
        str(data_dir),
        "cifar-10-batches-py",
        "cifar10.npz",
        "prepared",
        "`harness data prepare cifar10`",
    ):
        assert part in text
    assert "\n" not in text
    monkeypatch.delenv("HARNESS_DATA_DIR")
    with pytest.raises(DataError, match=r"HARNESS_DATA_DIR .not set."):
        load("cifar10")


def test_a_wrong_shape_names_the_file(data_dir: Path) -> None:
    write_mnist(data_dir / "mnist", end="")
    write_idx(data_dir / "mnist/train-images-idx3-ubyte", np.zeros((60, 28, 27), np.uint8))
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte .train.: images must be uint8 \[N, 28, 28, 1\]"
    ):
        load("mnist")


def test_the_cache_is_used_until_the_source_changes(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(data_dir / "mnist", end="")
    first = load("mnist")

    def forbidden(self: Mnist, files: object) -> None:
        raise AssertionError("read the original files again")

    with monkeypatch.context() as patch:
        patch.setattr(Mnist, "_read", forbidden)
        np.testing.assert_array_equal(load("mnist").train.inputs, first.train.inputs)
    labels = data_dir / "mnist/train-labels-idx1-ubyte"
    write_idx(labels, ((np.arange(60) + 1) % 10).astype(np.uint8))
    os.utime(labels, ns=(1, 1))
    second = load("mnist")
    assert sorted(second.train.targets.tolist()) == sorted(first.train.targets.tolist())
    rows = {row.tobytes(): label for row, label in zip(first.train.inputs, first.train.targets, strict=True)}
    shared = [
        (rows[r.tobytes()], y)
        for r, y in zip(second.train.inputs, second.train.targets, strict=True)
        if r.tobytes() in rows
    ]
    assert shared
    assert all((old + 1) % 10 == new for old, new in shared)


def test_inputs_are_mapped_from_one_file(data_dir: Path) -> None:
    write_mnist(data_dir / "mnist")
    splits = load("mnist")
    for part in (splits.train, splits.val, splits.test):
        base = part.inputs
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert isinstance(base, np.memmap)


def test_image_size_is_applied_once(data_dir: Path) -> None:
    write_mnist(data_dir / "mnist")
    native, small = load("mnist"), load("mnist", image_size=14)
    assert small.train.inputs.shape == (54, 14, 14, 1)
    np.testing.assert_array_equal(small.train.targets, native.train.targets)
    same = load("mnist", image_size=28)
    np.testing.assert_array_equal(same.train.inputs, native.train.inputs)


def test_writers_are_numbered_from_zero_and_stay_with_their_images(data_dir: Path) -> None:
    images = write_mnist(data_dir / "mnist")
    ids = np.array([700, 20, -1, 20, 5, 700] * 10, np.int16)
    np.savez(data_dir / "mnist/mnist_writers.npz", train_writer=ids)
    splits = load("mnist_writers")
    number = {700: 2, 20: 1, 5: 0, -1: -1}
    writer = {image.tobytes(): number[int(i)] for image, i in zip(images, ids, strict=True)}
    for part in (splits.train, splits.val):
        assert part.writers is not None
        assert [writer[row.tobytes()] for row in part.inputs] == part.writers.tolist()
    assert splits.test.writers is None


def test_writers_from_qmnist_labels(data_dir: Path) -> None:
    write_mnist(data_dir / "mnist")
    table = np.zeros((60, 8), np.int32)
    table[:, 2] = np.arange(60) % 3 + 100
    write_idx(data_dir / "mnist/QMNIST/raw/qmnist-train-labels-idx2-int.gz", table)
    splits = load("mnist_writers")
    assert splits.train.writers is not None
    assert splits.val.writers is not None
    counts = np.bincount(np.concatenate([splits.train.writers, splits.val.writers]))
    assert counts.tolist() == [20, 20, 20]


def test_writer_errors(data_dir: Path) -> None:
    write_mnist(data_dir / "mnist")
    with pytest.raises(
        DataError, match=r"task mnist_writers: no data found; looked for .*mnist_writers\.npz"
    ):
        load("mnist_writers")
    path = data_dir / "mnist/mnist_writers.npz"
    np.savez(path, train_writer=np.zeros(59, np.int16))
    with pytest.raises(DataError, match=r"mnist_writers\.npz: needs one writer per image, got .59,. for 60"):
        load("mnist_writers")
    np.savez(path, writers=np.zeros(60))
    with pytest.raises(DataError, match=r"mnist_writers\.npz: must hold `train_writer`"):
        load("mnist_writers")


@pytest.mark.parametrize("place", ["", "cifar10"])
def test_cifar10_loose_and_packed_are_equal(data_dir: Path, tmp_path: Path, place: str) -> None:
    import tarfile

    loose = data_dir / place / "cifar-10-batches-py"
    write_cifar10(loose)
    first = load("cifar10")
    assert sizes(first) == (90, 10, 20)
    with tarfile.open(data_dir / place / "cifar-10-python.tar.xz", "w:xz") as tar:
        tar.add(loose, "cifar-10-batches-py")
    for path in loose.iterdir():
        path.unlink()
    second = load("cifar10")
    np.testing.assert_array_equal(second.train.inputs, first.train.inputs)
    np.testing.assert_array_equal(second.test.targets, first.test.targets)


def test_cifar100_reads_fine_labels(data_dir: Path) -> None:
    import pickle

    folder = data_dir / "cifar-100-python"
    folder.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (200, 3072)).astype(np.uint8)
    batch = {b"data": rows, b"fine_labels": [i % 100 for i in range(200)], b"coarse_labels": [0] * 200}
    for name in ("train", "test"):
        (folder / name).write_bytes(pickle.dumps(batch, 2))
    splits = load("cifar100", val_fraction=0.5)
    assert np.bincount(splits.train.targets).tolist() == [1] * 100


def test_cinic10(data_dir: Path) -> None:
    rng = np.random.default_rng(0)
    for side, count in (("train", 4), ("test", 2), ("valid", 1)):
        for name in _CLASSES:
            for i in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                write_png(data_dir / "cinic10" / side / name / f"{i}.png", pixels)
    assert sizes(load("cinic10", val_fraction=0.25)) == (30, 10, 20)


def test_cinic10_lacking_a_class(data_dir: Path) -> None:
    for side in ("train", "test"):
        write_png(data_dir / "cinic10" / side / "airplane/1.png", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"train/automobile: holds no \.png"):
        load("cinic10")


def test_emnist_is_turned_upright_and_letters_count_from_zero(data_dir: Path) -> None:
    upright = np.zeros((26, 28, 28), np.uint8)
    upright[:, 3, 20] = np.arange(26) + 1
    for split, first in (("letters", 1), ("balanced", 0)):
        for side in ("train", "test"):
            stem = f"emnist-{split}-{side}"
            write_idx(data_dir / f"emnist/gzip/{stem}-images-idx3-ubyte.gz", upright.transpose(0, 2, 1))
            labels = (np.arange(26) + first).astype(np.uint8)
            write_idx(data_dir / f"emnist/gzip/{stem}-labels-idx1-ubyte.gz", labels)
        splits = load("emnist", options={"split": split})
        np.testing.assert_array_equal(splits.test.inputs[:, 3, 20, 0], splits.test.targets + 1)
    with pytest.raises(DataError, match=r"task emnist-byclass: no data found; .*prepare emnist-byclass`"):
        load("emnist")


def leaf_users(seed: int, names: list[str], per_user: int) -> dict[str, tuple[object, object]]:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.random((per_user, 784)).round(3).tolist(), (np.arange(per_user) % 62).tolist())
        for name in names
    }


def test_femnist_without_a_split_tests_on_a_tenth_of_every_writer(data_dir: Path) -> None:
    write_leaf(data_dir / "femnist/data/all_data/all_data_0.json", leaf_users(0, ["f1", "f2"], 20))
    write_leaf(data_dir / "femnist/data/all_data/all_data_1.json", leaf_users(1, ["f3"], 20))
    splits = load("femnist")
    assert sizes(splits) == (49, 5, 6)
    assert splits.test.writers is not None
    assert np.bincount(splits.test.writers).tolist() == [2, 2, 2]
    rows = [part.inputs.reshape(-1, 784) for part in (splits.train, splits.val, splits.test)]
    assert len(np.unique(np.concatenate(rows), axis=0)) == 60


def test_femnist_with_the_split_of_leaf(data_dir: Path) -> None:
    write_leaf(data_dir / "femnist/data/train/all_data_0_train.json", leaf_users(0, ["f1", "f2"], 10))
    write_leaf(data_dir / "femnist/data/test/all_data_0_test.json", leaf_users(1, ["f0", "f2"], 3))
    splits = load("femnist")
    assert sizes(splits) == (18, 2, 6)
    assert splits.test.writers is not None
    # f2 is writer 1 of the training side; f0 is not on it.
    assert sorted(splits.test.writers.tolist()) == [-1, -1, -1, 1, 1, 1]


def test_any_task_from_an_npz_of_its_name(data_dir: Path) -> None:
    x, y = np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 10
    np.savez(data_dir / "cifar10.npz", x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])
    assert sizes(load("cifar10")) == (18, 2, 10)
    np.savez(data_dir / "cifar10.npz", x_train=x[:, :28], y_train=y, x_test=x[:10], y_test=y[:10])
    with pytest.raises(DataError, match=r"cifar10\.npz .train.: images must be uint8 \[N, 32, 32, 3\]"):
        load("cifar10")
