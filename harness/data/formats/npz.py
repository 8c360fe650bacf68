"""A user's own arrays: an .npz with x_train, y_train, x_test, y_test and, optionally, writer_train."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.data.task import Examples
from harness.types import DataError

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path) -> tuple[Examples, Examples]:
    """Train and test arrays. Images are uint8 [N, H, W] or [N, H, W, C]. Raises DataError."""
    arrays = _arrays(path, (*_KEYS, "writer_train"))
    writers = arrays.get("writer_train")
    if writers is not None:
        writers = _integers(writers, f"{path}: writer_train")
    return (
        Examples(
            _images(arrays["x_train"], f"{path}: x_train"),
            _integers(arrays["y_train"], f"{path}: y_train"),
            writers,
        ),
        Examples(
            _images(arrays["x_test"], f"{path}: x_test"), _integers(arrays["y_test"], f"{path}: y_test")
        ),
    )


def peek_npz(path: Path) -> tuple[tuple[int, int, int], NDArray[np.int64]]:
    """(H, W, C) of the images and the training labels, without reading an image. Raises DataError."""
    labels = _integers(_arrays(path, ("y_train",))["y_train"], f"{path}: y_train")
    try:
        with zipfile.ZipFile(path) as archive, archive.open("x_train.npy") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version[0] == 1
                else np.lib.format.read_array_header_2_0
            )
            shape = read(file)[0]
    except KeyError:
        raise DataError(f"{path}: holds no x_train; it must hold {', '.join(_KEYS)}") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: x_train cannot be read ({error})") from None
    if len(shape) not in (3, 4):
        raise DataError(f"{path}: x_train must be [N, H, W] or [N, H, W, C], got {shape}")
    return (shape[1], shape[2], shape[3] if len(shape) == 4 else 1), labels


def _arrays(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[np.generic]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: a single array; it must be an .npz with {', '.join(_KEYS)}")
        with loaded as archive:
            missing = [name for name in names if name in _KEYS and name not in archive]
            if missing:
                raise DataError(f"{path}: holds no {', '.join(missing)}; it must hold {', '.join(_KEYS)}")
            return {name: archive[name] for name in names if name in archive}
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: truncated or not an .npz of plain arrays ({error})") from None


def _images(x: NDArray[np.generic], where: str) -> NDArray[np.generic]:
    if x.dtype != np.uint8:
        raise DataError(f"{where} must be uint8, got {x.dtype}")
    if x.ndim not in (3, 4):
        raise DataError(f"{where} must be [N, H, W] or [N, H, W, C], got {x.shape}")
    return x if x.ndim == 4 else x[..., None]


def _integers(y: NDArray[np.generic], where: str) -> NDArray[np.int64]:
    if not np.issubdtype(y.dtype, np.integer) or y.ndim != 1:
        raise DataError(f"{where} must be integers [N], got {y.dtype} {y.shape}")
    return y.astype(np.int64)
