"""What a sweep shows while it runs: a live table on a terminal, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from harness.run.sweep_trial import Goal, Outcome, Progress, State, Trial

COLOURS: dict[str, str] = {"running": "cyan", "failed": "red", "stopped": "yellow", "finished": "green"}
MOST_ROWS = 30
"""Of the live table: what runs, what failed, and the newest of the others."""


@dataclass
class Row:
    """A trial that was begun."""

    trial: Trial
    started: float
    state: State | str = "running"
    round: int = 0
    told: str = ""
    wall_s: float = 0.0


class Board:
    """Hears of every trial; counts, tells, and draws. Use as a context manager."""

    def __init__(
        self, total: int, *, say: Callable[[str], None], word: str = "cell", console: Console | None = None
    ) -> None:
        """`word` is what a trial is called; without a `console` that is a terminal nothing is drawn."""
        self.total = total
        self.word = word
        self.outcomes: dict[int, tuple[Trial, Outcome]] = {}
        self._say = say
        self._rows: dict[int, Row] = {}
        live = console is not None and console.is_terminal
        self._live = Live(console=console, get_renderable=self.table, refresh_per_second=2) if live else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def begin(self, trial: Trial) -> None:
        """A trial starts, or starts again."""
        again = trial.number in self._rows
        self._rows[trial.number] = Row(trial, started=time.perf_counter())
        if not self._live:
            ids = trial.cells[0].cfg.run_id + ("" if len(trial.cells) == 1 else ", ...")
            told = f"({ids}{self._eta()}){' again' if again else ''}"
            self._say(f"{self._head(trial)} {told}")

    def progress(self, trial: Trial, progress: Progress) -> None:
        """It played a round."""
        row = self._rows[trial.number]
        row.round = progress.round
        row.told = progress.told or row.told

    def end(self, trial: Trial, outcome: Outcome) -> None:
        """It is over."""
        self.outcomes[trial.number] = (trial, outcome)
        row = self._rows.setdefault(trial.number, Row(trial, started=time.perf_counter()))
        row.state, row.told = outcome.state, outcome.told
        row.wall_s = time.perf_counter() - row.started
        head = self._head(trial)
        if outcome.state == "failed":
            self._say(f"{head}: FAILED, {outcome.told}" + (f"; see {outcome.log}" if outcome.log else ""))
        elif self._live:
            return
        elif outcome.state == "skipped":
            self._say(f"{head}: finished before, skipped")
        elif outcome.state == "stopped":
            self._say(f"{head}: stopped early after {row.round} rounds; {outcome.told}")
        else:
            self._say(f"{head}: done in {duration(row.wall_s)}; {outcome.told}")

    def count(self, state: State) -> int:
        """Trials that ended so."""
        return sum(outcome.state == state for _, outcome in self.outcomes.values())

    def failures(self) -> list[tuple[Trial, Outcome]]:
        """Trials that failed."""
        return [pair for _, pair in sorted(self.outcomes.items()) if pair[1].state == "failed"]

    def best(self, goal: Goal) -> str | None:
        """The trial of the best value, in words."""
        found = [(o.value, t) for t, o in self.outcomes.values() if o.value is not None]
        value, trial = next(
            ((value, trial) for value, trial in found if value == goal.best([v for v, _ in found])),
            (0.0, None),
        )
        return f"{trial.label} ({goal.metric} {value:.4g}, trial {trial.number})" if trial else None

    def close(self) -> None:
        """The last lines."""
        stopped = f", {self.count('stopped')} stopped early" if self.count("stopped") else ""
        self._say(
            f"{self.count('finished')} run, {self.count('skipped')} finished before{stopped}, "
            f"{self.count('failed')} failed"
        )
        for trial, outcome in self.failures():
            self._say(
                f"FAILED {trial.label}: {outcome.told}" + (f"; see {outcome.log}" if outcome.log else "")
            )

    def table(self) -> Table:
        """The newest trials, what runs and what failed first to stay."""
        table = Table(title=self._title(), title_justify="left")
        for column in ("", "settings", "state", "round", "newest", "time"):
            table.add_column(column, overflow="fold")
        kept = [row for row in self._rows.values() if row.state in ("running", "failed")]
        others = [row for row in self._rows.values() if row.state not in ("running", "failed")]
        kept += others[max(0, len(others) - MOST_ROWS + len(kept)) :]
        for row in sorted(kept, key=lambda row: row.trial.number):
            wall_s = time.perf_counter() - row.started if row.state == "running" else row.wall_s
            colour = COLOURS.get(row.state, "dim")
            table.add_row(
                str(row.trial.number),
                escape(row.trial.label),
                f"[{colour}]{row.state}[/]",
                f"{row.round}/{row.trial.num_rounds}",
                escape(row.told),
                duration(wall_s),
            )
        return table

    def _title(self) -> str:
        counts = Counter(row.state for row in self._rows.values())
        told = ", ".join(f"{number} {state}" for state, number in counts.items())
        return f"{len(self.outcomes)} of {self.total} {self.word}s ended: {told or 'starting'}{self._eta()}"

    def _head(self, trial: Trial) -> str:
        return f"{self.word} {trial.number}/{self.total}: {trial.label}"

    def _eta(self) -> str:
        # The median: the first trial also waited for actors to start.
        walls = [row.wall_s for row in self._rows.values() if row.state == "finished"]
        left = self.total - len(self.outcomes)
        at_once = max(1, sum(row.state == "running" for row in self._rows.values()))
        return f"; about {duration(left * median(walls) / at_once)} left" if walls and left else ""


def duration(seconds: float) -> str:
    """`1 h 2 min`, `3 min 4 s`, `5 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
