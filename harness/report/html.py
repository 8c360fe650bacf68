"""One self-contained page: nothing is loaded from elsewhere, it reads on a phone, on paper, in the light and dark."""

import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

import pandas as pd

from harness.report import curves, tables
from harness.report.frames import Results, load, read_ledger
from harness.report.style import CSS
from harness.types import SERVER, Phase

INDICATIVE_BELOW: Final = 5
"""Seeds from which a difference is more than indicative."""

HOW_COUNTED: Final = (
    ("Compute", "FLOPs are counted where they run, forward and backward, 2 per multiply-add. Convolutions and "
     "matrix products count; element-wise work (batch norm, ReLU, pooling, optimizers) counts 0."),
    ("Traffic", "Bytes are those of the tensors that travel, uplink and downlink, as clients see them: "
     "1 MB = 1 000 000 bytes. Headers and retries of a network are not included."),
    ("Energy", "Joules of the clients: computing (power grows with the cube of the clock), sending and receiving "
     "(radio power times time), and waiting (idle power). The server's joules are kept apart."),
    ("Time", "Simulated seconds of a clock that follows each client's device and link; "
     "it does not depend on the machine that ran the simulation."),
    ("Phases", "Totals are those of training. Evaluation is on the ledger as well, in a phase of its own."),
    ("Choices", "The best round is the one with the best validation value, and a target is reached at the first "
     "round whose validation value reaches it. The test set chooses nothing."),
)  # fmt: skip


def write(folder: Path, *, out: Path, target: float | None = None) -> Path:
    """Write report.html, comparison.csv and comparison.md into `out`; returns the path of the page.

    `target` is a validation value, by default 95 % of the best method's mean in each task. Raises ConfigError
    for a folder without runs or an impossible target.
    """
    results = load(folder, ledger=False)
    table = tables.comparison(results, target=target)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "comparison.csv", tables.to_csv(table))
    _write(out / "comparison.md", tables.to_markdown(table))
    _write(out / "report.html", page(results, table))
    return out / "report.html"


def page(results: Results, table: pd.DataFrame) -> str:
    """The page as text, from results and their comparison."""
    runs = results.runs.assign(variant=tables.label_variants(results.runs))
    tasks = list(dict.fromkeys(table["task"]))
    body = [_header(runs, table)]
    for number, task in enumerate(tasks):
        of_task = runs[runs["task"] == task]
        body.append(_task_section(results, of_task, table[table["task"] == task], key=f"t{number}"))
    body += [_how_counted(), _runs_section(runs), _environment(runs)]
    title = escape(f"{' and '.join(map(str, tasks))}: {_count(table['variant'].nunique(), 'method')} compared")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(runs: pd.DataFrame, table: pd.DataFrame) -> str:
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
    return (
        '<header><p class="kicker">Federated learning on weak devices</p>'
        f"<h1>{_count(table['variant'].nunique(), 'method')} on {tasks}</h1>"
        f'<p class="facts">{" · ".join(facts)}</p><p class="names">{names}</p></header>'
    )


def _task_section(results: Results, runs: pd.DataFrame, table: pd.DataFrame, *, key: str) -> str:
    task = str(table["task"].iloc[0])
    figures = curves.accuracy_pictures(results, task=task, key=key)
    paretos = [curves.pareto_picture(table, axis=a, key=f"{key}-pareto-{a}") for a in ("joules", "bytes")]
    figures += [picture for picture in paretos if picture is not None]
    parts = [
        f'<section><h2>{escape(task)}</h2><p class="setting">{escape(_setting(runs))}</p>',
        _tiles(table),
        "<h3>Comparison</h3>",
        _comparison(table),
        _notes(runs, table),
        '<h3>Accuracy and what it costs</h3><div class="figures">',
        *(_figure(picture) for picture in figures),
        "</div>",
    ]
    if partitions := _partition_pictures(results, runs, key=key):
        parts += ['<h3>Who holds which labels</h3><div class="figures">', *map(_figure, partitions), "</div>"]
    parts.append(_ledger_table(results, runs))
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
        f"{name} {runs[column].iloc[0]}"
        for name, column in told.items()
        if column in runs and runs[column].notna().all() and runs[column].nunique() == 1
    ]
    return " · ".join(shared)


def _tiles(table: pd.DataFrame) -> str:
    """The answers a reader looks for first: who is best, who is cheapest to the target."""
    percent = table["best_mean"].max() <= 1
    tiles = []
    measured = table[table["best_mean"].notna()]
    if len(measured):
        best = measured.loc[measured["best_mean"].idxmax()]
        value = f"{best['best_mean'] * 100:.1f} %" if percent else f"{best['best_mean']:.3g}"
        tiles.append((f"Best test {best['metric']}", value, best["variant"]))
    full = table[(table["reached"] == table["seeds"]) & table["target"].notna()]
    goal = float(table["target"].iloc[0])
    told = f"{goal * 100:.1f} %" if percent else f"{goal:.3g}"
    for axis, name in (("bytes", "Least traffic"), ("joules", "Least energy"), ("sim_s", "Shortest time")):
        reached = full[full[f"to_{axis}"].notna()]
        if len(reached):
            row = reached.loc[reached[f"to_{axis}"].idxmin()]
            scale = tables.scale_of(row[f"to_{axis}"], axis)
            value = f"{tables.significant(row[f'to_{axis}'] / scale.factor)} {scale.unit}"
            tiles.append((f"{name} to {told}", value, row["variant"]))
    cells = (
        f'<li><span class="what">{escape(what)}</span><b>{escape(value)}</b><span>{escape(str(who))}</span></li>'
        for what, value, who in tiles
    )
    return f'<ul class="tiles">{"".join(cells)}</ul>'


def _comparison(table: pd.DataFrame) -> str:
    shown = tables.display(table)
    columns = tables.pairs_of(shown)
    groups: list[tuple[str, int]] = []
    for group, _ in columns:
        if groups and groups[-1][0] == group:
            groups[-1] = (group, groups[-1][1] + 1)
        else:
            groups.append((group, 1))
    head = "".join(
        f'<th colspan="{n}" scope="colgroup"{_class("group" if g else "")}>{escape(g)}</th>' for g, n in groups
    )
    marks = _winners(table, columns)
    starts = {i for i, (g, _) in enumerate(columns) if g and g != columns[i - 1][0]}
    classes = [" ".join(("num" if g else "", "start" if i in starts else "")) for i, (g, _) in enumerate(columns)]
    titles = "".join(
        f'<th scope="col"{_class(c)}>{_broken(title)}</th>' for (_, title), c in zip(columns, classes, strict=True)
    )
    rows = []
    for r, line in enumerate(shown.to_numpy().tolist()):
        cells = [f'<th scope="row">{escape(str(line[0]))}</th>']
        for c, cell in enumerate(line[1:], start=1):
            text = str(cell)
            state = "win" if marks.get(c) == r else "none" if text in ("—", "not reached") else ""
            cells.append(f"<td{_class(f'{classes[c]} {state}')}>{escape(text)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return _scroll(f"<thead><tr>{head}</tr><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody>", "comparison")


def _winners(table: pd.DataFrame, columns: Sequence[tuple[str, str]]) -> dict[int, int]:
    """Column -> row of its best value: highest best, cheapest to the target among those that always reach it."""
    found: dict[int, int] = {}
    where = {title: i for i, (_, title) in enumerate(columns) if title == "Best"}
    if len(table) > 1 and table["best_mean"].notna().any():
        found[where["Best"]] = int(table["best_mean"].reset_index(drop=True).idxmax())
    full = (table["reached"] == table["seeds"]).reset_index(drop=True)
    first = next(i for i, (group, _) in enumerate(columns) if group.startswith("Cost to reach"))
    for offset, axis in enumerate(tables.AXES):
        costs = table[f"to_{axis}"].reset_index(drop=True)[full].dropna()
        if len(table) > 1 and len(costs):
            found[first + offset] = int(costs.idxmin())
    return found


def _notes(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    notes = ["± is one sample standard deviation over seeds; the interval is a 95 % bootstrap interval of the mean."]
    if int(table["seeds"].min()) < INDICATIVE_BELOW:
        notes.append(f"Differences are indicative: some methods have fewer than {INDICATIVE_BELOW} seeds.")
    if ((table["reached"] > 0) & (table["reached"] < table["seeds"])).any():
        notes.append("A cost with “(n of m)” is the mean over the n seeds that reached the target.")
    for key in tables.unequal_settings(runs):
        notes.append(f"Not all methods ran under one setting: {key} differs.")
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
        title = str(run.get("config.partition.name", "Partition"))
        extra = [f"{k.rsplit('.', 1)[-1]}={run[k]}" for k in told if not k.endswith(".name")]
        title += f" ({', '.join(extra)})" if extra else ""
        counts = results.partitions[str(run["run_id"])]
        found.append(curves.label_picture(counts, title=f"{title}, seed {run['seed']}", key=f"{key}-part{number}"))
    return found


def _ledger_table(results: Results, runs: pd.DataFrame) -> str:
    """Where the cost arises: the ledger of each variant by phase, party and endpoint, mean over its runs."""
    frames = []
    for run_id, variant in zip(runs["run_id"], runs["variant"], strict=True):
        path = results.folder / str(run_id)
        ledger = read_ledger(path if path.is_dir() else results.folder)
        if len(ledger):
            party = ledger["client"].eq(SERVER).map({True: "server", False: "clients"})
            joules = ledger[["compute_j", "link_j", "idle_j"]].sum(axis=1)
            keys = {"Method": str(variant), "Phase": ledger["phase"], "Who": party, "Endpoint": ledger["endpoint"]}
            costs = {"bytes": ledger["rx_bytes"] + ledger["tx_bytes"], "flops": ledger["flops"], "joules": joules}
            lines = pd.DataFrame(keys).astype(str).assign(**costs)
            frames.append(lines.groupby(list(keys), sort=False).sum())
    if not frames:
        return ""
    mean = pd.concat(frames).groupby(level=[0, 1, 2, 3], sort=False).mean()
    mean = mean[mean.index.get_level_values("Phase") != Phase.SETUP]
    mean.index = mean.index.set_names(["Method", "Phase", "Who", "Endpoint"])
    head = ["Method", "Phase", "Who", "Endpoint", "Traffic", "Compute", "Energy"]
    rows = [[*map(str, index), *(_amount(line[a], a) for a in ("bytes", "flops", "joules"))] for index, line in mean.iterrows()]
    return f"<details><summary>Where the cost arises: the ledger by endpoint</summary>{_table(head, rows, left=4)}</details>"


def _amount(value: float, axis: str) -> str:
    if not value or math.isnan(value):
        return "0"
    scale = tables.scale_of(value, axis)
    return f"{tables.significant(value / scale.factor)} {scale.unit}"


def _how_counted() -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in HOW_COUNTED)
    return f'<section><h2>How costs are counted</h2><dl class="prose">{items}</dl></section>'
