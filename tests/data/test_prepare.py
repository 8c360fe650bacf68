"""Fetching, from folders and from a server on this machine that look like the hub."""

import functools
import http.server
import io
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_makers import write_idx
from numpy.typing import NDArray
from PIL import Image

from harness.config import TaskConfig
from harness.data.prepare import available, prepare
from harness.data.tasks import load_task, task_names
from harness.types import ConfigError, DataError


def images(count: int, shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)


def write_parquet(path: Path, pixels: NDArray[np.uint8], **columns: Sequence[object]) -> None:
    """As the hub stores them: a column of {bytes, path} with encoded images, and plain columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    image_name = "img" if "fine_label" in columns else "image"
    pq.write_table(pa.table({image_name: encoded, **columns}), path)


@pytest.fixture
def mnist_hub(tmp_path: Path) -> Path:
    """Two shards of train, one of test, in the folder where the hub keeps them."""
    root = tmp_path / "hub"
    train, test = images(40, (28, 28)), images(10, (28, 28), seed=1)
    write_parquet(root / "mnist/train-00000-of-00002.parquet", train[:25], label=[i % 10 for i in range(25)])
    write_parquet(
        root / "mnist/train-00001-of-00002.parquet", train[25:], label=[i % 10 for i in range(25, 40)]
    )
    write_parquet(root / "mnist/test-00000-of-00001.parquet", test, label=list(range(10)))
    return root


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def check_mnist(entry: Path) -> None:
    splits = load_task(TaskConfig(name="mnist")).load()
    assert entry.name == "prepared"
    assert (len(splits.train), len(splits.val), len(splits.test)) == (36, 4, 10)
    label = {row.tobytes(): i % 10 for i, row in enumerate(images(40, (28, 28)))}
    assert [label[row.tobytes()] for row in splits.train.inputs] == splits.train.targets.tolist()
    assert [path.name for path in entry.parent.iterdir()] == ["prepared"]


def test_from_a_folder(mnist_hub: Path) -> None:
    check_mnist(prepare("mnist", source=str(mnist_hub)))
    check_mnist(prepare("mnist", source=str(mnist_hub / "mnist")))


def test_from_a_server(mnist_hub: Path, serve: str) -> None:
    check_mnist(prepare("mnist", source=f"{serve}/hub/"))


def test_fetching_again_replaces(mnist_hub: Path) -> None:
    prepare("mnist", source=str(mnist_hub))
    write_parquet(mnist_hub / "mnist/test-00000-of-00001.parquet", images(7, (28, 28)), label=[0] * 7)
    prepare("mnist", source=str(mnist_hub))
    assert len(load_task(TaskConfig(name="mnist")).load().test) == 7


def test_original_files_come_first(mnist_hub: Path, data_dir: Path) -> None:
    prepare("mnist", source=str(mnist_hub))
    x, y = images(20, (28, 28)), np.arange(20) % 10
    np.savez(data_dir / "mnist.npz", x_train=x, y_train=y, x_test=x[:3], y_test=y[:3])
    assert len(load_task(TaskConfig(name="mnist")).load().test) == 3


def test_colour_and_fine_labels(tmp_path: Path) -> None:
    for side, count in (("train", 20), ("test", 5)):
        columns: dict[str, Sequence[object]] = {"fine_label": list(range(count)), "coarse_label": [0] * count}
        write_parquet(
            tmp_path / f"hub/cifar100/{side}-00000-of-00001.parquet", images(count, (32, 32, 3)), **columns
        )
    prepare("cifar100", source=str(tmp_path / "hub"))
    splits = load_task(TaskConfig(name="cifar100")).load()
    pixels = images(5, (32, 32, 3))
    for row, label in zip(splits.test.inputs, splits.test.targets, strict=True):
        np.testing.assert_array_equal(row, pixels[label])


def test_femnist_gets_writers_and_a_test_split(tmp_path: Path) -> None:
    names = [f"f{i % 3:04d}_14" for i in range(60)]
    columns: dict[str, Sequence[object]] = {
        "writer_id": names,
        "hsf_id": [0] * 60,
        "character": [i % 62 for i in range(60)],
    }
    write_parquet(tmp_path / "hub/data/train-00000-of-00001.parquet", images(60, (28, 28)), **columns)
    prepare("femnist", source=str(tmp_path / "hub"))
    splits = load_task(TaskConfig(name="femnist")).load()
    assert (len(splits.train), len(splits.val), len(splits.test)) == (49, 5, 6)
    assert splits.test.writers is not None
    assert np.bincount(splits.test.writers).tolist() == [2, 2, 2]
    # Character i was written by writer i % 3.
    assert (splits.test.writers == splits.test.targets % 3).all()


@pytest.mark.parametrize("far", [False, True])
def test_emnist_comes_as_idx_files(tmp_path: Path, serve: str, far: bool) -> None:
    pixels = images(26, (28, 28))
    for side in ("train", "test"):
        stem = f"hub/emnist-letters-{side}"
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", pixels.transpose(0, 2, 1))
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte.gz", np.arange(1, 27).astype(np.uint8))
    source = f"{serve}/hub" if far else str(tmp_path / "hub")
    prepare("emnist-letters", source=source)
    test = load_task(TaskConfig(name="emnist", options={"split": "letters"})).load().test
    np.testing.assert_array_equal(test.inputs[..., 0], pixels[test.targets])


def test_failures_are_one_line(tmp_path: Path, mnist_hub: Path, serve: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    only_train = tmp_path / "only"
    write_parquet(only_train / "train-0.parquet", images(10, (28, 28)), label=list(range(10)))
    no_label = tmp_path / "nolabel"
    wrong_size = tmp_path / "size"
    damaged = tmp_path / "damaged"
    for side in ("train", "test"):
        write_parquet(no_label / f"{side}-0.parquet", images(3, (28, 28)), digit=[0, 1, 2])
        write_parquet(wrong_size / f"{side}-0.parquet", images(3, (8, 9)), label=[0, 1, 2])
        damaged.mkdir(exist_ok=True)
        (damaged / f"{side}-0.parquet").write_bytes(b"PAR1 not really")
    for name, source, reason in (
        ("mnist", str(empty), r"no train-\*\.parquet there, nor in mnist/"),
        ("mnist", str(only_train), "needs a train and a test split, got train"),
        ("mnist", str(no_label), "no column 'label' among image, digit"),
        ("mnist", str(wrong_size), "image 0 must be 28x28, got 9x8"),
        ("mnist", str(damaged), "damaged"),
        ("mnist", f"{serve}/nowhere", "prepare mnist from http"),
        ("emnist", str(empty), "holds no emnist-byclass-train-images-idx3-ubyte.gz"),
        (
            "emnist",
            f"{serve}/nowhere",
            "emnist-byclass-train-images-idx3-ubyte.gz: HTTPError: HTTP Error 404",
        ),
    ):
        with pytest.raises(DataError, match=reason) as error:
            prepare(name, source=source)
        assert "\n" not in str(error.value)
    generated = {"synthetic", "shapes_detection", "shapes_segmentation"}
    assert available_names() == {"digits", "npz", *generated}


def test_what_cannot_be_fetched(tmp_path: Path) -> None:
    for name, source, reason in (
        ("mnits", None, r"no data set named 'mnits' to fetch; did you mean mnist\?"),
        ("digits", None, "no data set named 'digits'"),
        ("mnist_writers", None, r"cannot be fetched; put .*mnist_writers\.npz.* under HARNESS_DATA_DIR"),
        ("emnist-lettres", None, r"unknown split 'lettres'; did you mean letters\?"),
        ("mnist-x", None, "task.options.split: unknown key"),
        ("mnist", str(tmp_path / "absent"), r"neither a folder nor http"),
    ):
        with pytest.raises(ConfigError, match=reason):
            prepare(name, source=source)


@pytest.mark.parametrize("key", ["HARNESS_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline(mnist_hub: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv(key, "1")
    for source in (None, "http://127.0.0.1:9/hub"):
        with pytest.raises(DataError, match=r"prepare mnist: offline .*; unset it or give a local source"):
            prepare("mnist", source=source)
    check_mnist(prepare("mnist", source=str(mnist_hub)))


def test_without_the_extra(mnist_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'edge-fl-harness\[data\]'"):
        prepare("mnist", source=str(mnist_hub))


def available_names() -> set[str]:
    return {name for name, where in available() if where}


def test_available(mnist_hub: Path, data_dir: Path) -> None:
    assert [name for name, _ in available()] == task_names()
    generated = {"synthetic", "shapes_detection", "shapes_segmentation"}
    assert available_names() == {"digits", "npz", *generated}
    entry = prepare("mnist", source=str(mnist_hub))
    assert dict(available())["mnist"] == str(entry)
    np.savez(data_dir / "cifar10.npz")
    assert dict(available())["cifar10"] == str(data_dir / "cifar10.npz")
