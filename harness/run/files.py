"""Writing files so that a kill between any two operations leaves the old file or the new one, never a half.

The pattern is a temporary name in the same folder, fsync, rename; lines are appended, and a torn last line
is ignored by every reader. Folders are not synced, which would double the time of a commit: a power cut may
undo the last renames, and a resumed run then goes back one checkpoint more.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from harness.types import ConfigError


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary handle whose content becomes `path` all at once, on leaving the block without an error."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` all at once."""
    with replacing(path) as handle:
        handle.write(data)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Replace `path` by an .npz of plain arrays."""
    with replacing(path) as handle:
        np.savez_compressed(handle, allow_pickle=False, **arrays)


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    """Replace `path` by readable JSON; floats in full precision."""
    write_bytes(path, (json.dumps(tree, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises ConfigError where the file is damaged."""
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); run.force=true runs again") from None
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path}: must hold a JSON object, got {type(tree).__name__}; run.force=true runs again"
        )
    return tree


class LineLog:
    """An append-only file of one JSON object per line."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def append(self, row: Mapping[str, int | float]) -> None:
        """Add one line and hand it to the operating system. Non-finite floats are written NaN, Infinity."""
        self._file.write((json.dumps(row) + "\n").encode())
        self._file.flush()

    def sync(self) -> None:
        """Wait until every line lies on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_lines(path: Path) -> list[dict[str, int | float]]:
    """Every complete line of a LineLog; none where the file is missing. A torn last line is left out.

    Raises ConfigError for a complete line that is not JSON.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise ConfigError(f"{path}: a line is not JSON ({error}); run.force=true runs again") from None


def keep_rounds(path: Path, num_rounds: int) -> None:
    """Cut a LineLog after `num_rounds` lines. Raises ConfigError unless they are rounds 0, 1, ..."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    kept = lines[:num_rounds]
    try:
        rounds = [json.loads(line)["round"] for line in kept]
    except (ValueError, KeyError, TypeError):
        rounds = []
    if rounds != list(range(num_rounds)):
        raise ConfigError(
            f"{path}: damaged: the checkpoint builds on rounds 0 to {num_rounds - 1} of it; "
            "run.force=true starts again from round 0"
        )
    with path.open("r+b") as handle:
        handle.truncate(sum(len(line) + 1 for line in kept))
        os.fsync(handle.fileno())


def remove_temporaries(folder: Path) -> None:
    """Delete what an interrupted `replacing` left directly inside `folder`."""
    for path in folder.glob(".*.tmp"):
        path.unlink()
