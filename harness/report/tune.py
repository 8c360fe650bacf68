"""Tuning before a comparison: every variant of a sweep gets the same trials, the best on val is written down.

A trial is a value of every grid key of the sweep but the seed. It is worth the mean over its seeds of val at
the last evaluation within a budget (harness/report/compare.py): test is not read. What is written is a sweep
again, with the chosen values in its variants and seeds that no trial had.
"""

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from harness.config import require
from harness.report.compare import Budget, last_within
from harness.report.frames import Results
from harness.run.sweep import Cell, read_sections

SEED: Final = "run.seed"
OUTSIDE: Final = (SEED, "variant")


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate of a variant."""

    variant: str
    values: Mapping[str, Any]
    """Grid key -> value."""
    val: float
    """Mean over seeds within the budget; NaN where a seed had no evaluation there."""
    seeds: int
    """Finished runs."""


def trials(cells: Sequence[Cell], results: Results, budget: Budget) -> list[Trial]:
    """Every candidate of every variant with its worth, in the order of the sweep.

    Raises ConfigError where a sweep has no variants or nothing to choose, and where a run is missing.
    """
    keys = [key for key in cells[0].settings if key not in OUTSIDE]
    require("variant" in cells[0].settings, "tune: the sweep has no variants to tune")
    require(len(keys) > 0, "tune: the sweep's grid varies nothing but the seed; add for example method.lr")
    rounds = dict(iter(results.rounds.groupby("run_id")))
    runs = {run["run_id"]: run for run in results.runs[results.runs["finished"]].to_dict("records")}
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        values = json.dumps({key: cell.settings[key] for key in keys})
        groups.setdefault((str(cell.settings["variant"]), values), []).append(cell)
    found = []
    for (variant, values), group in groups.items():
        worth = []
        for cell in group:
            run = runs.get(cell.cfg.run_id)
            require(run is not None, f"tune: {cell.cfg.run_id} has not finished; run the sweep first")
            assert run is not None
            key = f"val/{run['metric']}"
            point = last_within(rounds[run["run_id"]], metric=str(run["metric"]), budget=budget)
            worth.append(math.nan if point is None else float(point.get(key, math.nan)))
        found.append(Trial(variant, json.loads(values), sum(worth) / len(worth), len(worth)))
    return found


def best(tried: Sequence[Trial]) -> dict[str, Trial]:
    """Variant -> its best trial, the first of equals. Raises ConfigError where none was within the budget."""
    chosen: dict[str, Trial] = {}
    for trial in tried:
        chosen.setdefault(trial.variant, trial)
        now = chosen[trial.variant].val
        if trial.val > now or (math.isnan(now) and not math.isnan(trial.val)):
            chosen[trial.variant] = trial
    for name, trial in chosen.items():
        require(not math.isnan(trial.val), f"tune: {name}: no evaluation within the budget; raise the budget")
    return chosen


def tuned_sweep(
    file: Path, chosen: Mapping[str, Trial], *, scale: str | None, before: Path, seeds: Sequence[int]
) -> dict[str, Any]:
    """The sweep in `file` with what was chosen at `scale` (None: the file as it stands), `seeds` in its grid.

    Choices at other scales are kept as they stand in `before`, where there is such a file.
    """
    sections = {key: copy.deepcopy(value) for key, value in read_sections(file).items() if value}
    old = read_sections(before) if before.exists() else {"variants": {}, "scales": {}}
    grid = sections["grid"]
    taken = grid.pop(SEED, [])
    keys = [key for key in list(grid) if grid.pop(key) is not None]
    require(
        not set(taken) & set(seeds), f"{file}: {SEED}: {taken} are to be tuned on, and compared on: {seeds}"
    )
    grid[SEED] = list(seeds)
    for name in [None, *sections.get("scales", {})]:
        section = sections if name is None else sections["scales"][name]
        past = old if name is None else old["scales"].get(name) or {}
        for key in keys:
            section.pop(key, None)
        if name is not None and SEED in section:
            section[SEED] = list(seeds[: len(section[SEED])]) if name == "smoke" else list(seeds)
        values = dict(_choices(past.get("variants") or {}, keys))
        if name == scale:
            values = {variant: dict(trial.values) for variant, trial in chosen.items()}
        for variant, choice in values.items():
            if variant in sections["variants"]:
                section.setdefault("variants", {}).setdefault(variant, {}).update(choice)
    sections["name"] = f"{sections.get('name') or file.stem}d"
    return sections


def _choices(variants: Mapping[str, Any], keys: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for variant, settings in variants.items():
        if found := {key: (settings or {})[key] for key in keys if key in (settings or {})}:
            yield variant, found


def to_yaml(sections: Mapping[str, Any], *, file: Path, budget: Budget, scale: str | None) -> str:
    """The text of a tuned sweep."""
    told = f"{budget.axis}={budget.amount:g}" + (f" --scale {scale}" if scale else "")
    head = f"# Written by `harness tune {file} --budget {told}`: edit that file, not this one.\n"
    # JSON first: YAML would name what occurs twice, and refer to it.
    plain = json.loads(json.dumps(sections))
    return head + yaml.safe_dump(plain, sort_keys=False, width=110, default_flow_style=None)
