"""The console: a progress bar with the time left, and a line per evaluation."""

from collections.abc import Mapping
from types import MappingProxyType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from harness.config import Config
from harness.run.records import Summary

TOTALS = (
    (("client_flops",), "FLOP"),
    (("tx_bytes",), "B up"),
    (("rx_bytes",), "B down"),
    (("compute_j", "link_j", "idle_j"), "J"),
)
"""Which totals are added up to one figure of the evaluation line, and its unit."""
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class ConsoleSink:
    """Draws on standard error, so that standard output stays free for results; silent off a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._shown = -1

    def start(self, cfg: Config, *, run_id: str, first_round: int) -> None:
        """Show the bar, already filled up to `first_round`."""
        self._shown = first_round - 1
        if not (cfg.log.console and self._console.is_terminal):
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds"))
        # A round can take minutes, so the time left is judged over a day and not over the usual half minute.
        self._progress = Progress(
            *columns,
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            speed_estimate_period=86400,
        )
        self._task = self._progress.add_task(run_id, total=cfg.run.num_rounds, completed=first_round)
        self._progress.start()

    def write(self, record: Mapping[str, int | float], timings: Mapping[str, int | float]) -> None:
        """Move the bar; print a line where the round was evaluated."""
        round = int(record["round"])
        if self._progress is None or round <= self._shown:
            return
        self._shown = round
        self._progress.update(self._task, completed=round + 1)
        if any(key.startswith(("eval/", "val/")) for key in record):
            self._console.print(evaluation_line(record, timings), highlight=False, soft_wrap=True)

    def finish(self, summary: Summary | None) -> None:
        """Give the terminal back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def evaluation_line(
    record: Mapping[str, int | float], timings: Mapping[str, int | float] = MappingProxyType({})
) -> str:
    """`round 3  eval/accuracy 0.913  ...  4.2 GFLOP  1.5 MB up  20 J`: the clients' totals so far.

    What was measured of this round alone comes last.
    """
    measured = [key for key in record if key.startswith(("eval/", "val/", "train/"))]
    parts = [f"round {record['round']}", *(f"{key} {record[key]:.4g}" for key in sorted(measured))]
    for names, unit in TOTALS:
        found = [record[key] for name in names if (key := f"cost/{name}_total") in record]
        parts += [with_prefix(sum(found), unit)] if found else []
    if "time/sim_s_total" in record:
        parts.append(f"{record['time/sim_s_total']:.4g} s simulated")
    if "energy/measured_j" in timings:
        parts.append(f"{with_prefix(timings['energy/measured_j'], 'J')} measured in this round")
    return "  ".join(parts)


def with_prefix(value: float, unit: str) -> str:
    """Three digits and a decimal prefix: 1530 B -> `1.53 kB`."""
    for factor, prefix in PREFIXES:
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
