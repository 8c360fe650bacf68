"""The one form in which file-backed tasks are read: `.npy` arrays, mapped and shared by all processes.

`<HARNESS_CACHE_DIR>/<task>/<entry>/{train,test}_{inputs,targets,writers}.npy`, rows in `stratified_order`.
An entry is named after a fingerprint of the files it was made from, or `prepared` when it was fetched.
"""

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.data.resize import resize
from harness.data.splits import Stored, stratified_order
from harness.data.task import Examples
from harness.types import DataError

_VERSION = 1
_CHUNK = 8192
_CHUNK_BYTES = 1 << 28


def cache_dir() -> Path:
    """HARNESS_CACHE_DIR, by default ~/.cache/edge-fl-harness."""
    return Path(os.environ.get("HARNESS_CACHE_DIR") or "~/.cache/edge-fl-harness").expanduser()


def fingerprint(files: Sequence[Path], *, settings: str = "") -> str:
    """Changes whenever name, size or time of a source file does (for a folder: its number of entries).

    `settings`: what else the entry depends on.
    """
    parts = [f"version {_VERSION}", *([settings] if settings else [])]
    for path in files:
        stat = path.stat()
        size = len(os.listdir(path)) if path.is_dir() else stat.st_size
        parts.append(f"{path.name} {size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def read(entry: Path) -> Stored:
    """Map an entry's arrays; no image is read until it is used. Raises DataError."""
    return Stored(train=_read_side(entry, "train"), test=_read_side(entry, "test"))


def write(entry: Path, stored: Stored, *, size: int | None = None, ordered: bool = False) -> None:
    """Put an entry in place, whole or not at all. Of two processes that write it, the first one wins.

    `size`: side in pixels to resize to; `ordered`: rows are in `stratified_order` already.
    Raises DataError where the folder cannot be written.
    """
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        temp = Path(tempfile.mkdtemp(prefix=".new-", dir=entry.parent))
    except OSError as error:
        raise DataError(
            f"{entry.parent}: cannot be written ({error.strerror}); set HARNESS_CACHE_DIR"
        ) from None
    try:
        for side, examples in (("train", stored.train), ("test", stored.test)):
            order = np.arange(len(examples)) if ordered else stratified_order(examples.targets)
            _write_inputs(temp / f"{side}_inputs.npy", examples.inputs, order, size)
            np.save(temp / f"{side}_targets.npy", examples.targets[order])
            if examples.writers is not None:
                np.save(temp / f"{side}_writers.npy", examples.writers[order])
        temp.chmod(0o755)  # a cache may be shared; mkdtemp keeps its folders private
        temp.rename(entry)
    except OSError as error:
        if not entry.is_dir():
            raise DataError(f"{entry}: cannot be written ({error.strerror}); set HARNESS_CACHE_DIR") from None
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def replace(entry: Path, stored: Stored) -> None:
    """Write an entry in place of an older one and of the sizes derived from it. Raises DataError."""
    for old in (*entry.parent.glob(f"{entry.name}-*px"), entry):
        shutil.rmtree(old, ignore_errors=True)
    write(entry, stored)


def sized(entry: Path, size: int) -> Path:
    """The entry with images of `size` x `size` pixels, made from `entry` where it is not there yet."""
    target = entry.with_name(f"{entry.name}-{size}px")
    if not target.is_dir():
        write(target, read(entry), size=size, ordered=True)
    return target


def _write_inputs(
    path: Path, inputs: NDArray[np.generic], order: NDArray[np.int64], size: int | None
) -> None:
    side = inputs.shape[1:3] if size is None else (size, size)
    shape = (len(order), *side, inputs.shape[3])
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    # In chunks, so that a data set is never held twice.
    chunk = max(1, min(_CHUNK, _CHUNK_BYTES // max(1, math.prod(shape[1:]))))
    for start in range(0, len(order), chunk):
        rows = inputs[order[start : start + chunk]]
        out[start : start + chunk] = rows if size is None else resize(rows, size=size)
    out.flush()


def _read_side(entry: Path, side: str) -> Examples:
    writers = entry / f"{side}_writers.npy"
    targets = _map(entry / f"{side}_targets.npy")
    return Examples(
        inputs=_map(entry / f"{side}_inputs.npy"),
        targets=targets.astype(np.int64, copy=False) if targets.ndim == 1 else targets,
        writers=_map(writers).astype(np.int64, copy=False) if writers.exists() else None,
    )


def _map(path: Path) -> NDArray[np.generic]:
    try:
        # A plain view of the mapped file: indexing a memmap itself costs more.
        return np.asarray(np.load(path, mmap_mode="r"))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: damaged cache ({error}); delete {path.parent}") from None
