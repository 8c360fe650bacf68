"""One live process per run folder. A dead holder never blocks: its process is gone, or its heart stopped."""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from harness.types import ConfigError

HEARTBEAT_S = 15.0
"""Seconds between two beats; a beat is the lock file's modification time."""
DEAD_AFTER_S = 60.0
"""A holder on another host is dead once its last beat is older than this."""


class Holder(NamedTuple):
    """Who holds a lock."""

    host: str
    pid: int
    started: str | None
    """When the process started, by its host's clock: tells a process from a later one with the same pid."""
    token: str
    """Drawn anew at each acquisition."""


class RunLock:
    """The file `lock` in a run's folder, kept fresh by a thread until `release`."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self._path = path
        self._holder = holder
        self._released = threading.Event()
        # A daemon: a beating heart must not keep a process alive that wants to exit.
        threading.Thread(target=self._beat, name=f"lock {path}", daemon=True).start()

    @classmethod
    def acquire(cls, folder: Path) -> "RunLock":
        """Take the lock of `folder`, which must exist. Raises ConfigError naming a live holder."""
        path = folder / "lock"
        with _one_at_a_time(folder.parent):
            other = _read(path)
            if other is not None and _alive(other, path):
                raise ConfigError(
                    f"{folder}: in use by process {other.pid} on {other.host}; "
                    "wait for it or stop it, or set another run.results_dir"
                )
            pid = os.getpid()
            holder = Holder(socket.gethostname(), pid, _started(pid), secrets.token_hex(8))
            temporary = folder / ".lock.tmp"
            temporary.write_text(json.dumps(holder._asdict()))
            os.replace(temporary, path)
        return cls(path, holder)

    def check(self) -> None:
        """Raise ConfigError where another process has taken over, e.g. while this one was suspended."""
        other = _read(self._path)
        if other != self._holder:
            taker = f"process {other.pid} on {other.host}" if other else "someone who deleted the lock"
            raise ConfigError(f"{self._path.parent}: was taken over by {taker}; this process stops here")

    def release(self) -> None:
        """Stop the heart and delete the file, where it is still ours."""
        self._released.set()
        if _read(self._path) == self._holder:
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):
                os.utime(self._path)


def held_by(folder: Path) -> Holder | None:
    """The live process that works on `folder`, if any."""
    holder = _read(folder / "lock")
    return holder if holder is not None and _alive(holder, folder / "lock") else None


def _read(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None  # absent, or not written by us: nobody to wait for


def _alive(holder: Holder, path: Path) -> bool:
    if holder.host != socket.gethostname():
        try:
            return time.time() - path.stat().st_mtime <= DEAD_AFTER_S
        except FileNotFoundError:
            return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # alive, and another user's
    now = _started(holder.pid)
    return now is None or holder.started is None or now == holder.started


def _started(pid: int) -> str | None:
    """Start of a process in clock ticks since the machine's (field 22 of proc(5) stat); None elsewhere."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return f"{boot}:{fields[19]}"


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Serialise the look-then-take of processes that share `folder`; the system drops it with a process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have none: the file alone must do
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
