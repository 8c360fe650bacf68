"""Methods at equal budgets: the accuracy that so many joules, bytes, FLOPs or simulated seconds buy.

A run is read at its last evaluation within the budget: nothing is interpolated, and what came later does not
count. Methods were tuned before, each with equally many trials, on val and on other seeds
(harness/report/tune.py); here only test is read. Methods that exchange nothing are points of reference: they
are read at their end.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from harness.config import nearest, require
from harness.report import curves, html, tables
from harness.report.frames import AXES, Results
from harness.report.markup import figure, table_of
from harness.report.measured import MIN_SEEDS

Floats = NDArray[np.float64]
RESAMPLES: Final = 2000
"""Of the bands of a figure."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may spend."""

    axis: str
    """One of AXES: bytes, flops, joules (the clients') or sim_s."""
    amount: float
    """B, FLOP, J or s."""

    @property
    def told(self) -> str:
        """As text, in an engineering unit."""
        scale = tables.scale_of(self.amount, self.axis)
        return f"{self.amount / scale.factor:g} {scale.unit}"


def parse_budget(word: str) -> Budget:
    """`joules=300` as a budget. Raises ConfigError."""
    axis, _, amount = word.partition("=")
    require(axis in AXES, f"--budget: unknown cost {axis!r}{nearest(axis, list(AXES))}; write joules=300")
    try:
        value = float(amount)
    except ValueError:
        value = math.nan
    require(0 < value < math.inf, f"--budget: {axis} must be a number > 0, got {amount!r}")
    return Budget(axis, value)


def last_within(rounds: pd.DataFrame, *, metric: str, budget: Budget | None) -> Mapping[Any, Any] | None:
    """The last evaluated round of a run whose running cost is within the budget; None where there is none."""
    points = tables.evaluated(rounds, metric)
    if budget is not None:
        points = points[points[budget.axis] <= budget.amount]
    return points.to_dict("records")[-1] if len(points) else None


def at_budget(results: Results, budget: Budget) -> pd.DataFrame:
    """A row per run that counts: task, variant, seed, test, val, round, `at_<axis>`, used up, reference.

    `test` is NaN where the first evaluation was beyond the budget; `used_up` says whether the whole run spent
    the budget, so that a longer one would not have given more.
    """
    runs = tables.compared(results)
    rounds = dict(iter(results.rounds.groupby("run_id")))
    rows = []
    for run in runs.to_dict("records"):
        mine, metric = rounds[run["run_id"]], str(run["metric"])
        reference = not mine["bytes"].max() > 0
        point = last_within(mine, metric=metric, budget=None if reference else budget) or {}
        row = {key: run[key] for key in ("task", "method", "variant", "digest", "seed", "metric")}
        row |= {"lr": run.get("config.method.lr", math.nan), "reference": reference}
        row |= {"test": point.get(f"eval/{metric}", math.nan), "val": point.get(f"val/{metric}", math.nan)}
        row |= {
            "rounds": point.get("round", -1) + 1,
            "used_up": bool(mine[budget.axis].max() >= budget.amount),
        }
        rows.append(row | {f"at_{axis}": point.get(axis, math.nan) for axis in AXES})
    return pd.DataFrame(rows)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per task and variant, best first, references last: means over seeds, 95 % bootstrap interval."""
    found = []
    for _, group in rows.groupby(["task", "variant"], sort=False):
        tests = group["test"].dropna().tolist()
        low, high = tables.bootstrap_interval(tests)
        row = {k: group[k].iloc[0] for k in ("task", "variant", "metric", "reference", "lr")}
        row |= {"seeds": len(group), "within": len(tests), "used_up": int(group["used_up"].sum())}
        row |= {"mean": group["test"].mean(), "std": group["test"].std(ddof=1), "low": low, "high": high}
        found.append(row | {k: group[k].mean() for k in ("rounds", *(f"at_{axis}" for axis in AXES))})
    return pd.DataFrame(found).sort_values(
        ["task", "reference", "mean"], ascending=[True, True, False], ignore_index=True
    )


def cost_to_target(results: Results, *, axis: str, target: float | None = None) -> pd.DataFrame:
    """A row per task and variant: target, reached of seeds, mean cost and its 95 % bootstrap interval.

    Mean and interval are NaN unless every seed reached the target: of the others nobody knows the cost.
    """
    found = []
    runs = tables.outcomes(results, target=target)
    for _, group in runs.groupby(["task", "variant"], sort=False):
        costs = group[f"to_{axis}"].tolist() if group["reached"].all() else []
        low, high = tables.bootstrap_interval(costs)
        row = {k: group[k].iloc[0] for k in ("task", "variant", "target")}
        row |= {"reached": int(group["reached"].sum()), "mean": float(np.mean(costs)) if costs else math.nan}
        found.append(row | {"low": low, "high": high})
    return pd.DataFrame(found)


def text(table: pd.DataFrame, costs: pd.DataFrame, budget: Budget) -> tuple[list[str], list[list[str]]]:
    """Titles and lines of ONE task, ready to print."""
    goal, costs = float(costs["target"].iloc[0]), costs.set_index("variant")
    percent = bool(table["mean"].max() <= 1)
    factor, unit = (100, ", %") if percent else (1, "")
    scale = tables.scale_of(
        float(costs["mean"].median()) if costs["mean"].notna().any() else 1.0, budget.axis
    )
    others = [axis for axis in AXES if axis != budget.axis]
    told = f"{factor * goal:.1f}{' %' if percent else ''} on val"
    head = [
        "Method",
        "Rate",
        "Seeds",
        f"Test {tables.named(table['metric'].iloc[0])}{unit}",
        "95 % interval",
        "Rounds",
    ]
    head += [*(tables.TITLES[axis] for axis in others), f"{scale.unit} to {told}"]
    lines = []
    for row in table.to_dict("records"):
        cost = costs.loc[row["variant"]]
        lines.append(
            [
                row["variant"] + (" (reference)" if row["reference"] else ""),
                "—" if math.isnan(row["lr"]) else f"{row['lr']:g}",
                f"{row['seeds']}" if row["within"] == row["seeds"] else f"{row['within']} of {row['seeds']}",
                _mean_std(row["mean"] * factor, row["std"] * factor),
                _interval(row["low"] * factor, row["high"] * factor, 1.0),
                f"{row['rounds']:.4g}"
                + ("" if row["reference"] or row["used_up"] == row["seeds"] else " (all)"),
                *(_amount(row[f"at_{axis}"], axis) for axis in others),
                _cost(cost, scale, row),
            ]
        )
    return head, lines


def notes(table: pd.DataFrame, budget: Budget) -> list[str]:
    """What a reader must know beside the numbers."""
    told = [
        f"Every run is read at its last evaluation within {budget.told}; nothing is interpolated. ± is one "
        "sample standard deviation over seeds, intervals are 95 % bootstrap intervals of the mean."
    ]
    told.append("“Rate” is the learning rate; rounds and costs are those of that evaluation.")
    if int(table["seeds"].min()) < MIN_SEEDS:
        told.append(f"Fewer than {MIN_SEEDS} seeds are indicative.")
    if (~table["reference"] & (table["used_up"] < table["seeds"])).any():
        told.append("“(all)”: the runs ended before the budget did; longer ones might have given more.")
    if table["reference"].any():
        told.append("Points of reference exchange nothing; they are read at their end, whatever they spent.")
    return told


def write(results: Results, budgets: Sequence[Budget], *, out: Path, target: float | None = None) -> Path:
    """Write compare.md, compare.csv, report.html and a PNG of each figure into `out`; returns the page.

    Raises ConfigError for an impossible target.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts, sections, frames = [], [], []
    for number, budget in enumerate(budgets):
        table, costs = (
            summary(at_budget(results, budget)),
            cost_to_target(results, axis=budget.axis, target=target),
        )
        frames.append(table.assign(budget=budget.axis, amount=budget.amount))
        for task in dict.fromkeys(table["task"]):
            mine, paid = table[table["task"] == task], costs[costs["task"] == task]
            head, lines = text(mine, paid, budget)
            title = f"{task}: what {budget.told} of {tables.TITLES[budget.axis].lower()} buys"
            parts.append(f"## {title}\n\n{tables.markdown(head, lines)}\n\n" + _listed(notes(mine, budget)))
            pictures = _pictures(results, mine, budget, task=str(task), key=f"b{number}-{task}", out=out)
            sections.append(_section(title, head, lines, notes(mine, budget), pictures))
    html.write_text(out / "compare.md", "\n".join(parts))
    html.write_text(out / "compare.csv", tables.to_csv(pd.concat(frames)))
    page = html.page(results, tables.comparison(results, target=target), first=sections)
    html.write_text(out / "report.html", page)
    return out / "report.html"


def bought(
    results: Results, *, task: str, axis: str, grid: Floats
) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Variant -> mean, low and high [len(grid)] of test within each budget of `grid`; NaN before the first.

    low and high bound the mean's 95 % bootstrap interval over seeds.
    """
    runs = tables.compared(results)
    rounds = dict(iter(results.rounds.groupby("run_id")))
    found = {}
    for variant, group in runs[runs["task"] == task].groupby("variant"):
        values = []
        for run_id, metric in zip(group["run_id"], group["metric"], strict=True):
            points = tables.evaluated(rounds[run_id], str(metric))
            at = np.searchsorted(points[axis].to_numpy(np.float64), grid, side="right") - 1
            tests = np.append(points[f"eval/{metric}"].to_numpy(np.float64), math.nan)
            values.append(tests[at])
        seeds = np.array(values)
        draws = np.random.default_rng(0).integers(len(seeds), size=(RESAMPLES, len(seeds)))
        low, high = np.quantile(seeds[draws].mean(axis=1), [0.025, 0.975], axis=0)
        found[str(variant)] = (seeds.mean(axis=0), low, high)
    return found


def _pictures(
    results: Results, table: pd.DataFrame, budget: Budget, *, task: str, key: str, out: Path
) -> list[curves.Picture]:
    pictures = [_bought_picture(results, table, budget, task=task, key=key, out=out)]
    counted = table[~table["reference"]]
    points = counted.rename(columns={"mean": "best_mean", "std": "best_std"}).rename(
        columns={f"at_{axis}": f"total_{axis}" for axis in AXES}
    )
    for axis in AXES:
        if axis != budget.axis:
            metric = tables.named(table["metric"].iloc[0])
            title = f"At {budget.told}: test {metric} against {tables.TITLES[axis].lower()}"
            name = f"{key}-{axis}"
            made = curves.pareto_picture(points, axis=axis, key=name, title=title, png=out / f"{name}.png")
            pictures += [made] if made is not None else []
    return pictures


def _mark(axes: Axes, budget: Budget) -> None:
    axes.axvline(budget.amount, color=curves.INK, lw=0.9, ls=(0, (2, 2)))
    place = (budget.amount, 0.03)
    axes.annotate(f"{budget.told} ", place, xycoords=("data", "axes fraction"), ha="right", fontsize=8)


def _bought_picture(
    results: Results, table: pd.DataFrame, budget: Budget, *, task: str, key: str, out: Path
) -> curves.Picture:
    metric = str(table["metric"].iloc[0])
    title = f"Test {tables.named(metric)} within a budget of {tables.TITLES[budget.axis].lower()}"
    styles = curves.styles_of(table.loc[~table["reference"], "variant"].tolist())
    grid = np.linspace(0.0, 1.25 * budget.amount, 251)[1:]
    found = bought(results, task=task, axis=budget.axis, grid=grid)
    asked = sorted(table.loc[~table["reference"], "variant"])
    names = [name for name in asked if not np.isnan(found[name][0]).all()]

    def draw(axes: Axes) -> None:
        for name in names:
            mean, low, high = found[name]
            style = styles[name]
            every = max(1, len(grid) // 6)
            (line,) = axes.plot(
                grid, mean, label=name, lw=1.7, ms=4.5, markevery=every, drawstyle="steps-post"
            )
            line.set(color=style.colour, linestyle=style.dash, marker=style.marker)
            axes.fill_between(grid, low, high, color=style.colour, alpha=0.14, lw=0, step="post")
        _mark(axes, budget)
        if names:
            curves.metric_axis(axes, metric, [np.nanmax(found[name][0], keepdims=True) for name in names])
        curves.cost_axis(axes, budget.axis, [(0.0, float(grid[-1]))])

    svg = curves.render(
        draw,
        key=key,
        title=title,
        description=f"Step chart up to {budget.told} and a quarter more.",
        entries=names,
        png=out / f"{key}.png",
    )
    caption = (
        "Mean over seeds of the last evaluation within the budget; the band is its 95 % bootstrap interval. "
    )
    return curves.Picture(key, title, caption + f"Dotted: {budget.told}.", svg)


def _section(
    title: str,
    head: Sequence[str],
    lines: Sequence[Sequence[str]],
    told: Sequence[str],
    pictures: Sequence[curves.Picture],
) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in told)
    return (
        f"<section><h2>{escape(title)}</h2>{table_of(head, lines, left=1)}"
        f'<ul class="notes">{items}</ul><div class="figures">{"".join(map(figure, pictures))}</div></section>'
    )


def _listed(told: Sequence[str]) -> str:
    return "\n".join(f"- {note}" for note in told) + "\n"


def _mean_std(mean: float, std: float) -> str:
    if math.isnan(mean):
        return "—"
    return f"{mean:.1f}" if math.isnan(std) else f"{mean:.1f} ± {std:.1f}"


def _interval(low: float, high: float, factor: float) -> str:
    if math.isnan(low):
        return "—"
    return f"{tables.significant(low / factor)} to {tables.significant(high / factor)}"


def _amount(value: float, axis: str) -> str:
    if math.isnan(value):
        return "—"
    scale = tables.scale_of(value, axis)
    return f"{tables.significant(value / scale.factor)} {scale.unit}"


def _cost(cost: "pd.Series[Any]", scale: tables.Scale, row: Mapping[Any, Any]) -> str:
    if cost["reached"] == 0:
        return "not reached"
    if cost["reached"] < row["seeds"]:
        return f"{cost['reached']} of {row['seeds']} seeds"
    mean = tables.significant(float(cost["mean"]) / scale.factor)
    interval = _interval(float(cost["low"]), float(cost["high"]), scale.factor)
    return mean if interval == "—" else f"{mean} ({interval})"
