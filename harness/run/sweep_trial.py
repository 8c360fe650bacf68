"""A trial: what a sweep schedules as one. A cell of a grid, or a candidate of a search with all its seeds."""

import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from harness.config import Config
from harness.run.driver import execute
from harness.run.files import read_lines, write_bytes, write_json
from harness.run.lock import held_by
from harness.run.records import Summary
from harness.run.runtime import Runtime
from harness.run.sinks import Sink
from harness.run.store import STOPPED, finished_summary, run_folder
from harness.run.sweep import Cell
from harness.types import ConfigError

LOG: Final = "error.log"
"""In a run's folder: why it failed."""
POLL_S: Final = 0.2

State = Literal["finished", "skipped", "stopped", "failed"]
MakeSinks = Callable[[Config], Sequence[Sink]]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a search looks for: the best round of a run on val, the mean over a trial's runs."""

    metric: str
    """A key of rounds.jsonl that starts with val/."""
    mode: Literal["max", "min"]

    def best(self, values: Sequence[float]) -> float:
        """The best of some rounds."""
        return max(values) if self.mode == "max" else min(values)


@dataclass(frozen=True, slots=True)
class Trial:
    """Cells that are played in order, by one crew of actors."""

    number: int
    """From 1."""
    label: str
    cells: tuple[Cell, ...]

    @property
    def num_rounds(self) -> int:
        """Of all its runs together."""
        return sum(cell.cfg.run.num_rounds for cell in self.cells)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a trial is, told after each round."""

    run_id: str
    round: int
    """Rounds behind it, over all its runs."""
    told: str
    """The newest evaluation, in words."""
    value: float | None
    """Of the goal, so far; None without a goal, and before the first evaluation."""
    replayed: bool = False
    """The round is one of an earlier attempt, read from the run's files."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial ended."""

    state: State
    told: str
    """Its figures, or the reason why it failed, in one line."""
    wall_s: float = 0.0
    log: str | None = None
    """File with the traceback of a failure."""
    value: float | None = None
    """Of the goal."""


Tell = Callable[[Progress], None]


class BudgetSpent(Exception):
    """The sweep's time is up: the run that goes on is interrupted, to be resumed."""


class Reporter:
    """A sink that tells of each round of a trial's runs, those of an earlier attempt included."""

    def __init__(self, tell: Tell, *, goal: Goal | None) -> None:
        self.tell = tell
        self.goal = goal
        self.value: float | None = None
        self._done: list[float] = []
        self._values: list[float] = []
        self._before = 0
        self._run_id = ""
        self._replays = False

    def replay(self, cfg: Config, *, num_rounds: int | None = None) -> None:
        """Tell of what lies in the run's files, as if it was played now."""
        self._run_id = cfg.run_id
        self._values = []
        self._replays = True
        for record in read_lines(run_folder(cfg) / "rounds.jsonl")[:num_rounds]:
            self.write(record, {})
        self._replays = False

    def start(self, cfg: Config, *, run_id: str, first_round: int) -> None:
        self.replay(cfg, num_rounds=first_round)

    def write(self, record: Mapping[str, int | float], timings: Mapping[str, int | float]) -> None:
        evaluated = {key: value for key, value in record.items() if key.startswith(("val/", "eval/"))}
        if self.goal is not None and self.goal.metric in evaluated:
            self._values.append(evaluated[self.goal.metric])
            runs = [*self._done, self.goal.best(self._values)]
            self.value = sum(runs) / len(runs)
        told = ", ".join(f"{key} {value:.4g}" for key, value in sorted(evaluated.items()))
        behind = self._before + int(record["round"]) + 1
        self.tell(Progress(self._run_id, behind, told, self.value, self._replays))

    def finish(self, summary: Summary | None) -> None:
        pass

    def close_run(self, cfg: Config) -> None:
        """The run is over, the trial may go on with the next one."""
        self._before += cfg.run.num_rounds
        self._done += [self.goal.best(self._values)] if self.goal is not None and self._values else []


def play_trial(
    trial: Trial, *, runtime: Runtime, make_sinks: MakeSinks, tell: Tell, goal: Goal | None = None
) -> Outcome:
    """Run what is not finished of a trial. Raises whatever a run raises."""
    reporter = Reporter(tell, goal=goal)
    started = time.perf_counter()
    summary: Summary = {"metrics": {}}
    for cell in trial.cells:
        if goal is not None:
            wait_for(run_folder(cell.cfg))
        found = finished_summary(cell.cfg)
        if found is not None or (goal is not None and is_stopped(cell.cfg)):
            reporter.replay(cell.cfg)
            if found is None:
                return Outcome("stopped", _figures(goal, reporter.value), value=reporter.value)
        summary = found or execute(cell.cfg, runtime=runtime, sinks=[*make_sinks(cell.cfg), reporter])
        (run_folder(cell.cfg) / LOG).unlink(missing_ok=True)
        reporter.close_run(cell.cfg)
    metrics = summary["metrics"].items()
    told = ", ".join(f"{key} {value:.4g}" for key, value in metrics if key.startswith("eval/"))
    told = _figures(goal, reporter.value) if goal is not None else told
    return Outcome("finished", told, wall_s=time.perf_counter() - started, value=reporter.value)


def attempt(
    trial: Trial,
    *,
    runtime: Runtime,
    make_sinks: MakeSinks,
    tell: Tell,
    goal: Goal | None = None,
    retries: int = 0,
) -> Outcome:
    """Play a trial, again after a failure that may pass; what is left of it goes to the run's error.log.

    A retry goes on from the last checkpoint. A ConfigError is not retried. Lets BudgetSpent through.
    """
    while True:
        try:
            return play_trial(trial, runtime=runtime, make_sinks=make_sinks, tell=tell, goal=goal)
        except BudgetSpent:
            raise
        # Whatever went wrong in one trial, the others may be worth hours.
        except Exception as error:
            if isinstance(error, ConfigError) or retries == 0:
                return failed(trial, reason=reason_of(error), text=traceback.format_exc())
            retries -= 1
            warnings.warn(f"{trial.label}: {reason_of(error)}; tried again ({retries} left)", stacklevel=2)


def failed(trial: Trial, *, reason: str, text: str) -> Outcome:
    """The outcome of a trial that cannot go on, with `text` in the log of the run at fault."""
    cell = next((cell for cell in trial.cells if not is_finished(cell.cfg)), trial.cells[-1])
    log = run_folder(cell.cfg) / LOG
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(log, text.encode())
    except OSError as error:  # a full disk, say: the reason is told all the same
        return Outcome("failed", f"{reason} (no log: {error.strerror})")
    return Outcome("failed", reason, log=str(log))


def reason_of(error: BaseException) -> str:
    """One line."""
    told = " ".join(str(error).split())
    return told if isinstance(error, ConfigError) else f"{type(error).__name__}: {told}"


def is_finished(cfg: Config) -> bool:
    """A damaged run counts as unfinished: playing it says so, as a failure of this run alone."""
    try:
        return finished_summary(cfg) is not None
    except ConfigError:
        return False


def is_stopped(cfg: Config) -> bool:
    """A search stopped this run early, and nobody has gone on with it since."""
    return (run_folder(cfg) / STOPPED).exists() and not is_finished(cfg)


def mark_stopped(folder: Path, *, by: str, rounds: int, value: float) -> None:
    """Say in a run's folder that it was given up on purpose. Whoever goes on with the run removes it."""
    write_json(folder / STOPPED, {"by": by, "rounds": rounds, "value": value})


def wait_for(folder: Path) -> None:
    """Two candidates of a search may be one run: the second waits for the first, then reads it."""
    while held_by(folder) is not None:
        time.sleep(POLL_S)


def _figures(goal: Goal | None, value: float | None) -> str:
    return f"{goal.metric} {value:.4g}" if goal is not None and value is not None else "not evaluated"
