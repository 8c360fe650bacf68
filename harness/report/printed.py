"""What a paper printed, as data: the section `printed` of a sweep, and the same quantities of our runs.

    printed:
      - {quantity: Top-1 test accuracy, source: Table 1, unit: "%", value: 100 * at.eval.accuracy,
         by: [variant, task.name], values: {fedgkt_iid: {cifar10: 92.97}}}

`value` is a formula (harness/report/formula.py) over one run: `at` is the record of a round
(`at.eval.accuracy`, `at.cost.tx_bytes_total`), read after the last round and at the round of best val;
`total` is what the run cost, `to` what it had cost when the metric reached `target`, `describe` its models,
counted without data.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import pandas as pd

from harness.config import Config, nearest, require
from harness.cost.carbon import JOULES_PER_KWH, carbon_g
from harness.report.formula import evaluate, names_in, parse
from harness.report.frames import AXES, SPENT
from harness.run.describe import describe
from harness.run.sweep import Cell, read_sections

NAMES: Final = ("at", "total", "to", "describe")
FIELDS: Final = ("quantity", "value", "unit", "source", "note", "by", "values", "target", "split")
DEFAULT: Final[tuple[dict[str, Any], ...]] = (
    {"quantity": "Test metric", "unit": "%", "value": "100 * at.eval.metric"},
    {"quantity": "Traffic", "unit": "MB", "value": "total.bytes / 1e6"},
    {"quantity": "Client energy", "unit": "J", "value": "total.joules"},
    {"quantity": "Simulated time", "unit": "s", "value": "total.sim_s"},
)
"""Where a paper printed nothing. `metric` stands for the task's own, in every formula."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number of every cell of a table, as a paper prints it and as our runs give it."""

    name: str
    value: str
    """Formula over one run, in `unit`."""
    unit: str
    """% makes deviations percentage points; every other unit makes them percent of what is printed."""
    source: str
    """Table or figure."""
    note: str
    by: tuple[str, ...]
    """Settings that tell the printed numbers apart."""
    printed: Mapping[tuple[str, ...], float | str]
    """Values of `by` as text -> what is printed; text where it is no number."""
    target: float | None
    """Metric value of `to`."""
    split: str
    """Where the target is read: val, or test where a paper defines it so."""

    @property
    def of_a_round(self) -> bool:
        """Whether it is read at a round: after the last one, and at the best by val."""
        return "at" in names_in(parse(self.value))


def read_printed(file: Path, *, full: list[Cell]) -> list[Quantity]:
    """The quantities of a sweep; `full` are its cells at full scale, to one of which each number belongs.

    Raises ConfigError naming file and entry.
    """
    entries = read_sections(file)["printed"]
    if entries is None:
        return [_quantity(entry, f"{file}: printed") for entry in DEFAULT]
    require(isinstance(entries, list), f"{file}: printed: must be a list of quantities, got {entries!r}")
    quantities = []
    for number, entry in enumerate(entries):
        where = f"{file}: printed[{number}]"
        quantities.append(_quantity(entry, where))
        _check_cells(quantities[-1], full, where)
    return quantities


def _quantity(entry: Any, where: str) -> Quantity:
    require(isinstance(entry, dict), f"{where}: must hold {', '.join(FIELDS)}, got {entry!r}")
    for key in entry:
        require(key in FIELDS, f"{where}: unknown key {key!r}{nearest(str(key), FIELDS)}")
    for key in ("quantity", "value", "unit"):
        require(isinstance(entry.get(key), str), f"{where}.{key}: must be text, got {entry.get(key)!r}")
    names = names_in(parse(entry["value"]))
    for name in names:
        require(name in NAMES, f"{where}.value: unknown name {name!r}{nearest(name, NAMES)}")
    by, target, split = entry.get("by") or [], entry.get("target"), entry.get("split", "val")
    require(isinstance(by, list), f"{where}.by: must be a list of settings, got {by!r}")
    fits = isinstance(target, int | float) if "to" in names else target is None
    require(fits, f"{where}.target: a number where the value speaks of `to`, got {target!r}")
    require(split in ("val", "test"), f"{where}.split: must be val or test, got {split!r}")
    return Quantity(
        name=entry["quantity"],
        value=entry["value"],
        unit=entry["unit"],
        source=str(entry.get("source") or ""),
        note=" ".join(str(entry.get("note") or "").split()),
        by=tuple(str(key) for key in by),
        printed=dict(_leaves(entry.get("values"), len(by), where)),
        target=target,
        split=split,
    )


def _leaves(tree: Any, depth: int, where: str) -> Iterator[tuple[tuple[str, ...], float | str]]:
    if tree is None:
        return
    if depth == 0:
        good = isinstance(tree, int | float | str) and not isinstance(tree, bool)
        require(good, f"{where}.values: must end in numbers or texts, got {tree!r}")
        yield (), tree
        return
    require(isinstance(tree, dict), f"{where}.values: must nest as deep as `by` is long, got {tree!r}")
    for key, below in tree.items():
        for rest, value in _leaves(below, depth - 1, where):
            yield (str(key), *rest), value


def _check_cells(quantity: Quantity, cells: list[Cell], where: str) -> None:
    known = list(cells[0].settings)
    for name in quantity.by:
        require(name in known, f"{where}.by: the sweep does not vary {name!r}{nearest(name, known)}")
    there = {tuple(str(cell.settings[name]) for name in quantity.by) for cell in cells}
    for key in quantity.printed:
        require(key in there, f"{where}.values: {', '.join(key)} is no cell of the sweep at full scale")


class Reader:
    """Values of formulas over one finished run."""

    def __init__(
        self, cfg: Config, run: Mapping[Any, Any], rounds: pd.DataFrame, *, known: dict[str, Any]
    ) -> None:
        """`run` and `rounds` are those of frames.Results; `known` keeps what `describe` said."""
        self._cfg, self._run, self._known = cfg, run, known
        self._rounds = rounds.sort_values("round")

    @property
    def num_rounds(self) -> int:
        """Rounds that it ran."""
        return len(self._rounds)

    def read(self, quantity: Quantity, *, best: bool) -> float:
        """The quantity after the last round, or at the round of best val; NaN where that never came.

        Raises ConfigError for a formula that asks for what the run does not have.
        """
        reached = self._reached(quantity)
        if quantity.target is not None and reached is None:
            return math.nan
        return self.value(quantity.value, best=best, reached=reached)

    def value(self, formula: str, *, best: bool, reached: Mapping[str, float] | None = None) -> float:
        """What a formula gives there; `reached` is what it calls `to`. Raises ConfigError."""
        row = self._row(best=best)
        if row is None:
            return math.nan
        trees = {
            "at": lambda: _nested(row, metric=str(self._run["metric"])),
            "total": self._total,
            "to": lambda: reached,
            "describe": self._describe,
        }
        return evaluate(formula, names=lambda name: trees[name]())

    def _row(self, *, best: bool) -> Mapping[Any, Any] | None:
        rows = self._rounds
        if best:
            rows = rows[rows["round"] == self._run.get("best/round", math.nan)]
        return rows.to_dict("records")[-1] if len(rows) else None

    def _total(self) -> dict[str, float]:
        told = {str(key): value for key, value in self._run.items() if str(key).startswith("total/")}
        found = {key.removeprefix("total/"): float(value) for key, value in told.items()}
        found |= {axis: float(self._rounds[axis].iloc[-1]) for axis in AXES}
        joules = found["joules"] + found.get("server_j", 0.0)
        return found | {"all_kwh": joules / JOULES_PER_KWH, "all_carbon_g": carbon_g(joules)}

    def _describe(self) -> Mapping[str, Any]:
        if self._cfg.digest not in self._known:
            self._known[self._cfg.digest] = describe(self._cfg)
        return cast("Mapping[str, Any]", self._known[self._cfg.digest])

    def _reached(self, quantity: Quantity) -> dict[str, float] | None:
        key = f"{'eval' if quantity.split == 'test' else 'val'}/{self._run['metric']}"
        if quantity.target is None or key not in self._rounds:
            return None
        rows = self._rounds.assign(rounds=self._rounds["round"] + 1)
        hits = rows[rows[key] >= quantity.target].to_dict("records")
        return {cost: float(hits[0][cost]) for cost in SPENT} if hits else None


def _nested(row: Mapping[Any, Any], *, metric: str) -> dict[str, Any]:
    """`eval/accuracy` as a.eval.accuracy, and once more as a.eval.metric; cells without a value left out."""
    tree: dict[str, Any] = {}
    for key, value in row.items():
        if value == value and value is not None:
            *path, last = str(key).split("/")
            below = tree
            for part in path:
                below = below.setdefault(part, {})
            below[last] = value
            if last == metric:
                below["metric"] = value
    return tree
