"""What runs say about a claim: a statistic over seeds, of one configuration or two, with an interval.

A run counts for a claim when its configuration is that of the sweep's cell in every key that may change a
result, the `runtime` section (threads, GPUs) left out. So the scale of a run is known from what it was, not
from what it was called.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.config import NOT_HASHED, Config, as_dict, nearest, require
from harness.report.frames import SPENT, USUAL, Results, flatten
from harness.report.printed import Reader
from harness.run.sweep import Cell, expand, read_sections
from harness.types import ConfigError

MIN_SEEDS: Final = 5
"""Fewer do not make a verdict."""
STATISTICS: Final = (
    "final",
    "best",
    "lowest_val_loss",
    "early_swing",
    *(f"{cost}_to" for cost in SPENT),
    *(f"total_{cost}" for cost in SPENT),
)
"""`final`: test metric of the last round; `best`: test metric at the round of best val (or a formula of the
question there); `lowest_val_loss`: the round, from 1, where the loss on val was lowest; `early_swing`: what
the test metric loses from one evaluation to the next, summed over the first half of a run; `<cost>_to`: what
was spent when the metric reached `target`; `total_<cost>`: what the run cost."""
COMPARISONS: Final = ("difference", "ratio")

Floats = NDArray[np.float64]
Row = Mapping[Hashable, Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Whose runs answer a question at one scale."""

    scale: str
    """paper, small or smoke."""
    sides: tuple[Config, ...]
    """One configuration, two to compare, or four: the difference of two differences. Seed by seed; their own
    seeds do not matter."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the runs of a sweep."""

    candidates: tuple[Candidate, ...]
    """Fullest scale first."""
    statistic: str
    """One of STATISTICS."""
    target: float | None = None
    """Metric value for `<cost>_to`."""
    split: str = "val"
    """Where the target is read: val, or test where a paper defines it so."""
    compare: str = "difference"
    """difference (first - second) or ratio (first / second)."""
    values: tuple[str | None, ...] = (None,)
    """A formula over one run (harness/report/printed.py) instead of the task's metric, for each side; the
    last one stands for those that follow."""

    def value_of(self, side: int) -> str | None:
        """The formula of a side."""
        return self.values[min(side, len(self.values) - 1)]

    def check(self) -> None:
        """Raise ConfigError for a question that no runs answer."""
        for key, value, allowed in (
            ("statistic", self.statistic, STATISTICS),
            ("split", self.split, ("val", "test")),
            ("compare", self.compare, COMPARISONS),
        ):
            require(value in allowed, f"{key}: unknown value {value!r}{nearest(value, allowed)}")
        needs = self.statistic.endswith("_to")
        told = "needs a target" if needs else "has no target"
        require(needs == (self.target is not None), f"target: {self.statistic} {told}, got {self.target}")
        formula = next((value for value in self.values if value is not None), None)
        require(
            formula is None or self.statistic in ("final", "best"),
            f"value: {formula!r} is read where statistic is final or best, got {self.statistic}",
        )
        four = len(self.candidates[0].sides) == 4
        require(
            not four or self.compare == "difference", f"compare: less takes differences, got {self.compare}"
        )


@dataclass(frozen=True, slots=True)
class Measurement:
    """The answer."""

    mean: float
    """Over seeds; NaN where a seed's value is only bounded (a target that was not reached)."""
    low: float
    """Lower end of the 95 % bootstrap interval."""
    high: float
    """Upper end; inf where nothing bounds it."""
    seeds: int
    scale: str
    """paper, small or smoke."""


def cells_by_scale(sweep: Path) -> dict[str, list[Cell]]:
    """A sweep's cells at each of its scales, fullest first; a file without `paper` is full as it stands."""
    has = read_sections(sweep)["scales"]
    full = expand(sweep, scale="paper" if "paper" in has else None)
    return {"paper": full} | {
        scale: expand(sweep, scale=scale) for scale in ("small", "smoke") if scale in has
    }


def pick(cells: Sequence[Cell], side: Mapping[str, object]) -> Config:
    """The one configuration, up to the seed, with these settings. Raises ConfigError where it is not one."""
    told = ", ".join(f"{key}={value}" for key, value in side.items())
    keys = list(cells[0].settings)
    for key in side:
        require(key in keys, f"{key}: the sweep does not vary it{nearest(key, keys)}")
    found = [cell for cell in cells if all(cell.settings[key] == value for key, value in side.items())]
    require(len(found) > 0, f"{told}: no cell of the sweep has these settings")
    digests = {cell.cfg.digest for cell in found}
    require(len(digests) == 1, f"{told}: means {len(digests)} configurations; give more of {', '.join(keys)}")
    return found[0].cfg


def measure(question: Question, results: Results) -> Measurement | None:
    """The answer of the fullest scale with MIN_SEEDS seeds, else of the fullest with any; None without."""
    answers = []
    for candidate in question.candidates:
        sides = [_samples(cfg, question, side, results) for side, cfg in enumerate(candidate.sides)]
        seeds = sorted(set.intersection(*(set(side) for side in sides)))
        if seeds:
            bounds = [np.array([side[seed] for seed in seeds]) for side in sides]
            mean, low, high = _interval(bounds, question.compare)
            answers.append(Measurement(mean, low, high, seeds=len(seeds), scale=candidate.scale))
    enough = [answer for answer in answers if answer.seeds >= MIN_SEEDS]
    return next(iter(enough or answers), None)


def _samples(cfg: Config, question: Question, side: int, results: Results) -> dict[int, tuple[float, float]]:
    """Seed -> bounds of the statistic, from the finished runs of this configuration."""
    wanted = _settings({f"config.{key}": value for key, value in flatten(as_dict(cfg)).items()})
    found: dict[int, tuple[float, float]] = {}
    refused: list[ConfigError] = []
    for run in results.runs[results.runs["finished"]].to_dict("records"):
        if _settings(run) == wanted:
            rounds = results.rounds[results.rounds["run_id"] == run["run_id"]].sort_values("round")
            formula = question.value_of(side)
            if formula is None:
                low, high = _statistic(run, rounds, question)
            else:
                best = question.statistic == "best"
                try:
                    low = high = Reader(cfg, run, rounds, known={}).value(formula, best=best)
                except ConfigError as error:  # an older run may lack a metric
                    refused.append(error)
                    continue
            if not math.isnan(low):
                found[int(run["seed"])] = (low, high)
    if refused and not found:
        raise refused[0]
    return found


def _settings(row: Row) -> dict[str, object]:
    """The keys of a run's row that may change a result; null ones left out, as tables blur them.

    So are keys that older runs lack, where they stand for the same.
    """
    plain = row.get("config.compression.name", "none") == "none"
    left_out = tuple(f"config.{key}" for key in (*NOT_HASHED, "runtime", *(["compression"] if plain else [])))
    return {
        str(key): value
        for key, value in row.items()
        if str(key).startswith("config.")
        and not any(key == out or str(key).startswith(f"{out}.") for out in left_out)
        and not (value is None or value != value or USUAL.get(str(key)) == value)
    }


def _statistic(run: Row, rounds: pd.DataFrame, question: Question) -> tuple[float, float]:
    metric = run["metric"]
    if question.statistic in ("final", "best"):
        key = f"eval/{metric}" if question.statistic == "final" else f"best/eval/{metric}"
        value = float(run.get(key, math.nan))
        return value, value
    spent = rounds.assign(rounds=rounds["round"] + 1)
    if question.statistic == "early_swing":
        value = _swing(rounds, f"eval/{metric}")
        return value, value
    if question.statistic == "lowest_val_loss":
        return _lowest(spent, run)
    if question.statistic.startswith("total_"):
        value = float(spent[question.statistic.removeprefix("total_")].iloc[-1])
        return value, value
    column = spent[question.statistic.removesuffix("_to")]
    key = f"{'eval' if question.split == 'test' else 'val'}/{metric}"
    hits = column[spent[key] >= question.target] if key in spent else column.iloc[:0]
    if len(hits):
        return float(hits.iloc[0]), float(hits.iloc[0])
    # Not reached: more than the whole run, nobody knows how much.
    return float(column.iloc[-1]), math.inf


def _swing(rounds: pd.DataFrame, key: str) -> float:
    values = rounds[key].dropna().to_numpy(np.float64) if key in rounds else np.empty(0)
    early = values[: max(2, math.ceil(len(values) / 2))]
    return float(np.clip(-np.diff(early), 0.0, None).sum()) if len(early) > 1 else math.nan


def _lowest(rounds: pd.DataFrame, run: Row) -> tuple[float, float]:
    losses = rounds.dropna(subset=["val/loss"]) if "val/loss" in rounds else rounds.iloc[:0]
    if losses.empty:
        return math.nan, math.nan
    number = float(losses.sort_values("val/loss", kind="stable")["rounds"].iloc[0])
    after, patience = len(rounds) - number, run.get("config.method.patience")
    used_up = len(rounds) >= int(run["config.run.num_rounds"])
    # Rounds were used up before patience was: the lowest may have been still to come.
    waited = after >= patience if patience and patience == patience else after > 0
    return number, math.inf if used_up and not waited else number


def _interval(sides: Sequence[Floats], compare: str) -> tuple[float, float, float]:
    """Mean and 95 % percentile bootstrap over seeds (Efron 1979); two sides are resampled in pairs.

    `sides` holds bounds [seeds, 2] for each configuration.
    """
    num_seeds = len(sides[0])
    draws = np.random.default_rng(0).integers(num_seeds, size=(10_000, num_seeds))
    low, high = _combine([side[draws].mean(axis=1) for side in sides], compare)
    mean_low, mean_high = _combine([side.mean(axis=0)[None] for side in sides], compare)
    mean = float(mean_low[0]) if mean_low[0] == mean_high[0] else math.nan
    if np.isnan(low).any() or np.isnan(high).any():
        return mean, -math.inf, math.inf
    last = len(draws) - 1
    # No interpolation: between a number and infinity there is none.
    lowest = np.sort(low)[math.floor(0.025 * last)]
    highest = np.sort(high)[math.ceil(0.975 * last)]
    return mean, float(lowest), float(highest)


def _combine(means: Sequence[Floats], compare: str) -> tuple[Floats, Floats]:
    """Bounds of the difference or ratio of means, each [draws, 2]; of four, the difference of differences."""
    if len(means) == 4:
        (low, high), (less_low, less_high) = (_combine(means[i : i + 2], compare) for i in (0, 2))
        return low - less_high, high - less_low
    first = means[0]
    if len(means) == 1:
        return first[:, 0], first[:, 1]
    second = means[1]
    if compare == "difference":
        return first[:, 0] - second[:, 1], first[:, 1] - second[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return first[:, 0] / second[:, 1], first[:, 1] / second[:, 0]
