"""Opening data files: decompression and checksums, with errors that name the file."""

import gzip
import hashlib
import zlib
from pathlib import Path

from harness.types import DataError


def read_bytes(path: Path, *, md5: str | None = None) -> bytes:
    """Content of a file, unpacked where its name ends in .gz. `md5` is of the file as it lies on disk.

    Raises DataError for an unreadable, truncated or altered file.
    """
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    verify(blob, md5, path)
    if path.suffix != ".gz":
        return blob
    try:
        return gzip.decompress(blob)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: truncated or not gzip ({error})") from None


def verify(blob: bytes, md5: str | None, where: Path) -> None:
    """Raise DataError unless `blob` has the published checksum (None: none is known)."""
    got = hashlib.md5(blob, usedforsecurity=False).hexdigest() if md5 else None
    if got != md5:
        raise DataError(f"{where}: wrong checksum (md5 {got}, published {md5}); fetch the file again")
