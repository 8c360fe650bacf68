"""The idx format of MNIST and its relatives: two zero bytes, type, rank, big-endian sizes, then the values.

Source: http://yann.lecun.com/exdb/mnist, section "File formats".
"""

import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.data.formats.files import read_bytes
from harness.data.task import Examples
from harness.types import DataError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4"}


def read_idx(path: Path, *, md5: str | None = None) -> NDArray[np.generic]:
    """An idx file, plain or .gz, as an integer array. Raises DataError."""
    blob = read_bytes(path, md5=md5)
    if len(blob) < 4 or blob[:2] != b"\0\0" or blob[2] not in _TYPES:
        raise DataError(f"{path}: not an idx file of integers (starts with {blob[:4].hex() or 'nothing'})")
    rank = blob[3]
    start = 4 + 4 * rank
    if len(blob) < start:
        raise DataError(f"{path}: truncated inside the header ({len(blob)} bytes)")
    shape = struct.unpack(f">{rank}I", blob[4:start])
    dtype = np.dtype(_TYPES[blob[2]])
    want = math.prod(shape) * dtype.itemsize
    if len(blob) - start != want:
        raise DataError(
            f"{path}: truncated or too long: the header says {shape}, {want} bytes, got {len(blob) - start}"
        )
    values = np.frombuffer(blob, dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def read_idx_images(
    images: Path, labels: Path, *, md5: dict[str, str], transposed: bool = False, first_label: int = 0
) -> Examples:
    """A pair of idx files as [N, H, W, 1] uint8 images and labels from 0.

    `md5` holds published checksums by file name; `transposed` is EMNIST's column-major storage.
    Raises DataError.
    """
    x = read_idx(images, md5=md5.get(images.name))
    y = read_idx(labels, md5=md5.get(labels.name))
    if x.ndim != 3 or x.dtype != np.uint8:
        raise DataError(f"{images}: must hold uint8 [N, H, W], got {x.dtype} {x.shape}")
    if y.ndim != 1 or len(x) != len(y):
        raise DataError(f"{labels}: must hold one label per image, got {y.shape} for {len(x)} images")
    if transposed:
        x = x.transpose(0, 2, 1)
    return Examples(inputs=x[..., None], targets=y.astype(np.int64) - first_label)
