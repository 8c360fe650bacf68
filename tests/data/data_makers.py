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


def write_photograph(path: Path, *, width: int = 60, height: int = 40) -> Path:
    """A dark picture whose red value grows to the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 200, width).astype(np.uint8)
    return write_png(path, pixels)


def annotation(*objects: tuple[str, Sequence[float]], size: tuple[int, int] = (60, 40)) -> str:
    """VOC's XML of (name, (xmin, ymin, xmax, ymax)); a name that ends in ! is difficult."""
    told = "".join(
        f"<object><name>{name.rstrip('!')}</name><difficult>{int(name.endswith('!'))}</difficult><bndbox>"
        f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>"
        "</bndbox></object>"
        for name, box in objects
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{told}</annotation>"


def write_mask(path: Path, classes: NDArray[np.uint8]) -> Path:
    """A palette image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(classes, mode="P")
    image.putpalette([value for index in range(256) for value in (index, 255 - index, 128)])
    image.save(path)
    return path


def write_voc(root: Path, *, train: int = 8, val: int = 2, test: int = 3) -> None:
    """Cats and dogs in turn, image i with 1 + i % 2 boxes; class 1 or 2 on the left half of a mask."""
    names = [f"im{i:02}" for i in range(train + val + test)]
    parts = {"train": names[:train], "val": names[train : train + val], "test": names[train + val :]}
    for folder in ("Main", "Segmentation"):
        (root / "ImageSets" / folder).mkdir(parents=True, exist_ok=True)
        for part, members in parts.items():
            if members:
                (root / f"ImageSets/{folder}/{part}.txt").write_text("".join(f"{n}\n" for n in members))
    (root / "Annotations").mkdir()
    for i, name in enumerate(names):
        write_photograph(root / f"JPEGImages/{name}.jpg")
        pet = ("cat", "dog")[i % 2]
        boxes = [(pet, (1, 1, 30, 20)), ("dog", (31, 21, 60, 40))][: 1 + i % 2]
        (root / f"Annotations/{name}.xml").write_text(annotation(*boxes))
        mask = np.zeros((40, 60), np.uint8)
        mask[:, :30] = 1 + i % 2
        mask[0] = 255
        write_mask(root / f"SegmentationClass/{name}.png", mask)
