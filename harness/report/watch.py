"""The page kept up with a sweep that runs: written again when a run's files changed, reloaded by itself."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Final

from harness.report import html
from harness.types import ConfigError

WATCHED: Final = ("rounds.jsonl", "summary.json")
"""Files of a run whose change is news."""
RELOAD_S: Final = 5
"""Seconds after which an open page reads itself again."""

State = dict[Path, tuple[int, int]]


def watch(
    folder: Path,
    *,
    out: Path,
    target: float | None,
    say: Callable[[str], None],
    pause: Callable[[], None] = lambda: time.sleep(2.0),
) -> None:
    """Write the page of `folder` whenever a run changed, until interrupted.

    `pause` lies between two looks. The caller writes the last page, which no longer reloads itself. Raises
    ConfigError for an impossible target.
    """
    seen: State | None = None
    try:
        while True:
            now = state_of(folder)
            if now != seen:
                seen = now
                say(refresh(folder, out=out, target=target))
            pause()
    except KeyboardInterrupt:
        return


def state_of(folder: Path) -> State:
    """Size and time of change, ns, of every watched file."""
    found: State = {}
    for name in WATCHED:
        for path in folder.glob(f"*/{name}"):
            try:
                about = path.stat()
            except OSError:  # gone between the two calls
                continue
            found[path] = about.st_size, about.st_mtime_ns
    return found


def refresh(folder: Path, *, out: Path, target: float | None) -> str:
    """Write the page, and say so in a line; a folder without a finished round yet is no mistake here."""
    rounds = len(list(folder.glob("*/rounds.jsonl")))
    if not any(path.stat().st_size for path in folder.glob("*/rounds.jsonl")):
        return f"{folder}: waiting for a first round"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the page tells which runs are unfinished
            page = html.write(folder, out=out, target=target, reload_s=RELOAD_S)
    except ConfigError as error:
        if str(error).startswith("target"):
            raise
        return f"{folder}: waiting ({error})"
    return f"{page}: {rounds} runs, {time.strftime('%H:%M:%S')}"
