"""Runs copied between folders and shared storage, either way: whatever fsspec knows (s3://, gs://, file://)."""

from collections.abc import Callable
from typing import Any, Final

from harness.types import ConfigError

LAST: Final = "summary.json"
"""It makes a run a finished one, so it arrives last."""


def gather(source: str, target: str, *, say: Callable[[str], None]) -> int:
    """Copy every run in `source` to `target`, both folders or URLs; returns how many were copied.

    A finished run whose summary is there already is left alone: this can be repeated while a sweep goes on.
    Raises ConfigError for storage that cannot be reached, and where there are no runs.
    """
    (there, root), (here, place) = _open(source), _open(target)
    try:
        runs = [path.rpartition("/")[0] for path in sorted(there.glob(f"{root}/*/config.yaml"))]
        if not runs:
            raise ConfigError(f"gather: {source} holds no runs")
        copied = 0
        for run in runs:
            copied += (done := _copy(there, run, here, f"{place}/{run.rpartition('/')[2]}"))
            say(f"{run.rpartition('/')[2]}: {'copied' if done else 'there already'}")
        return copied
    except OSError as error:
        raise ConfigError(f"gather: {source} to {target}: {' '.join(str(error).split())}") from None


def _open(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        filesystem, path = url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(f"gather: {url}: {' '.join(str(error).split())}") from None
    return filesystem, str(path).rstrip("/")


def _copy(there: Any, run: str, here: Any, place: str) -> bool:
    summary = f"{run}/{LAST}"
    if there.exists(summary) and here.exists(f"{place}/{LAST}"):
        if there.cat_file(summary) == here.cat_file(f"{place}/{LAST}"):
            return False
        here.rm(f"{place}/{LAST}")
    files = [path for path in there.find(run) if not path.endswith("/lock")]
    for path in sorted(files, key=lambda path: (path == summary, path)):
        to = place + path.removeprefix(run)
        here.makedirs(to.rpartition("/")[0], exist_ok=True)
        with there.open(path, "rb") as old, here.open(to, "wb") as new:
            while block := old.read(1 << 20):
                new.write(block)
    return True
