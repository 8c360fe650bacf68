"""The python batches of CIFAR-10 and CIFAR-100, loose in a folder or inside a tar of any compression.

Source: https://www.cs.toronto.edu/~kriz/cifar.html. The batches are pickles, which can run code, so they
pass through an unpickler that rebuilds numpy arrays and plain containers and refuses everything else.
"""

import codecs
import io
import lzma
import pickle
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from harness.data.formats.files import read_bytes, verify
from harness.data.task import Examples
from harness.types import DataError


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds arrays, lists, strings and numbers; raises for any other name a pickle asks for."""

    def find_class(self, module: str, name: str) -> object:
        allowed: dict[tuple[str, str], object] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            # The same function under its old and new home.
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            # How protocol 2 spells a bytes object written by Python 3.
            ("_codecs", "encode"): codecs.encode,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"asks for {module}.{name}, which a batch has no use for")
        return allowed[module, name]


def read_cifar(
    source: Path, *, train: Sequence[str], test: Sequence[str], label_key: str, md5: Mapping[str, str]
) -> tuple[Examples, Examples]:
    """Batches named `train` and `test` out of a folder or a tar. Images are [N, 32, 32, 3] uint8.

    `md5` holds published checksums by batch name. Raises DataError.
    """
    parts: dict[str, Examples] = {}
    for name, blob in _blobs(source, {*train, *test}):
        where = source / name
        verify(blob, md5.get(name), where)
        parts[name] = _decode(blob, label_key, where)
    missing = [name for name in (*train, *test) if name not in parts]
    if missing:
        raise DataError(f"{source}: holds no batch named {', '.join(missing)}")
    return _join([parts[name] for name in train]), _join([parts[name] for name in test])


def _blobs(source: Path, names: set[str]) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for path in sorted(source.iterdir()):
            if path.name in names:
                yield path.name, read_bytes(path)
        return
    # In stored order: seeking back in a compressed tar would unpack it once per batch.
    try:
        with tarfile.open(source, "r|*") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                file = tar.extractfile(member) if member.isfile() and name in names else None
                if file is not None:
                    yield name, file.read()
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{source}: truncated or not a tar ({error})") from None


def _decode(blob: bytes, label_key: str, where: Path) -> Examples:
    try:
        tree = _ArrayUnpickler(io.BytesIO(blob), encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in tree.items()}
        data, labels = batch["data"], np.asarray(batch[label_key], np.int64)
    except KeyError as error:
        raise DataError(f"{where}: holds no {error}") from None
    # A damaged pickle can raise nearly anything; whatever it is, the file is to blame.
    except Exception as error:
        raise DataError(f"{where}: not a CIFAR batch ({error})") from None
    return Examples(inputs=_planes_last(data, where), targets=labels)


def _planes_last(data: object, where: Path) -> NDArray[np.uint8]:
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{where}: `data` must be uint8 [N, 3072], got {got}")
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _join(parts: Sequence[Examples]) -> Examples:
    return Examples(
        inputs=np.concatenate([part.inputs for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
    )
