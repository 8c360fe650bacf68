"""A run's folder: every file in it is written here, in an order that survives a kill at any point.

A round is committed by its line in rounds.jsonl; a checkpoint names the last round a resumed run builds on.
So lines and ledger entries reach the disk before the checkpoint that counts on them, and resuming cuts
whatever is newer than the checkpoint.
"""

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pandas as pd
import yaml

from harness.config import Config, as_dict, require
from harness.run import checkpoint
from harness.run.checkpoint import Restored
from harness.run.environment import describe_environment
from harness.run.files import (
    LineLog,
    keep_rounds,
    read_json,
    read_lines,
    remove_temporaries,
    write_arrays,
    write_bytes,
    write_json,
)
from harness.run.ledger_files import compact, cut, write_segment
from harness.run.lock import RunLock
from harness.run.records import Commit, Summary
from harness.types import ConfigError

STOPPED = "stopped.json"
"""In the folder of a run that a search gave up early: it is not finished, and not merely interrupted."""

SHOWN = "predictions.npz"
"""In the folder of a finished run whose task has pictures to show: some of them, with predictions."""


def run_folder(cfg: Config) -> Path:
    """`results_dir/<run_id>`."""
    return Path(cfg.run.results_dir) / cfg.run_id


def finished_summary(cfg: Config) -> dict[str, Any] | None:
    """The summary of this very run where it is finished; None where it is not, or with run.force."""
    path = run_folder(cfg) / "summary.json"
    return None if cfg.run.force or not path.exists() else read_json(path)


class RunStore:
    """The open folder of one run, held by one process. Use as a context manager."""

    def __init__(self, folder: Path, *, lock: RunLock, restored: Restored | None) -> None:
        self.folder = folder
        self._lock = lock
        self._go_on(restored)

    @classmethod
    def open(cls, cfg: Config, *, partition: Mapping[str, Any]) -> Self:
        """Start the run's folder, or continue an interrupted run where run.resume asks for it.

        `partition` is plain JSON: who holds which examples. Nothing is deleted before this call, so a run
        with run.force that fails earlier leaves the old results alone. Raises ConfigError where a live
        process holds the folder, a run is in it that neither run.resume nor run.force covers, the
        partition differs from the interrupted run's, or no good checkpoint is left.
        """
        require(
            not (cfg.run.resume and cfg.run.force),
            "run.resume=true continues a run and run.force=true starts it again; set one of them",
        )
        folder = run_folder(cfg)
        folder.mkdir(parents=True, exist_ok=True)
        lock = RunLock.acquire(folder)
        try:
            restored = _prepare(folder, cfg, partition)
            return cls(folder, lock=lock, restored=restored)
        except BaseException:
            lock.release()
            raise

    def commit(self, commit: Commit) -> None:
        """Put a finished round on disk; the next round in order. Raises ConfigError if the lock was lost."""
        if commit.round != self.next_round:
            raise ValueError(f"round {commit.round} committed where round {self.next_round} is due")
        self._lock.check()
        if commit.shown is not None:
            write_arrays(self.folder / SHOWN, commit.shown)
        self._timings.append({"round": commit.round, **commit.timings})
        self._rounds.append({"round": commit.round, **commit.record})
        self._rounds.sync()
        self._frames.append(commit.ledger)
        self.next_round += 1
        if commit.checkpoint is not None:
            self._timings.sync()
            self._write_segment()
            checkpoint.save(self.folder, commit.checkpoint, next_round=self.next_round)

    def rewind(self) -> None:
        """Go back to the last checkpoint (or round 0) because the engine died: `restored`, `next_round`."""
        self._lock.check()
        self._close_logs()
        restored = checkpoint.restore(self.folder)
        _cut(self.folder, next_round=restored.next_round if restored else 0)
        self._go_on(restored)

    def records(self) -> list[dict[str, int | float]]:
        """Every committed line of rounds.jsonl, in order of rounds."""
        return read_lines(self.folder / "rounds.jsonl")

    def timings(self) -> list[dict[str, int | float]]:
        """The line of timings.jsonl of each committed round."""
        return read_lines(self.folder / "timings.jsonl")

    def finish(self, summary: Summary) -> None:
        """Join the ledger's files and write summary.json, which makes the run a finished one."""
        self._lock.check()
        self._timings.sync()
        self._write_segment()
        compact(self.folder / "ledger")
        write_json(self.folder / "summary.json", summary)

    def close(self) -> None:
        """Close the files and release the lock. What was not checkpointed is replayed by a resumed run."""
        self._close_logs()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _go_on(self, restored: Restored | None) -> None:
        self.restored = restored.state if restored else None
        """What `checkpoint.dump` gave after round `next_round - 1`; None for a run that starts at round 0."""
        self.next_round = restored.next_round if restored else 0
        """The round that is committed next."""
        self._segment_start = self.next_round
        self._frames: list[pd.DataFrame] = []
        self._rounds = LineLog(self.folder / "rounds.jsonl")
        self._timings = LineLog(self.folder / "timings.jsonl")

    def _close_logs(self) -> None:
        self._rounds.close()
        self._timings.close()

    def _write_segment(self) -> None:
        if self._frames:
            last = self.next_round - 1
            write_segment(self.folder / "ledger", self._frames, first=self._segment_start, last=last)
        self._frames = []
        self._segment_start = self.next_round


def _prepare(folder: Path, cfg: Config, partition: Mapping[str, Any]) -> Restored | None:
    """Bring the folder to the state in which the next round is committed."""
    if not cfg.run.force:
        require(
            not (folder / "summary.json").exists(),
            f"{folder}: holds this run, finished; use run.force=true to run it again",
        )
        require(
            cfg.run.resume or not read_lines(folder / "rounds.jsonl"),
            f"{folder}: holds this run, interrupted; use run.resume=true to continue it or "
            "run.force=true to start it again",
        )
    restored = checkpoint.restore(folder) if cfg.run.resume else None
    if restored is None:
        _start(folder, cfg, partition)
        return None
    _compare(folder, cfg, partition)
    _cut(folder, next_round=restored.next_round)
    return restored


def _start(folder: Path, cfg: Config, partition: Mapping[str, Any]) -> None:
    # The checkpoints go first and the summary next: a kill in between never leaves an old state beside new
    # files, nor a finished run without its records.
    first = ["checkpoint", "checkpoint.prev", "summary.json", "rounds.jsonl"]
    rest = sorted(path.name for path in folder.iterdir() if path.name not in {*first, "lock"})
    for path in (folder / name for name in first + rest):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (folder / "ledger").mkdir()
    write_bytes(folder / "config.yaml", yaml.safe_dump(as_dict(cfg), sort_keys=False).encode())
    write_json(folder / "env.json", describe_environment(cfg))
    write_json(folder / "partition.json", partition)


def _compare(folder: Path, cfg: Config, partition: Mapping[str, Any]) -> None:
    if read_json(folder / "partition.json") != json.loads(json.dumps(partition)):
        raise ConfigError(
            f"{folder}/partition.json: the interrupted run held other examples, so the data or the code has "
            "changed; use run.force=true to start again"
        )
    then, now = read_json(folder / "env.json"), json.loads(json.dumps(describe_environment(cfg)))
    changed = sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key))
    if changed:
        warnings.warn(
            f"{folder}: continued in another environment ({', '.join(changed)}), so its bits may differ from "
            "an uninterrupted run's",
            stacklevel=2,
        )


def _cut(folder: Path, *, next_round: int) -> None:
    """Drop whatever is newer than the checkpoint, and what a kill left half done."""
    (folder / STOPPED).unlink(missing_ok=True)
    for part in (".", "ledger", "checkpoint", "checkpoint.prev"):
        remove_temporaries(folder / part)
    cut(folder / "ledger", next_round)
    keep_rounds(folder / "timings.jsonl", next_round)
    keep_rounds(folder / "rounds.jsonl", next_round)
