"""One self-contained page: it loads nothing, and reads on a phone, on paper, in the light and in the dark."""

import math
import os
import tempfile
from collections.abc import Hashable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from harness.report import curves, energy, filters, pictures, plans, tables, weights
from harness.report.frames import AXES, Results, load, read_ledger
from harness.report.markup import (
    broken,
    class_of,
    figure,
    given,
    pairs_list,
    percentage,
    scroll,
    shown,
    table_of,
)
from harness.report.style import CSS
from harness.types import SERVER

INDICATIVE_BELOW: Final = 5
"""Seeds from which a difference is more than indicative."""

HOW_COUNTED: Final = {
    "Compute": "FLOPs are counted where they run, forward and backward, 2 per multiply-add. Convolutions "
    "and matrix products count; element-wise work (batch norm, ReLU, pooling, optimizers) counts 0.",
    "Traffic": "Bytes are those of the tensors that travel, uplink and downlink, as clients see them: "
    "1 MB = 1 000 000 bytes. Headers and retries of a network are not included.",
    "Energy": "Joules of the clients: computing (power grows with the cube of the clock), sending and "
    "receiving (radio power times time), and waiting (idle power). The server's are kept apart.",
    "Time": "Simulated seconds of a clock that follows each client's device and link; "
    "it does not depend on the machine that ran the simulation.",
    "Phases": "Totals are those of training. Evaluation is on the ledger as well, in a phase of its own.",
    "Choices": "The best round is the one with the best validation value, and a target is reached at the "
    "first round whose validation value reaches it. The test set chooses nothing.",
}


def write(
    folder: Path,
    *,
    out: Path,
    target: float | None = None,
    last: Sequence[str] = (),
    reload_s: int = 0,
    grid: str | None = None,
) -> Path:
    """Write report.html, comparison.csv and .md, and figures for slides into `out`; returns the page's path.

    `target` is a validation value, by default 95 % of the best method's mean in each task. With `reload_s`
    the page reads itself again so often. ConfigError for a folder without runs or an impossible target.
    """
    results = load(folder, ledger=False)
    table = tables.comparison(results, target=target)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "comparison.csv", tables.to_csv(table))
    write_text(out / "comparison.md", tables.to_markdown(table))
    write_text(out / "report.html", page(results, table, last=last, reload_s=reload_s, grid=grid))
    weights.write_pngs(results, out=out)
    return out / "report.html"


def page(
    results: Results,
    table: pd.DataFrame,
    *,
    title: str | None = None,
    first: Sequence[str] = (),
    last: Sequence[str] = (),
    reload_s: int = 0,
    grid: str | None = None,
) -> str:
    """The page as text, from results and their comparison; `first` and `last` are sections of HTML."""
    runs = results.runs.assign(variant=tables.label_variants(results.runs))
    tasks = list(dict.fromkeys(table["task"]))
    body = [_header(runs, table, title=title), filters.controls(runs), *first]
    for number, task in enumerate(tasks):
        of_task = runs[runs["task"] == task]
        body.append(_section(results, of_task, table[table["task"] == task], f"t{number}", grid))
    body += [*last, _how_counted(), _runs_section(runs), _environment(runs)]
    methods = _count(table["method"].nunique(), "method")
    title = escape(title or f"{' and '.join(map(str, tasks))}: {methods} compared")
    return (
        f'<!doctype html>\n<html lang="en" data-reload="{reload_s}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{CSS}{filters.CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + f"\n</main>\n<script>{filters.SCRIPT}</script>\n</body>\n</html>\n"
    )


def _header(runs: pd.DataFrame, table: pd.DataFrame, *, title: str | None) -> str:
    tasks = " and ".join(f"<em>{escape(str(t))}</em>" for t in dict.fromkeys(table["task"]))
    seeds = sorted(set(runs["seed"]))
    open_runs = int((~runs["finished"].astype(bool)).sum())
    facts = [
        _count(len(runs), "run"),
        _count(len(seeds), "seed"),
        f"{_span(runs['rounds'])} rounds",
        *([f"{_span(runs[c])} clients"] if (c := "config.partition.num_clients") in runs else []),
        *([f"{open_runs} unfinished"] if open_runs else []),
    ]
    names = escape(", ".join(dict.fromkeys(map(str, table["variant"]))))
    methods = _count(table["method"].nunique(), "method")
    return (
        '<header><p class="kicker">Federated learning on weak devices</p>'
        f"<h1>{escape(title) if title else f'{methods} on {tasks}'}</h1>"
        f'<p class="facts">{" · ".join(facts)}</p><p class="names">{names}</p></header>'
    )


def _section(results: Results, runs: pd.DataFrame, table: pd.DataFrame, key: str, grid: str | None) -> str:
    task = str(table["task"].iloc[0])
    figures = curves.accuracy_pictures(results, task=task, key=key)
    paretos = [curves.pareto_picture(table, axis=a, key=f"{key}-pareto-{a}") for a in ("joules", "bytes")]
    figures += [picture for picture in paretos if picture is not None]
    figures += plans.plan_pictures(results, runs, key=key)
    figures += weights.weight_pictures(results, runs, key=key)
    figures += _partition_pictures(results, runs, key=key)
    parts = [
        f'<section data-task="{escape(task)}"><h2>{escape(task)}</h2>',
        f'<p class="setting">{escape(_setting(runs))}</p>',
        _tiles(table),
        "<h3>Comparison</h3>",
        _comparison(table),
        _notes(runs, table),
        f"<h3>{tables.WHOLE_RUN}</h3>",
        _whole_run(table),
        energy.energy_table(runs, grid=grid),
        '<h3>Accuracy and what it costs</h3><div class="figures">',
        *(figure(picture) for picture in figures),
        "</div>",
    ]
    counted = tables.compared(results)
    parts.append(pictures.section(results, runs, key=key))
    parts.append(_ledger_table(results, counted[counted["task"] == task]))
    return "\n".join(parts) + "</section>"


def _setting(runs: pd.DataFrame) -> str:
    """What all runs of a task have in common, in a line."""
    told = {
        "partition": "config.partition.name",
        "clients": "config.partition.num_clients",
        "cohort": "config.scheduler.cohort_size",
        "scheduler": "config.scheduler.policy",
        "model": "config.task.model",
        "server": "config.fleet.server",
    }
    shared = [
        f"{name} {shown(runs[column].iloc[0])}"
        for name, column in told.items()
        if column in runs and runs[column].notna().all() and runs[column].nunique() == 1
    ]
    return " · ".join(shared)


def _tiles(table: pd.DataFrame) -> str:
    """The answers a reader looks for first: who is best, who is cheapest to the target."""
    tiles: list[tuple[str, str, str]] = []
    table = table[~tables.is_reference(table)]
    measured = table[table["best_mean"].notna()]
    if len(measured):
        best = measured.iloc[int(measured["best_mean"].argmax())]
        value = percentage(float(best["best_mean"]))
        tiles.append((f"Best test {tables.named(best['metric'])}", value, str(best["variant"])))
    full = table[(table["reached"] == table["seeds"]) & table["target"].notna()]
    goal = float(table["target"].iloc[0])
    told = percentage(goal)
    for axis, name in (("bytes", "Least traffic"), ("joules", "Least energy"), ("sim_s", "Shortest time")):
        reached = full[full[f"to_{axis}"].notna()]
        if len(reached):
            row = reached.iloc[int(reached[f"to_{axis}"].argmin())]
            scale = tables.scale_of(row[f"to_{axis}"], axis)
            value = f"{tables.significant(row[f'to_{axis}'] / scale.factor)} {scale.unit}"
            tiles.append((f"{name} to {told}", value, str(row["variant"])))
    cells = (
        f'<li><span class="what">{escape(what)}</span><b>{escape(value)}</b><span>{escape(who)}</span></li>'
        for what, value, who in tiles
    )
    return f'<ul class="tiles">{"".join(cells)}</ul>'


def _comparison(table: pd.DataFrame) -> str:
    text = tables.display(table).drop(columns=tables.WHOLE_RUN, level=0)
    columns = tables.pairs_of(text)
    groups: list[tuple[str, int]] = []
    for group, _ in columns:
        if groups and groups[-1][0] == group:
            groups[-1] = (group, groups[-1][1] + 1)
        else:
            groups.append((group, 1))
    head = "".join(
        f'<th colspan="{n}" scope="colgroup"{class_of("group" if g else "")}>{escape(g)}</th>'
        for g, n in groups
    )
    marks = _winners(table, columns)
    starts = {i for i, (g, _) in enumerate(columns) if g and g != columns[i - 1][0]}
    classes = [
        " ".join(("num" if g else "", "start" if i in starts else "")) for i, (g, _) in enumerate(columns)
    ]
    titles = "".join(
        f'<th scope="col"{class_of(c)}>{broken(title)}</th>'
        for (_, title), c in zip(columns, classes, strict=True)
    )
    rows = []
    for r, line in enumerate(text.to_numpy().tolist()):
        cells = [f'<th scope="row">{escape(str(line[0]))}</th>']
        for c, cell in enumerate(line[1:], start=1):
            state = "win" if marks.get(c) == r else "none" if cell in ("—", "not reached") else ""
            cells.append(f"<td{class_of(f'{classes[c]} {state}')}>{escape(cell)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return scroll(
        f"<thead><tr>{head}</tr><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody>", "comparison"
    )


def _whole_run(table: pd.DataFrame) -> str:
    axes = [*AXES, "server_flops"]
    titles = ["Method", "Rounds", *(tables.TITLES[axis] for axis in AXES), "Server compute"]
    rows = [
        [
            row["variant"],
            f"{row['rounds']:g}",
            *(_amount(row[f"total_{axis}"], axis.removeprefix("server_")) for axis in axes),
        ]
        for row in table.to_dict("records")
    ]
    return table_of(titles, rows, left=1)


def _winners(table: pd.DataFrame, columns: Sequence[tuple[str, str]]) -> dict[int, int]:
    """Column -> row of its best value: highest, or cheapest to the target of those that always reach it."""
    first = next(i for i, (group, _) in enumerate(columns) if group.startswith("Cost to reach"))
    counts = ~tables.is_reference(table)
    always = counts & (table["reached"] == table["seeds"])
    values = {columns.index((columns[first - 1][0], "Best")): -table["best_mean"].where(counts)}
    values |= {first + i: table[f"to_{axis}"].where(always) for i, axis in enumerate(AXES)}
    several = int(counts.sum()) > 1
    return {i: int(np.nanargmin(column)) for i, column in values.items() if several and column.notna().any()}


def _notes(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    notes = [
        "± is one sample standard deviation over seeds, the interval a 95 % bootstrap interval of the mean."
    ]
    if int(table["seeds"].min()) < INDICATIVE_BELOW:
        notes.append(f"Differences are indicative: some methods have fewer than {INDICATIVE_BELOW} seeds.")
    if ((table["reached"] > 0) & (table["reached"] < table["seeds"])).any():
        notes.append("A cost with “(n of m)” is the mean over the n seeds that reached the target.")
    if references := table.loc[tables.is_reference(table), "variant"].tolist():
        notes.append(f"Points of reference, which exchange nothing and win nothing: {', '.join(references)}.")
    if unequal := tables.unequal_settings(runs):
        notes.append(f"Not all methods ran under one setting. These differ: {', '.join(unequal)}.")
    unfinished = runs.loc[~runs["finished"].astype(bool), "run_id"].tolist()
    if unfinished:
        notes.append(f"Unfinished, and left out where others finished: {', '.join(map(str, unfinished))}.")
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>'


def _partition_pictures(results: Results, runs: pd.DataFrame, *, key: str) -> list[curves.Picture]:
    """One picture for each partition setting, of its lowest seed."""
    found = []
    keys = [str(c) for c in runs.columns if str(c).startswith("config.partition.")]
    stored = runs[runs["run_id"].isin(list(results.partitions))].sort_values("seed")
    settings = stored[keys].map(repr).agg("|".join, axis=1) if keys else pd.Series("", index=stored.index)
    told = tables.differing(stored, keys)
    for number, (_, group) in enumerate(stored.groupby(settings, sort=False)):
        run = group.iloc[0]
        title = f"Who holds which labels: {run.get('config.partition.name', 'partition')}"
        extra = [f"{k.rsplit('.', 1)[-1]}={shown(run[k])}" for k in told if not k.endswith(".name")]
        title += f" ({', '.join(extra)})" if extra else ""
        counts = results.partitions[str(run["run_id"])]
        title, several = f"{title}, seed {run['seed']}", run["metric"] != "accuracy"
        found.append(curves.label_picture(counts, title=title, key=f"{key}-part{number}", several=several))
    return found


def _ledger_table(results: Results, runs: pd.DataFrame) -> str:
    """Where the cost arises: the ledger of each variant by phase, party and endpoint, mean over its runs."""
    names = ["Method", "Phase", "Who", "Endpoint"]
    frames = []
    for run_id, variant in zip(runs["run_id"], runs["variant"], strict=True):
        path = results.folder / str(run_id)
        ledger = read_ledger(path if path.is_dir() else results.folder)
        party = ledger["client"].eq(SERVER).map({True: "server", False: "clients"})
        costs = pd.DataFrame(
            {
                "bytes": ledger["rx_bytes"] + ledger["tx_bytes"],
                "flops": ledger["flops"],
                "joules": ledger[["compute_j", "link_j", "idle_j"]].sum(axis=1),
            }
        )
        sums = costs.groupby([ledger["phase"].astype(str), party, ledger["endpoint"].astype(str)]).sum()
        frames.append(pd.concat({str(variant): sums}))
    mean = pd.concat(frames).groupby(level=[0, 1, 2, 3], sort=False).mean() if frames else pd.DataFrame()
    mean = mean[mean.sum(axis=1) > 0]
    if mean.empty:
        return ""
    rows = [
        [*map(str, index), *(_amount(float(line[axis]), axis) for axis in ("bytes", "flops", "joules"))]
        for index, line in zip(mean.index.to_list(), mean.to_dict("records"), strict=True)
    ]
    body = table_of([*names, "Traffic", "Compute", "Energy"], rows, left=len(names))
    return f"<details><summary>Where the cost arises: the ledger, by endpoint</summary>{body}</details>"


def _amount(value: float, axis: str) -> str:
    if not value or math.isnan(value):
        return "0"
    scale = tables.scale_of(value, axis)
    return f"{tables.significant(value / scale.factor)} {scale.unit}"


def _how_counted() -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in HOW_COUNTED.items())
    return f'<section><h2>How costs are counted</h2><dl class="prose">{items}</dl></section>'


def _runs_section(runs: pd.DataFrame) -> str:
    ordered = runs.sort_values(["task", "variant", "seed"]).to_dict("records")
    return f"<section><h2>Runs</h2>{''.join(_run_details(run) for run in ordered)}</section>"


def _run_details(run: Mapping[Hashable, Any]) -> str:
    """One run: what it reached, and every setting it ran with."""
    metric = run["metric"]
    best: Any = run.get(f"best/eval/{metric}")
    reached = f"best {percentage(float(best))}" if given(best) else "not evaluated"
    state = "" if run["finished"] else ' <span class="open">unfinished</span>'
    facts = {
        "Run": run["run_id"],
        "Rounds": run["rounds"],
        "Best round": run.get("best/round"),
        f"Validation {tables.named(metric)} there": run.get(f"best/val/{metric}"),
        f"Test {tables.named(metric)} there": best,
        f"Last test {tables.named(metric)}": run.get(f"eval/{metric}"),
        "Last training loss": run.get("train/loss"),
        "Wall time, s": run.get("timing/wall_s"),
    }
    totals = {str(k).removeprefix("total/"): v for k, v in run.items() if str(k).startswith("total/")}
    config = {str(k).removeprefix("config."): v for k, v in run.items() if str(k).startswith("config.")}
    told = f"{run['task']}: {run['variant']}, seed {run['seed']}"
    groups = {"Outcome": facts, "Totals in base units": totals, "Settings": config}
    body = "".join(f"<h4>{name}</h4>{pairs_list(pairs)}" for name, pairs in groups.items())
    summary = (
        f"<summary><span>{escape(told)}</span>{state}<span class='aside'>{escape(reached)}</span></summary>"
    )
    of = f'data-task="{escape(str(run["task"]))}" data-variant="{escape(str(run["variant"]))}"'
    return f"<details {of}>{summary}{body}</details>"


def _environment(runs: pd.DataFrame) -> str:
    """What the runs ran on: values that all share in one list, the others with all that occurred."""
    columns = [str(c) for c in runs.columns if str(c).startswith("env.")]
    if not columns:
        return ""
    found = {c.removeprefix("env."): list(dict.fromkeys(runs[c].dropna().map(shown))) for c in columns}
    pairs = pairs_list({name: " / ".join(values) for name, values in found.items()})
    several = runs[columns].map(repr).drop_duplicates()
    note = (
        f"<p>{len(several)} environments; different values stand side by side.</p>"
        if len(several) > 1
        else ""
    )
    return f"<section><h2>Environment</h2>{note}{pairs}</section>"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _span(values: "pd.Series[Any]") -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def write_text(path: Path, text: str) -> None:
    """Whole or not at all: a reader never sees half a page."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
