"""Small files in the published formats, made by hand."""

import gzip
import json
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def idx_bytes(array: NDArray[np.generic]) -> bytes:
    code, dtype = {1: (0x08, ">u1"), 4: (0x0C, ">i4")}[array.dtype.itemsize]
    head = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(dtype).tobytes()


def write_idx(path: Path, array: NDArray[np.generic]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    blob = idx_bytes(array)
    path.write_bytes(gzip.compress(blob, mtime=0) if path.suffix == ".gz" else blob)
    return path


def write_mnist(folder: Path, *, train: int = 60, test: int = 20, end: str = ".gz") -> NDArray[np.uint8]:
    """Four idx files with pixel values below 200; returns the training images."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (train + test, 28, 28)).astype(np.uint8)
    labels = (np.arange(train + test) % 10).astype(np.uint8)
    write_idx(folder / f"train-images-idx3-ubyte{end}", images[:train])
    write_idx(folder / f"train-labels-idx1-ubyte{end}", labels[:train])
    write_idx(folder / f"t10k-images-idx3-ubyte{end}", images[train:])
    write_idx(folder / f"t10k-labels-idx1-ubyte{end}", labels[train:])
    return images[:train]


def cifar_batch(rows: NDArray[np.uint8], labels: Sequence[int], key: str = "labels") -> bytes:
    return pickle.dumps({b"data": rows, key.encode(): list(labels), b"batch_label": b"a batch"}, protocol=2)


def write_cifar10(folder: Path, *, per_batch: int = 20) -> None:
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        rows = rng.integers(0, 256, (per_batch, 3072)).astype(np.uint8)
        (folder / name).write_bytes(cifar_batch(rows, [i % 10 for i in range(per_batch)]))


def write_leaf(path: Path, users: Mapping[str, tuple[object, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {user: {"x": x, "y": y} for user, (x, y) in users.items()}
    path.write_text(json.dumps({"users": list(users), "num_samples": [0], "user_data": data}))
    return path


def write_png(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path
