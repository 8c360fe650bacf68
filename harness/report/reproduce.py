"""A paper's table or figure beside ours: what was printed, what a sweep's runs gave, how far apart they are.

What was printed, and how it is read from runs, stands in the sweep's section `printed`
(harness/report/printed.py). A deviation is told where our data are the paper's; at a scale smaller than the
paper's every setting that differs is listed beside it.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from harness.config import as_dict
from harness.report import claims, frames, html, tables
from harness.report.claims_file import load_claims
from harness.report.frames import Results, flatten
from harness.report.markup import table_of
from harness.report.measured import MIN_SEEDS, cells_by_scale
from harness.report.printed import Quantity, Reader, read_printed
from harness.run.sweep import Cell, read_sections

Key = tuple[tuple[str, object], ...]
SEED = "run.seed"
LAST = "Ours, last round"
BEST = "Ours, best by val"
OF_A_ROUND = (
    "“Last round” is the test value after the last round, “best by val” the one at the round of the best "
    "validation value; the deviation is that of the latter."
)


@dataclass(frozen=True, slots=True)
class Row:
    """One cell of a table over its seeds, in the quantity's unit; NaN where there is nothing."""

    label: str
    """The settings that tell it from the others."""
    data: str
    """Task at this scale; empty where the scale leaves the cell out."""
    paper: float | str | None
    last: tuple[float, float]
    """Mean and sample standard deviation after the last round, or of the whole run."""
    best: tuple[float, float]
    """At the round of best val."""
    seeds: int
    """Finished runs with a value."""
    planned: int
    """Runs of the sweep."""
    rounds: float
    """Mean over finished runs."""
    deviation: float
    """Ours against the paper's: percentage points for %, else percent. NaN where the data are others."""


@dataclass(frozen=True, slots=True)
class Table:
    """A quantity in every cell."""

    quantity: Quantity
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """Name and unit, and where it is printed."""
        q = self.quantity
        return f"{q.name}, {q.unit}" + (f" ({q.source})" if q.source else "")

    def text(self) -> tuple[list[str], list[list[str]]]:
        """Titles and lines, ready to print; columns that say nothing are left out."""
        q, rows = self.quantity, self.rows
        unit = "points" if q.unit == "%" else "%"
        columns: dict[str, list[str]] = {"Cell": [row.label for row in rows]}
        if not any(row.data and row.data in row.label for row in rows):
            columns["Data"] = [row.data or "—" for row in rows]
        if q.printed:
            columns["Paper"] = [_paper(row.paper, q.unit) for row in rows]
        columns[LAST if q.of_a_round else "Ours"] = [_ours(row, q.unit) for row in rows]
        if q.of_a_round:
            columns[BEST] = [_mean_std(*row.best, q.unit) for row in rows]
        if q.printed:
            columns[f"Deviation, {unit}"] = [_signed(row) for row in rows]
        columns["Seeds"] = [_seeds(row) for row in rows]
        columns["Rounds"] = ["—" if math.isnan(row.rounds) else f"{row.rounds:g}" for row in rows]
        return list(columns), [list(line) for line in zip(*columns.values(), strict=True)]


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A table or figure of a paper at one scale."""

    name: str
    """<paper>/<file>."""
    description: str
    scale: str
    tables: tuple[Table, ...]
    changes: Mapping[str, tuple[str, str]]
    """Setting -> its values at this scale, and at the paper's."""

    @property
    def notes(self) -> list[str]:
        """What a reader must know beside the numbers."""
        rows = [row for table in self.tables for row in table.rows if row.planned]
        told = ["± is one sample standard deviation over seeds."]
        if any(table.quantity.of_a_round for table in self.tables):
            told.append(OF_A_ROUND)
        if any(row.seeds < MIN_SEEDS for row in rows):
            told.append(f"Fewer than {MIN_SEEDS} seeds are indicative.")
        if any(isinstance(row.paper, float | int) and math.isnan(row.deviation) for row in rows if row.seeds):
            told.append("No deviation is told where this scale has other data than the paper.")
        if self.scale == "smoke":
            told.append("Scale smoke shows that everything runs, not what it reaches.")
        elif self.changes:
            told.append(f"Scale {self.scale} is not the paper's: the settings that differ are listed.")
        return told + [f"{t.quantity.name}: {t.quantity.note}" for t in self.tables if t.quantity.note]


def reproduce(
    file: Path, cells: Sequence[Cell], results: Results | None, *, scale: str | None = None
) -> Reproduction:
    """`cells` of the sweep in `file`, expanded at `scale`, and their runs, beside what was printed.

    Raises ConfigError naming the file.
    """
    full = next(iter(cells_by_scale(file).values()))
    readers = {} if results is None else _readers(results, cells)
    metric = "metric" if results is None else str(results.runs["metric"].iloc[0])
    quantities = [
        dataclasses.replace(q, name=f"Test {tables.named(metric)}") if q.name == "Test metric" else q
        for q in read_printed(file, full=full)
    ]
    return Reproduction(
        name=f"{file.parent.name}/{file.stem}",
        description=" ".join(str(read_sections(file)["description"] or "").split()),
        scale=scale or "default",
        tables=tuple(Table(q, tuple(_rows(q, cells, full, readers))) for q in quantities),
        changes=_changes(cells, full),
    )


def write(file: Path, cells: Sequence[Cell], *, scale: str | None, out: Path) -> Reproduction:
    """Write reproduction.md, reproduction.csv and report.html of finished cells into `out`.

    The page also shows the measured claims that are asked of this sweep. Raises ConfigError where no cell
    has run.
    """
    ids = {cell.cfg.run_id for cell in cells}
    results = frames.load(Path(cells[0].cfg.run.results_dir), ledger=False, only=ids)
    found = reproduce(file, cells, results, scale=scale)
    names = _labels(cells, cells)
    labels = {cell.cfg.run_id: names[_key(cell)] for cell in cells}
    results = frames.named(results, labels)
    out.mkdir(parents=True, exist_ok=True)
    html.write_text(out / "reproduction.md", to_markdown(found))
    html.write_text(out / "reproduction.csv", to_csv(found))
    page = html.page(
        results,
        tables.comparison(results),
        title=found.name,
        first=[to_html(found), *_claims(file, results)],
    )
    html.write_text(out / "report.html", page)
    return found


def _claims(file: Path, results: Results) -> list[str]:
    """A section of the measured claims that are asked of a sweep, where there are any."""
    if not (file.parent / "claims.yaml").exists():
        return []
    asked = [c for c in load_claims(file.parent.name, folder=file.parent.parent) if c.sweep == file]
    return [claims.to_html(claims.audit(asked, results=results))] if asked else []


def to_markdown(found: Reproduction) -> str:
    """Every table, the notes and the settings that differ."""
    parts = [f"# {found.name} at scale {found.scale}", found.description]
    for table in found.tables:
        head, lines = table.text()
        parts += [f"## {table.title}", tables.markdown(head, lines)]
    parts.append("\n".join(f"- {note}" for note in found.notes))
    if found.changes:
        lines = [[f"`{key}`", *values] for key, values in found.changes.items()]
        head = ["Setting", f"Scale {found.scale}", "Scale paper"]
        parts += ["## Settings that differ from the paper's scale", tables.markdown(head, lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_csv(found: Reproduction) -> str:
    """One line per quantity and cell, full precision."""
    lines = [
        {
            "table": found.name, "scale": found.scale, "quantity": t.quantity.name, "unit": t.quantity.unit,
            "source": t.quantity.source, "cell": r.label, "data": r.data, "paper": r.paper,
            "last_mean": r.last[0], "last_std": r.last[1], "best_mean": r.best[0], "best_std": r.best[1],
            "deviation": r.deviation, "seeds": r.seeds, "planned": r.planned, "rounds": r.rounds,
        }
        for t in found.tables
        for r in t.rows
    ]  # fmt: skip
    return tables.to_csv(pd.DataFrame(lines))


def to_html(found: Reproduction) -> str:
    """A section of a page."""
    parts = [
        f"<section><h2>The paper's numbers and ours, scale {escape(found.scale)}</h2>",
        f'<p class="setting">{escape(found.description)}</p>',
    ]
    for table in found.tables:
        head, lines = table.text()
        left = 1 + head.count("Data")
        parts += [f"<h3>{escape(table.title)}</h3>", table_of(head, lines, left=left)]
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    parts.append(f'<ul class="notes">{notes}</ul>')
    if found.changes:
        rows = [[key, *values] for key, values in found.changes.items()]
        body = table_of(["Setting", f"Scale {found.scale}", "Scale paper"], rows, left=3)
        parts.append(
            f"<details><summary>Settings that differ from the paper's scale</summary>{body}</details>"
        )
    return "\n".join(parts) + "</section>"


def _readers(results: Results, cells: Sequence[Cell]) -> dict[str, Reader]:
    configs = {cell.cfg.run_id: cell.cfg for cell in cells}
    rounds = dict(iter(results.rounds.groupby("run_id")))
    known: dict[str, object] = {}
    return {
        str(run["run_id"]): Reader(configs[run["run_id"]], run, rounds[run["run_id"]], known=known)
        for run in results.runs[results.runs["finished"]].to_dict("records")
        if run["run_id"] in configs
    }


def _rows(
    quantity: Quantity, cells: Sequence[Cell], full: Sequence[Cell], readers: Mapping[str, Reader]
) -> Iterator[Row]:
    here, there, labels = _groups(cells), _groups(full), _labels(cells, full)
    first = list(dict.fromkeys(key[:1] for key in [*there, *here]))
    for key in sorted(dict.fromkeys([*there, *here]), key=lambda key: first.index(key[:1])):
        paper = quantity.printed.get(tuple(str(dict(key).get(name)) for name in quantity.by))
        mine = here.get(key, [])
        if not mine and paper is None:
            continue
        found = [readers[cell.cfg.run_id] for cell in mine if cell.cfg.run_id in readers]
        last, best = ([run.read(quantity, best=best) for run in found] for best in (False, True))
        ours = _moments(best if quantity.of_a_round else last)[0]
        same = key in there and bool(mine) and mine[0].cfg.task.name == there[key][0].cfg.task.name
        yield Row(
            label=labels[key],
            data=mine[0].cfg.task.name if mine else "",
            paper=paper,
            last=_moments(last),
            best=_moments(best) if quantity.of_a_round else (math.nan, math.nan),
            seeds=sum(not math.isnan(value) for value in last),
            planned=len(mine),
            rounds=_moments([float(run.num_rounds) for run in found])[0],
            deviation=_deviation(ours, paper, quantity.unit) if same else math.nan,
        )


def _groups(cells: Sequence[Cell]) -> dict[Key, list[Cell]]:
    found: dict[Key, list[Cell]] = {}
    for cell in cells:
        found.setdefault(_key(cell), []).append(cell)
    return found


def _key(cell: Cell) -> Key:
    simple = (str, int, float)
    return tuple(
        (key, value if isinstance(value, simple) else json.dumps(value))
        for key, value in cell.settings.items()
        if key != SEED
    )


def _labels(cells: Sequence[Cell], full: Sequence[Cell]) -> dict[Key, str]:
    """A name for each cell: its variant, and the settings that take several values, here or at full scale."""
    keys = dict.fromkeys([*_groups(full), *_groups(cells)])
    values: dict[str, set[object]] = {}
    for setting, value in (pair for key in keys for pair in key):
        values.setdefault(setting, set()).add(value)
    return {
        key: ", ".join(_told(s, v) for s, v in key if len(values[s]) > 1 or s == "variant") or "all"
        for key in keys
    }


def _told(setting: str, value: object) -> str:
    if setting in ("variant", "task.name"):
        return str(value)
    return f"{setting.removesuffix('.name').rpartition('.')[2]} {value}"


def _changes(cells: Sequence[Cell], full: Sequence[Cell]) -> dict[str, tuple[str, str]]:
    """Settings whose values, over all cells, are not those at full scale."""
    mine, theirs = _values(cells), _values(full)
    told = {key: (mine.get(key, "—"), theirs.get(key, "—")) for key in sorted({**theirs, **mine})}
    return {key: values for key, values in told.items() if values[0] != values[1]}


def _values(cells: Sequence[Cell]) -> dict[str, str]:
    """Setting -> the values that it takes, those that change no result left out."""
    values: dict[str, dict[str, None]] = {}
    for cell in {cell.cfg.digest: cell for cell in cells}.values():
        for key, value in flatten(as_dict(cell.cfg)).items():
            if not key.startswith(("log.", "runtime.", "run.results_dir", "run.resume", SEED)):
                values.setdefault(key, {})[str(value)] = None
    return {key: ", ".join(found) for key, found in values.items()}


def _deviation(ours: float, paper: float | str | None, unit: str) -> float:
    if not isinstance(paper, int | float) or math.isnan(ours):
        return math.nan
    return ours - paper if unit == "%" else 100 * (ours / paper - 1) if paper else math.nan


def _moments(values: Sequence[float]) -> tuple[float, float]:
    sample = pd.Series([value for value in values if not math.isnan(value)], dtype=float)
    return float(sample.mean()), float(sample.std(ddof=1))


def _paper(value: float | str | None, unit: str) -> str:
    return (
        "—"
        if value is None
        else value
        if isinstance(value, str)
        else f"{value:.2f}"
        if unit == "%"
        else f"{value:g}"
    )


def _ours(row: Row, unit: str) -> str:
    return _mean_std(*row.last, unit) if row.planned else "not at this scale"


def _mean_std(mean: float, std: float, unit: str) -> str:
    if math.isnan(mean):
        return "—"
    shown = [f"{x:.2f}" if unit == "%" else tables.significant(x) for x in (mean, std) if not math.isnan(x)]
    return " ± ".join(shown)


def _signed(row: Row) -> str:
    return "—" if math.isnan(row.deviation) else f"{row.deviation:+.2f}"


def _seeds(row: Row) -> str:
    return (
        "—"
        if not row.planned
        else f"{row.seeds}"
        if row.seeds == row.planned
        else f"{row.seeds} of {row.planned}"
    )
