"""Figures of what a junction learned of its sources: the norm of each source's block of J over rounds.

Malandrino, Chiasserini, WoWMoM 2022: the junction weighs its sources, also one of poor quality. Read from
`fpl/weight/<source>` of rounds.jsonl, and named by the views of the configuration.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from harness.data.views import DEGRADED, FPL_VIEWS
from harness.report.curves import COLOURS, INK, MARKERS, SETTINGS, SIZE, Picture, render
from harness.report.frames import Results
from harness.report.tables import label_variants

PREFIX: Final = "fpl/weight/"
TITLE: Final = "What the junction makes of each source"
MOST_VARIANTS: Final = 8
"""Variants of a task whose weights are drawn; those with a degraded source first."""
PNG: Final[dict[Any, Any]] = {"grid.color": "#d9d9d9", "savefig.dpi": 200, "font.family": "sans-serif"}


@dataclass(frozen=True, slots=True)
class Weighing:
    """The learned weights of one variant, over its seeds."""

    variant: str
    digest: str
    views: Mapping[str, str]
    """Source -> what it sees, in order of the sources."""
    rounds: NDArray[np.int64]
    """[R] rounds completed."""
    norms: Mapping[str, NDArray[np.float64]]
    """Source -> [S, R] norm of its block, NaN in rounds without it."""

    @property
    def degraded(self) -> list[str]:
        """Sources that see little."""
        return [source for source, view in self.views.items() if view in DEGRADED]


def weight_pictures(results: Results, runs: pd.DataFrame, *, key: str) -> list[Picture]:
    """A figure for each variant that records weights."""
    found = [(n, w) for n, w in enumerate(weighings(results, runs))]
    return [_picture(weighing, key=f"{key}-weights{n}") for n, weighing in found]


def write_pngs(results: Results, *, out: Path) -> list[Path]:
    """The same as weights-<task>-<degraded views>-<digest>.png in `out`."""
    paths = []
    runs = results.runs.assign(variant=label_variants(results.runs))
    for task, of_task in runs.groupby("task", sort=True):
        for weighing in weighings(results, of_task):
            names = [str(task), *dict.fromkeys(weighing.views[s] for s in weighing.degraded), weighing.digest]
            paths.append(out / f"weights-{'-'.join(names)}.png")
            paths[-1].write_bytes(_png(weighing))
    return paths


def weighings(results: Results, runs: pd.DataFrame) -> list[Weighing]:
    """Of every variant among `runs` that records weights, degraded ones first, then by name."""
    columns = [str(c) for c in results.rounds.columns if str(c).startswith(PREFIX)]
    found = []
    for variant, group in runs.groupby("variant", sort=True):
        rounds = results.rounds[results.rounds["run_id"].isin(group["run_id"])]
        used = [c for c in columns if rounds[c].notna().any()]
        if used:
            # A source that sits a round out keeps what was learnt of it.
            tables = {
                c.removeprefix(PREFIX): rounds.pivot(index="run_id", columns="round", values=c).ffill(axis=1)
                for c in used
            }
            ordered = dict(sorted(tables.items(), key=lambda item: int(item[0])))
            first = next(iter(ordered.values()))
            found.append(
                Weighing(
                    variant=str(variant),
                    digest=str(group["digest"].iloc[0]),
                    views=_views(group.iloc[0], list(ordered)),
                    rounds=first.columns.to_numpy(np.int64) + 1,
                    norms={source: table.to_numpy(np.float64) for source, table in ordered.items()},
                )
            )
    return sorted(found, key=lambda w: (not w.degraded, w.variant))[:MOST_VARIANTS]


def _views(run: "pd.Series[Any]", sources: list[str]) -> dict[str, str]:
    """What each source sees, told apart where two see alike."""
    told = run.get("config.partition.views")
    names = json.loads(told) if isinstance(told, str) else []
    names = names or [FPL_VIEWS[int(source) % len(FPL_VIEWS)] for source in sources]
    return {source: str(names[int(source)]) if int(source) < len(names) else source for source in sources}


def _picture(weighing: Weighing, *, key: str) -> Picture:
    last = {source: float(np.nanmean(norms[:, -1:])) for source, norms in weighing.norms.items()}
    told = ", ".join(f"{weighing.views[s]} {value:.3g}" for s, value in last.items())
    seeds = len(next(iter(weighing.norms.values())))
    caption = f"{weighing.variant}. Frobenius norm of each source's block of J. In the last round: {told}."
    if weighing.degraded:
        mean = np.mean([value for source, value in last.items() if source not in weighing.degraded])
        shares = " and ".join(
            f"{weighing.views[s]} has {last[s] / mean:.0%} of the others' mean" for s in weighing.degraded
        )
        caption += f" Of poor quality, dashed: {shares}."
    caption += f" Mean over {seeds} seeds, bands are one standard deviation." if seeds > 1 else ""
    svg = render(lambda axes: _draw(axes, weighing), key=key, title=TITLE, description=caption, entries=[])
    return Picture(key=key, title=TITLE, caption=caption, svg=svg)


def _draw(axes: Axes, weighing: Weighing) -> None:
    """A line for each source, named at its end; a degraded one heavy and dashed."""
    ends = {}
    for index, (source, norms) in enumerate(weighing.norms.items()):
        bad = source in weighing.degraded
        colour = INK if bad else COLOURS[index % (len(COLOURS) - 1)]
        mean = np.nanmean(norms, axis=0)
        axes.plot(
            weighing.rounds,
            mean,
            color=colour,
            lw=2.6 if bad else 1.6,
            ls=(0, (4, 1.5)) if bad else "-",
            marker=MARKERS[index % len(MARKERS)],
            ms=4,
            markevery=max(1, len(mean) // 6),
        )
        if len(norms) > 1:
            std = np.nanstd(norms, axis=0, ddof=1)
            axes.fill_between(weighing.rounds, mean - std, mean + std, color=colour, alpha=0.15, lw=0)
        ends[source] = (float(mean[-1]), colour, bad)
    axes.set(xlabel="Rounds completed", ylabel="Norm of the source's block of J")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(x=0.02)
    _name_ends(axes, {weighing.views[s] + f" ({s})": end for s, end in ends.items()})


def _name_ends(axes: Axes, ends: Mapping[str, tuple[float, str, bool]]) -> None:
    """Names beside the lines' ends, moved apart where they would cover each other."""
    low, high = axes.get_ylim()
    ordered = sorted(ends.items(), key=lambda item: item[1][0])
    places = spread([value for _, (value, _, _) in ordered], gap=0.065 * (high - low))
    for place, (name, (_, colour, bad)) in zip(places, ordered, strict=True):
        axes.annotate(
            name,
            xy=(1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour,
            fontweight="bold" if bad else "normal",
            annotation_clip=False,
        )


def spread(values: Sequence[float], *, gap: float) -> list[float]:
    """Places at least `gap` apart that are nearest to ascending `values`, by least squares.

    Pool adjacent violators (Ayer et al., Annals of Mathematical Statistics 1955).
    """
    pools: list[list[float]] = []
    for index, value in enumerate(values):
        pools.append([value - index * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    level = [float(np.mean(pool)) for pool in pools for _ in pool]
    return [place + index * gap for index, place in enumerate(level)]


def _png(weighing: Weighing) -> bytes:
    """On white, for slides."""
    with matplotlib.rc_context({**SETTINGS, **PNG}):
        figure = Figure(figsize=(SIZE[0] * 1.5, SIZE[1] * 1.4), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, weighing)
        axes.set_title(TITLE, loc="left", pad=14)
        data = io.BytesIO()
        figure.savefig(data, format="png", facecolor="white")
    return data.getvalue()
