"""A grid's trials one after another from this process, on one warm runtime; ray_actors/sweep.py: several."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.run.driver import preflight
from harness.run.runtime import Runtime
from harness.run.store import run_folder
from harness.run.sweep import Cell
from harness.run.sweep_board import Board
from harness.run.sweep_trial import (
    BudgetSpent,
    MakeSinks,
    Outcome,
    Progress,
    Trial,
    attempt,
    is_finished,
)
from harness.types import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sweep may use."""

    jobs: int | None = None
    """Trials at once; None: as many as fit the free cores and GPUs."""
    budget_s: float | None = None
    """Wall seconds after which no trial goes on."""
    retries: int = 0
    """Of a trial that failed."""


def trials_of(cells: Sequence[Cell], *, resume: bool = True) -> list[Trial]:
    """A trial for each cell of a grid; without `resume` interrupted runs start again.

    Raises ConfigError for a cell that no run can satisfy.
    """
    check(cells)
    found = []
    for number, cell in enumerate(cells, start=1):
        if not resume and run_folder(cell.cfg).exists() and not is_finished(cell.cfg):
            run = dataclasses.replace(cell.cfg.run, resume=False, force=True)
            cell = dataclasses.replace(cell, cfg=dataclasses.replace(cell.cfg, run=run))
        found.append(Trial(number, cell.label, (cell,)))
    return found


def check(cells: Sequence[Cell]) -> None:
    """Raise ConfigError naming a cell that no run can satisfy."""
    for cell in {cell.cfg.digest: cell for cell in reversed(cells)}.values():
        try:
            preflight(cell.cfg)
        except ConfigError as error:
            raise ConfigError(f"cell {cell.label}: {error}") from None


def skip_finished(trials: Sequence[Trial], *, board: Board) -> list[Trial]:
    """Tell of the trials that are finished; return the others."""
    todo = []
    for trial in trials:
        if all(is_finished(cell.cfg) for cell in trial.cells):
            board.end(trial, Outcome("skipped", "finished before"))
        else:
            todo.append(trial)
    return todo


def run_trials(
    trials: Sequence[Trial], *, runtime: Runtime, make_sinks: MakeSinks, board: Board, limits: Limits
) -> None:
    """Play the trials that are not finished yet, in order; failed ones are told, the others go on.

    Raises BudgetSpent, and lets KeyboardInterrupt through: the same sweep goes on from there.
    """
    started = time.perf_counter()
    for trial in skip_finished(trials, board=board):

        def tell(progress: Progress, trial: Trial = trial) -> None:
            board.progress(trial, progress)
            if limits.budget_s is not None and time.perf_counter() - started >= limits.budget_s:
                raise BudgetSpent

        board.begin(trial)
        outcome = attempt(trial, runtime=runtime, make_sinks=make_sinks, tell=tell, retries=limits.retries)
        board.end(trial, outcome)
