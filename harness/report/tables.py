"""Methods side by side: a row per method and configuration, means over seeds, and what the accuracy cost.

Test values are read at the round of the best validation value, and a target counts as reached at the first
round whose validation value reaches it: nothing is chosen by looking at the test set.
"""

import contextlib
import csv
import io
import json
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from harness.config import NOT_HASHED
from harness.report.frames import AXES, USUAL, Results
from harness.types import ConfigError

UNITS: Final[Mapping[str, Sequence[tuple[float, str]]]] = {
    "bytes": ((1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"), (1e15, "PB")),
    "uploads": ((1.0, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"), (1e15, "PB")),
    "flops": ((1e6, "MFLOP"), (1e9, "GFLOP"), (1e12, "TFLOP"), (1e15, "PFLOP"), (1e18, "EFLOP")),
    "joules": ((1e-3, "mJ"), (1.0, "J"), (1e3, "kJ"), (1e6, "MJ"), (1e9, "GJ")),
    "sim_s": ((1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "days")),
}
TITLES: Final = {
    "bytes": "Traffic",
    "uploads": "Uploads",
    "flops": "Client compute",
    "joules": "Client energy",
    "sim_s": "Simulated time",
}
METRICS: Final = {"miou": "mean IoU", "map50": "mAP@0.5", "pixel_accuracy": "pixel accuracy"}
"""How a metric is called where its key is not its name."""
INTERVAL: Final = "95 % interval"
WHOLE_RUN: Final = "Cost of the whole run"
DEFAULT_SHARE: Final = 0.95
"""The target where none is given: this share of the best mean validation value of the task."""

SECTIONS: Final = (
    "method",
    "compression",
    "partition",
    "scheduler",
    "fleet",
    "task",
    "run",
    "runtime",
    "log",
)
"""Of the configuration, the most telling first."""
NOT_COMPARED: Final = ("run.target", "run.num_rounds", "run.eval_every", "runtime")
"""Settings that may differ between methods without making their comparison unfair."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An engineering unit."""

    factor: float
    """Base units in one of it."""
    unit: str


def named(metric: object) -> str:
    """A metric as readers know it."""
    return METRICS.get(str(metric), str(metric))


def scale_of(value: float, quantity: str) -> Scale:
    """The largest unit of a quantity (a key of UNITS) in which `value` is at least 1."""
    fitting = [Scale(*u) for u in UNITS[quantity] if u[0] <= abs(value)]
    return fitting[-1] if fitting else Scale(*UNITS[quantity][0])


def significant(value: float, digits: int = 3) -> str:
    """`value` with so many significant digits, never in exponent form: 0.0123, 1.23, 1230."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "—"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values`; NaN for fewer than two.

    Efron, "Bootstrap methods: another look at the jackknife" (1979).
    """
    sample: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if len(sample) < 2:
        return math.nan, math.nan
    rows = np.random.default_rng(seed).integers(len(sample), size=(resamples, len(sample)))
    low, high = np.quantile(sample[rows].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def hashed_keys(runs: pd.DataFrame) -> list[str]:
    """Columns of the settings that may change a result."""
    keys = [str(c) for c in runs.columns if str(c).startswith("config.")]
    left_out = tuple(f"config.{key}" for key in NOT_HASHED)
    return [k for k in keys if not any(k == o or k.startswith(f"{o}.") for o in left_out)]


def differing(runs: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Those of `keys` that do not hold one value in all `runs`."""
    if len(runs) == 1:  # of most methods there is one variant
        return []
    return [key for key in keys if len(set(_told(runs[key], key))) > 1]


def _told(column: "pd.Series[Any]", key: str) -> list[str]:
    """Values as text."""
    return [repr(_usual(value, key)) for value in column]


def _usual(value: Any, key: str) -> Any:
    if key not in USUAL:
        return value
    return USUAL[key] if pd.isna(value) or value == USUAL[key] else value


def label_variants(runs: pd.DataFrame) -> "pd.Series[str]":
    """A readable name for each run: its own, or its method and the settings in which its variants differ.

    Two runs of a task have the same name exactly when they have the same method and digest.
    """
    if "name" in runs:
        return _unique(runs, runs["name"])
    labels = pd.Series("", index=runs.index, dtype=object)
    keys = hashed_keys(runs)
    for _, group in runs.groupby(["task", "method"], sort=False):
        name = str(group["method"].iloc[0]).rsplit(":", 1)[-1]
        variants = group.drop_duplicates("digest")
        told = telling(variants, differing(variants, keys))
        for _, row in variants.iterrows():
            settings = [f"{_short_key(key)}={_plain(_usual(row[key], key))}" for key in told]
            members = group.index[group["digest"] == row["digest"]]
            labels[members] = f"{name} ({', '.join(settings)})" if settings else name
    return _unique(runs, labels)


def _short_key(column: str) -> str:
    """`config.method.mu` -> mu; `config.partition.name` -> partition, as on the command line."""
    _, section, *_, leaf = column.split(".")
    return section if leaf == "name" else leaf


def telling(variants: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """All of up to three differing settings; of more, up to four that together tell most variants apart."""
    ordered = sorted(keys, key=lambda key: SECTIONS.index(key.split(".")[1]))
    if len(ordered) <= 3:
        return ordered
    chosen: list[str] = []

    def told(key: str) -> int:
        return len(set(zip(*(_told(variants[k], k) for k in (*chosen, key)), strict=True)))

    for _ in range(4):
        best = max((key for key in ordered if key not in chosen), key=told, default=None)
        if best is None or (chosen and told(best) == told(chosen[-1])):
            break
        chosen.append(best)
    return [key for key in ordered if key in chosen]


def _unique(runs: pd.DataFrame, labels: "pd.Series[str]") -> "pd.Series[str]":
    """Tell apart what still has one name: two classes of a user's own called alike, say."""
    owner = runs["method"] + "#" + runs["digest"]
    shared = owner.groupby([runs["task"], labels]).transform("nunique") > 1
    return labels.where(~shared, runs["method"] + " #" + runs["digest"]).astype(str)


def _plain(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if re.fullmatch(r"\[.*\]", str(value)):  # a list, as `flatten` tells it
        with contextlib.suppress(ValueError):  # or a text in brackets
            return "+".join(str(part) for part in json.loads(str(value))) or "none"
    return str(value).rstrip("/").rsplit("/", 1)[-1]  # of a path its end


def unequal_settings(runs: pd.DataFrame) -> list[str]:
    """Settings outside the method's own in which the runs of one task differ: a comparison not quite fair."""
    outside = [k for k in hashed_keys(runs) if not k.startswith("config.method.")]
    allowed = tuple(f"config.{key}" for key in NOT_COMPARED)
    told = [k for k in outside if not k.startswith(allowed)]
    return [k.removeprefix("config.") for k in differing(runs, told)]


def compared(results: Results) -> pd.DataFrame:
    """The runs that count, with their `variant`: the finished ones of each variant, or all where none is."""
    runs = results.runs.assign(variant=label_variants(results.runs))
    any_finished = runs.groupby(["task", "variant"])["finished"].transform("any")
    return runs[runs["finished"] | ~any_finished]


def evaluated(rounds: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rounds with a test value, in order."""
    key = f"eval/{metric}"
    return rounds[rounds[key].notna()].sort_values("round") if key in rounds else rounds.iloc[:0]


def outcomes(results: Results, *, target: float | None = None) -> pd.DataFrame:
    """A row per run that counts: final, best, best_val, target, reached, `to_<axis>` and `total_<axis>`.

    Raises ConfigError for a target that no value of the task's metric can reach.
    """
    runs = compared(results)
    rows = []
    for _, of_task in runs.groupby("task", sort=False):
        rounds = {run_id: results.rounds[results.rounds["run_id"] == run_id] for run_id in of_task["run_id"]}
        goal = default_target(of_task, rounds) if target is None else target
        metric = str(of_task["metric"].iloc[0])
        if goal > 1 >= float(_best_val(of_task).max()):
            raise ConfigError(f"target: {metric} lies between 0 and 1, got {goal:g}; write 0.8 for 80 %")
        for run in of_task.to_dict("records"):
            rows.append(_outcome(run, rounds[run["run_id"]].sort_values("round"), metric=metric, target=goal))
    return pd.DataFrame(rows)


def default_target(runs: pd.DataFrame, rounds: Mapping[str, pd.DataFrame]) -> float:
    """DEFAULT_SHARE of the best mean validation value in a task, of the methods that exchange anything.

    Centralized training and training alone are points of reference, and need not be within reach.
    """
    means = _best_val(runs).groupby(runs["variant"]).mean()
    sent = runs["run_id"].map(lambda run_id: rounds[run_id]["bytes"].max())
    federated = sent.groupby(runs["variant"]).max() > 0
    return DEFAULT_SHARE * float((means[federated] if federated.any() else means).max())


def _best_val(runs: pd.DataFrame) -> "pd.Series[float]":
    key = f"best/val/{runs['metric'].iloc[0]}"
    return runs[key] if key in runs else pd.Series(math.nan, index=runs.index)


def _outcome(
    run: Mapping[Hashable, Any], rounds: pd.DataFrame, *, metric: str, target: float
) -> dict[str, Any]:
    row: dict[str, Any] = {
        k: run[k] for k in ("task", "method", "variant", "digest", "seed", "finished", "rounds", "metric")
    }
    row["final"] = run.get(f"eval/{metric}", math.nan)
    row["best"] = run.get(f"best/eval/{metric}", math.nan)
    row["best_val"] = run.get(f"best/val/{metric}", math.nan)
    key = f"val/{metric}"
    hits = rounds[rounds[key] >= target] if key in rounds else rounds.iloc[:0]
    row |= {"target": target, "reached": len(hits) > 0}
    for axis in AXES:
        row[f"to_{axis}"] = hits[axis].iloc[0] if len(hits) else math.nan
        row[f"total_{axis}"] = rounds[axis].iloc[-1]
    row["total_server_flops"] = run.get("total/server_flops", math.nan)
    return row


def comparison(results: Results, *, target: float | None = None) -> pd.DataFrame:
    """A row per task, method and digest, best first: numbers in base units (B, FLOP, J, s), means over seeds.

    `*_std` are sample standard deviations (NaN for one seed); best_low and best_high bound the mean's 95 %
    bootstrap interval; `to_<axis>` are means over the seeds that reached the target (`reached` of `seeds`).
    """
    runs = outcomes(results, target=target)
    costs = [f"{prefix}_{axis}" for axis in AXES for prefix in ("to", "total")]
    rows = []
    for _, group in runs.groupby(["task", "variant"], sort=False):
        low, high = bootstrap_interval(group["best"].dropna().tolist())
        row = {k: group[k].iloc[0] for k in ("task", "method", "variant", "digest", "metric", "target")}
        row |= {"seeds": len(group), "finished": int(group["finished"].sum())}
        row |= {"rounds": group["rounds"].mean(), "reached": int(group["reached"].sum())}
        for key in ("final", "best"):
            row |= {f"{key}_mean": group[key].mean(), f"{key}_std": group[key].std(ddof=1)}
        row |= {"best_low": low, "best_high": high}
        rows.append(row | {key: group[key].mean() for key in [*costs, "total_server_flops"]})
    return pd.DataFrame(rows).sort_values(["task", "best_mean"], ascending=[True, False], ignore_index=True)


def is_reference(table: pd.DataFrame) -> "pd.Series[bool]":
    """Rows of a comparison that exchange nothing (centralized, alone): shown, never called the cheapest."""
    return table["total_bytes"].eq(0) & bool(table["total_bytes"].max() > 0)


def display(table: pd.DataFrame) -> pd.DataFrame:
    """The comparison of ONE task as text, ready to print: columns are pairs (group, title with unit)."""
    percent = bool(table[["final_mean", "best_mean"]].max().max() <= 1)
    scale, unit = (100, ", %") if percent else (1, "")
    shown: dict[tuple[str, str], list[str]] = {("", "Method"): table["variant"].tolist()}
    shown["", "Seeds"] = [
        f"{n}" if n == done else f"{n} (unfinished)"
        for n, done in zip(table["seeds"], table["finished"], strict=True)
    ]
    group = f"Test {named(table['metric'].iloc[0])}{unit}"
    for key, title in (("final", "Final"), ("best", "Best")):
        pairs = zip(table[f"{key}_mean"] * scale, table[f"{key}_std"] * scale, strict=True)
        shown[group, title] = [_mean_std(mean, std) for mean, std in pairs]
    pairs = zip(table["best_low"] * scale, table["best_high"] * scale, strict=True)
    shown[group, INTERVAL] = ["—" if math.isnan(a) else f"{a:.1f} to {b:.1f}" for a, b in pairs]
    goal = float(table["target"].iloc[0]) * scale
    told = "the target" if math.isnan(goal) else f"{goal:.1f}{' %' if percent else ''} on validation"
    groups = {"to": f"Cost to reach {told}", "total": WHOLE_RUN}
    for prefix, group in groups.items():
        for axis in AXES:
            column = table[f"{prefix}_{axis}"]
            best = scale_of(float(column[column > 0].median()) if (column > 0).any() else 1.0, axis)
            shown[group, f"{TITLES[axis]}, {best.unit}"] = [
                _cost(value / best.factor, reached=int(r), seeds=int(n) if prefix == "to" else int(r))
                for value, r, n in zip(column, table["reached"], table["seeds"], strict=True)
            ]
    return pd.DataFrame(shown)


def _mean_std(mean: float, std: float) -> str:
    if math.isnan(mean):
        return "—"
    return f"{mean:.1f}" if math.isnan(std) else f"{mean:.1f} ± {std:.1f}"


def _cost(value: float, *, reached: int, seeds: int) -> str:
    if math.isnan(value):
        return "not reached" if reached < seeds else "—"
    return significant(value) + (f" ({reached} of {seeds})" if reached < seeds else "")


def to_markdown(table: pd.DataFrame) -> str:
    """Every task of a comparison as a heading and a Markdown table."""
    parts = []
    for task, of_task in table.groupby("task", sort=False):
        shown = display(of_task)
        head = [title if not group else f"{group}: {title}" for group, title in pairs_of(shown)]
        parts.append(f"## {task}\n\n{markdown(head, shown.to_numpy().tolist())}\n")
    return "\n".join(parts)


def markdown(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """One Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows)


def to_csv(table: pd.DataFrame) -> str:
    """The numbers of a table, full precision."""
    text = io.StringIO()
    table.to_csv(text, index=False, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
    return text.getvalue()


def to_rich(table: pd.DataFrame) -> list[Table]:
    """A console table per task, without intervals and the cost of whole runs: a terminal is narrow."""
    found = []
    for task, of_task in table.groupby("task", sort=False):
        shown = display(of_task).drop(columns=WHOLE_RUN, level=0).drop(columns=INTERVAL, level=1)
        groups = dict.fromkeys(group for group, _ in pairs_of(shown) if group)
        out = Table(title=Text(f"{task}: {'; '.join(groups)}"), title_justify="left")
        for group, title in pairs_of(shown):
            out.add_column(
                Text(title.replace(", ", ",\n")), justify="right" if group else "left", no_wrap=not group
            )
        for line in shown.to_numpy().tolist():
            out.add_row(*(Text(str(cell)) for cell in line))
        found.append(out)
    return found


def pairs_of(shown: pd.DataFrame) -> list[tuple[str, str]]:
    """The columns of a displayed table: (group, title)."""
    return [(str(column[0]), str(column[1])) for column in shown.columns]
