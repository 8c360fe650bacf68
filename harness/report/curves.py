"""Figures of a comparison as inline SVG: accuracy against its cost, the Pareto front, who holds which labels.

Figures are drawn with matplotlib's object interface (no global state) and follow the page's colours: text and
lines use `currentColor`. Colours are those of Okabe and Ito, "Color universal design" (2008), told apart by
line style and marker as well.
"""

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from harness.report.filters import mark
from harness.report.frames import DRAWN, Results
from harness.report.svg import FAINT, inline_svg
from harness.report.svg import INK as INK
from harness.report.tables import TITLES, compared, evaluated, named, scale_of, significant

Floats = NDArray[np.float64]

COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", INK)
DASHES: Final = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
SIZE: Final = (4.3, 3.0)
"""Inches of a figure without its legend: legible on a phone, two side by side on a desk."""
LOG_FROM: Final = 8.0
"""Costs that differ by more than this factor are drawn on a logarithmic axis."""
BUBBLES_UP_TO: Final = 30
"""Clients drawn as bubbles; more of them become a heat map."""
GRID_POINTS: Final = 120
SETTINGS: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 10,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 2.6,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """One figure, ready to stand in a page."""

    key: str
    """Unique within a report; prefix of every id inside the SVG."""
    title: str
    caption: str
    """What is drawn and how, in a sentence or two; plain text."""
    svg: str
    """An `<svg>` element with a title and a description for readers who do not see it."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A mean over seeds."""

    x: Floats
    """[P] rounds completed, or a running cost in base units; ascending."""
    mean: Floats
    """[P] of the metric."""
    std: Floats
    """[P] sample standard deviation; 0 for one seed."""


def mean_curve(seeds: Sequence[tuple[Floats, Floats]], *, rounds: bool) -> Curve:
    """Average (x, y) curves of several seeds over the range that every seed covers.

    `rounds=True` averages at the x they share; otherwise each is interpolated linearly between its points.
    """
    if rounds:
        grid = seeds[0][0]
        for x, _ in seeds[1:]:
            grid = np.intersect1d(grid, x)
        values = np.array([y[np.isin(x, grid)] for x, y in seeds])
    else:
        low, high = max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds)
        if high <= low:
            grid = np.array([np.mean([x[-1] for x, _ in seeds])])
            values = np.array([[y[-1]] for _, y in seeds])
        else:
            spaced = np.geomspace if low > 0 and high > LOG_FROM * low else np.linspace
            grid = spaced(low, high, GRID_POINTS)
            values = np.array([np.interp(grid, x, y) for x, y in seeds])
    std = values.std(axis=0, ddof=1) if len(seeds) > 1 else np.zeros(len(grid))
    return Curve(x=grid.astype(np.float64), mean=values.mean(axis=0), std=std)


def curves_of(results: Results, *, task: str, axis: str) -> dict[str, Curve]:
    """The mean curve of each variant of a task that was evaluated, against `round` or an axis of DRAWN."""
    runs = compared(results)
    found: dict[str, Curve] = {}
    for variant, group in runs[runs["task"] == task].groupby("variant"):
        seeds: list[tuple[Floats, Floats]] = []
        for run_id, metric in zip(group["run_id"], group["metric"], strict=True):
            points = evaluated(results.rounds[results.rounds["run_id"] == run_id], str(metric))
            x = points["round"] + 1 if axis == "round" else points[axis]
            if len(points) and x.notna().all():
                seeds.append((x.to_numpy(np.float64), points[f"eval/{metric}"].to_numpy(np.float64)))
        if seeds and len((curve := mean_curve(seeds, rounds=axis == "round")).x):
            found[str(variant)] = curve
    return found


@dataclass(frozen=True, slots=True)
class Style:
    """How a variant is drawn, in every figure of its task."""

    colour: str
    dash: str | tuple[int, tuple[float, ...]]
    marker: str


def styles_of(variants: Sequence[str]) -> dict[str, Style]:
    """A style each, by name: adding runs with equal names changes no colour."""
    return {
        name: Style(COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(sorted(variants))
    }


def accuracy_pictures(results: Results, *, task: str, key: str) -> list[Picture]:
    """The metric against rounds, uploads, traffic, FLOPs, joules and simulated seconds, in this order."""
    pictures = []
    idle = idle_variants(results, task=task)
    for axis in ("round", *DRAWN):
        curves = curves_of(results, task=task, axis=axis)
        free = set() if axis == "round" else {n for n, c in curves.items() if n in idle or c.x[-1] == 0}
        if set(curves) - free:
            metric = str(results.runs.loc[results.runs["task"] == task, "metric"].iloc[0])
            pictures.append(_accuracy_picture(curves, free, axis=axis, metric=metric, key=f"{key}-{axis}"))
    return pictures


def idle_variants(results: Results, *, task: str) -> set[str]:
    """Variants whose clients neither compute nor send (centralized training): no cost to compare."""
    runs = compared(results)
    used = results.rounds.groupby("run_id")[["flops", "bytes"]].max().sum(axis=1)
    runs = runs[(runs["task"] == task) & runs["run_id"].map(used).eq(0)]
    return set(runs["variant"].astype(str))


def _accuracy_picture(
    curves: Mapping[str, Curve], free: Set[str], *, axis: str, metric: str, key: str
) -> Picture:
    """The curves but those of `free`, which are named in the caption."""
    drawn = {name: curve for name, curve in curves.items() if name not in free}
    title = f"Test {named(metric)} against {TITLES.get(axis, 'Rounds').lower()}"
    styles = styles_of(list(curves))

    def draw(axes: Axes) -> None:
        for name, curve in drawn.items():
            style = styles[name]
            every = max(1, len(curve.x) // 6)
            (line,) = axes.plot(curve.x, curve.mean, label=name, lw=1.7, ms=4.5, markevery=every)
            line.set(color=style.colour, linestyle=style.dash, marker=style.marker, gid=f"{mark(name)}-line")
            if curve.std.any():
                low, high = curve.mean - curve.std, curve.mean + curve.std
                band = axes.fill_between(curve.x, low, high, color=style.colour, alpha=0.18, lw=0)
                band.set_gid(f"{mark(name)}-band")
        metric_axis(axes, metric, [c.mean for c in drawn.values()])
        cost_axis(axes, axis, [(float(c.x[0]), float(c.x[-1])) for c in drawn.values()])

    notes = ["Mean over seeds; the band is one standard deviation."]
    if free:
        notes.append(f"Not drawn, because it asks nothing of the clients here: {', '.join(sorted(free))}.")
    ends = sorted(drawn.items(), key=lambda item: -item[1].mean[-1])
    told = "; ".join(f"{name} ends at {significant(float(c.mean[-1]))}" for name, c in ends)
    svg = render(draw, key=key, title=title, description=f"Line chart. {told}.", entries=list(drawn))
    return Picture(key=key, title=title, caption=" ".join(notes), svg=svg)


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of the points that no other beats (as cheap or cheaper, and better), cheapest first."""
    front: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -values[i])):
        if not front or values[i] > values[front[-1]]:
            front.append(i)
    return front


def pareto_picture(
    table: pd.DataFrame, *, axis: str, key: str, title: str | None = None, png: Path | None = None
) -> Picture | None:
    """Best accuracy against what the whole run cost, from the rows of one task of a comparison."""
    takes_part = table[["total_flops", "total_bytes"]].sum(axis=1) > 0
    rows = table[table["best_mean"].notna() & table[f"total_{axis}"].notna() & takes_part]
    rows = rows.sort_values("variant")
    if len(rows) < 2:
        return None
    names, metric = rows["variant"].tolist(), str(rows["metric"].iloc[0])
    costs, values = rows[f"total_{axis}"].tolist(), rows["best_mean"].tolist()
    errors = rows["best_std"].fillna(0.0).tolist()
    styles, front = styles_of(table["variant"].tolist()), pareto_front(costs, values)
    title = title or f"Best test {named(metric)} for the {TITLES[axis].lower()} of a run"

    def draw(axes: Axes) -> None:
        steps = [costs[i] for i in front], [values[i] for i in front]
        axes.plot(*steps, color=INK, lw=1.0, ls=(0, (2, 2)), alpha=0.6, drawstyle="steps-post", zorder=1)
        for i, name in enumerate(names):
            style, inside = styles[name], styles[name].colour if i in front else "none"
            look: dict[str, Any] = {"color": style.colour, "marker": style.marker, "markerfacecolor": inside}
            point = axes.errorbar(
                costs[i], values[i], yerr=errors[i], label=name, ls="", ms=7, lw=1.2, **look
            )
            for number, part in enumerate(point.get_children()):
                part.set_gid(f"{mark(name)}-part{number}")
        metric_axis(axes, metric, [np.array(values)])
        cost_axis(axes, axis, [(cost, cost) for cost in costs])
        axes.margins(0.08, 0.1)

    told = f"Scatter chart. On the front: {', '.join(names[i] for i in front)}."
    caption = "Filled points are on the Pareto front (dotted): no other method reaches more for less. "
    svg = render(draw, key=key, title=title, description=told, entries=names, png=png)
    return Picture(key=key, title=title, caption=caption + "Bars are one standard deviation.", svg=svg)


def label_picture(counts: NDArray[np.int64], *, title: str, key: str, several: bool = False) -> Picture:
    """Who holds which labels: `counts` [clients, classes], as bubbles, or a heat map of many clients.

    `several`: an example counts for each of the classes that it shows.
    """
    clients, classes = counts.shape
    bubbles = clients <= BUBBLES_UP_TO and classes <= BUBBLES_UP_TO

    def draw(axes: Axes) -> None:
        if bubbles:
            which, label = np.nonzero(counts)
            area = 190 * counts[which, label] / counts.max() * (20 / max(clients, 12)) ** 2
            axes.scatter(which, label, s=area, color=COLOURS[0], lw=0)
            axes.set(xlim=(-0.7, clients - 0.3), ylim=(-0.7, classes - 0.3))
        else:
            image = axes.imshow(
                counts.T, aspect="auto", origin="lower", cmap="cividis", interpolation="nearest"
            )
            bar = axes.figure.colorbar(image, ax=axes, label="Examples")
            bar.outline.set_visible(False)
            axes.grid(False)
        axes.set(xlabel="Client", ylabel="Class")
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(10, integer=True))

    sizes = counts.sum(axis=1)
    held = f" hold {sizes.min()} to {sizes.max()} examples (median {np.median(sizes):g})" * (not several)
    spread = f"a median of {np.median((counts > 0).sum(axis=1)):g} of {classes} classes each"
    told = f"{clients} clients{held}, {spread}."
    shape = "The area of a circle" if bubbles else "The colour"
    svg = render(draw, key=key, title=title, description=told, entries=[])
    shown = " that show the class" * several
    return Picture(key, title, f"{told} {shape} is the number of examples{shown}.", svg)


def metric_axis(axes: Axes, metric: str, values: Sequence[Floats]) -> None:
    axes.set_ylabel(f"Test {named(metric)}")
    if max(float(v.max()) for v in values) <= 1:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def cost_axis(axes: Axes, axis: str, ranges: Sequence[tuple[float, float]]) -> None:
    """Label x in engineering units, logarithmic where costs are far apart and none is zero."""
    if axis == "round":
        axes.set_xlabel("Rounds completed")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return
    low, high = min(end for _, end in ranges), max(end for _, end in ranges)
    if low > 0 and high > LOG_FROM * low:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=6))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _with_unit(value, axis)))
        axes.set_xlabel(TITLES[axis])
        return
    scale = scale_of(high, axis)
    # From zero, unless all that is drawn lies so far from it that no tick would be left.
    first = min(start for start, _ in ranges)
    start = first if high / 2 <= first < high else 0.0
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(start / scale.factor, high / scale.factor)
    axes.xaxis.set_major_locator(FixedLocator([tick * scale.factor for tick in ticks]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / scale.factor:g}"))
    axes.set_xlabel(f"{TITLES[axis]}, {scale.unit}")


def _with_unit(value: float, quantity: str) -> str:
    scale = scale_of(value, quantity)
    return f"{significant(value / scale.factor, 1)} {scale.unit}"


def render(
    draw: Callable[[Axes], None],
    *,
    key: str,
    title: str,
    description: str,
    entries: Sequence[str],
    png: Path | None = None,
) -> str:
    """Draw on one pair of axes, with a legend of `entries` below; returns an accessible `<svg>` element.

    With `png` the same is written there, on white.
    """
    if png is not None:
        with matplotlib.rc_context({**SETTINGS, "grid.color": "#d5dae1", "axes.titlesize": 11}):
            on_white = _figure(draw, entries)
            on_white.suptitle(title, fontsize=10)
            on_white.savefig(png, dpi=200)
    with matplotlib.rc_context(SETTINGS):
        text = io.StringIO()
        _figure(draw, entries).savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return inline_svg(text.getvalue(), key=key, title=title, description=description)


def _figure(draw: Callable[[Axes], None], entries: Sequence[str]) -> Figure:
    columns = 1 if max(map(len, entries), default=0) > 24 else 2 if len(entries) < 4 else 3
    columns = min(columns, 2) if max(map(len, entries), default=0) > 12 else columns
    lines = sum(len(_wrapped(name).split("\n")) for name in entries)
    legend_in = 0.22 * math.ceil(lines / columns) + 0.1 if entries else 0.0
    figure = Figure(figsize=(SIZE[0], SIZE[1] + legend_in), layout="constrained")
    draw(figure.add_subplot())
    if entries:
        legend = figure.legend(loc="outside lower center", ncols=columns, columnspacing=1.2)
        for text_of, handle in zip(legend.get_texts(), legend.legend_handles, strict=True):
            text_of.set_gid(f"{mark(text_of.get_text())}-name")
            if handle is not None:
                handle.set_gid(f"{mark(text_of.get_text())}-key")
            text_of.set_text(_wrapped(text_of.get_text()))
    return figure


def _wrapped(name: str) -> str:
    """A name of the legend in lines as wide as the figure."""
    return "\n".join(textwrap.wrap(name, 50)) or name
