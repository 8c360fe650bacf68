import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from harness.run.lock import DEAD_AFTER_S, RunLock, held_by
from harness.types import ConfigError


def write_lock(folder: Path, *, age_s: float = 0.0, **changes: object) -> None:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "started": None, "token": "a", **changes}
    (folder / "lock").write_text(json.dumps(holder))
    then = time.time() - age_s
    os.utime(folder / "lock", (then, then))


def dead_pid() -> int:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    lock = RunLock.acquire(tmp_path)
    lock.check()
    holder = held_by(tmp_path)
    assert holder is not None
    assert (holder.pid, holder.host) == (os.getpid(), socket.gethostname())
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} on {socket.gethostname()}"):
        RunLock.acquire(tmp_path)
    lock.release()
    assert held_by(tmp_path) is None
    RunLock.acquire(tmp_path).release()


def test_a_dead_process_of_this_host_never_blocks(tmp_path: Path) -> None:
    write_lock(tmp_path, pid=dead_pid())
    assert held_by(tmp_path) is None
    RunLock.acquire(tmp_path).release()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="start of a process is read from /proc")
def test_a_later_process_with_the_pid_of_a_dead_one_does_not_block(tmp_path: Path) -> None:
    write_lock(tmp_path, started="boot:1")
    assert held_by(tmp_path) is None
    RunLock.acquire(tmp_path).release()


@pytest.mark.parametrize(("age_s", "alive"), [(DEAD_AFTER_S - 30, True), (DEAD_AFTER_S + 30, False)])
def test_another_host_is_judged_by_its_heartbeat(tmp_path: Path, age_s: float, alive: bool) -> None:
    write_lock(tmp_path, host="elsewhere", pid=dead_pid(), age_s=age_s)
    assert (held_by(tmp_path) is not None) == alive
    if alive:
        with pytest.raises(ConfigError, match="on elsewhere"):
            RunLock.acquire(tmp_path)
    else:
        RunLock.acquire(tmp_path).release()


def test_the_heart_beats_and_lets_the_process_exit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.run.lock.HEARTBEAT_S", 0.001)
    beaten = threading.Event()
    monkeypatch.setattr("harness.run.lock.os.utime", lambda path: beaten.set())
    lock = RunLock.acquire(tmp_path)
    assert beaten.wait(30)
    beating = [thread for thread in threading.enumerate() if thread.name == f"lock {tmp_path / 'lock'}"]
    assert [thread.daemon for thread in beating] == [True]
    lock.release()
    beating[0].join(30)
    assert not beating[0].is_alive()


def test_losing_the_lock_is_noticed_and_the_taker_keeps_it(tmp_path: Path) -> None:
    lock = RunLock.acquire(tmp_path)
    write_lock(tmp_path, pid=7, host="elsewhere")
    with pytest.raises(ConfigError, match="taken over by process 7 on elsewhere"):
        lock.check()
    lock.release()
    assert held_by(tmp_path) is not None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_damaged_lock_does_not_block(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock").write_text(content)
    RunLock.acquire(tmp_path).release()


def test_of_many_processes_that_find_a_dead_holder_one_wins(tmp_path: Path) -> None:
    dead = dead_pid()
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        write_lock(folder, pid=dead)
        answers, answer = os.pipe()
        hold, holding = os.pipe()
        children = []
        for _ in range(4):
            child = os.fork()
            if not child:
                os.close(holding)
                try:
                    RunLock.acquire(folder)
                    os.write(answer, b"y")
                except ConfigError:
                    os.write(answer, b"n")
                os.read(hold, 1)  # stay alive until everybody has answered
                os._exit(0)
            children.append(child)
        found = b""
        while len(found) < 4:
            found += os.read(answers, 4)
        os.close(holding)
        for child in children:
            os.waitpid(child, 0)
        assert sorted(found.decode()) == ["n", "n", "n", "y"]
