"""The claims of a paper as data, in `sweeps/<paper>/claims.yaml`.

    paper: "McMahan et al., AISTATS 2017"
    describe: {cnn: [task=mnist, model=fedavg_cnn]}        # configurations, counted without data
    ledger: {tiny: [task=synthetic, run.num_rounds=2]}     # configurations, run in a temporary folder
    claims:
      - {id: cnn-params, source: section 3, claim: "...", kind: analytic,
         value: cnn.models.full.params, expected: 1663370}
      - {id: fewer-rounds, source: table 2, claim: "...", kind: measured, sweep: table2.yaml,
         runs: {variant: fedavg}, than: {variant: fedsgd}, compare: ratio,
         statistic: rounds_to, target: 0.99, expected: "< 1"}

      - {id: planner, source: section 4, claim: "...", kind: measured, value: max(planning.given.exponent),
         expected: "<= 1.1"}
    printed: {table2: table2.yaml}                         # what the paper itself printed, of a sweep
    bench: {planning: planning.json}                       # what a benchmark wrote into results/bench

`value` and `expected` are formulas (harness/report/formula.py); `expected` may open with <, <=, > or >=, and
without one needs no more than `tolerance` (a number, or a percentage of it: "5 %"). In formulas a `describe`
name holds `models`, `exchanges`, `data` and `config`; a `ledger` name holds `rounds`, `ledger` and `config`;
a `printed` name holds the paper's numbers, as `table2["Test accuracy"].fedavg`.

A measured claim asks the runs of a sweep: `runs`, against `than` where there is one, and `less: {runs, than}`
takes another difference from that one. In place of the task's metric `value` may be a formula over one run
(harness/report/printed.py), and `than_value` another one for the second side. Without a sweep it is a
formula over benchmarks.
"""

import functools
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from harness.config import nearest, require
from harness.report.formula import names_in, parse
from harness.report.measured import Candidate, Question, cells_by_scale, pick
from harness.report.printed import NAMES
from harness.run.sweep import Cell
from harness.types import ConfigError

Setup = tuple[str, tuple[str, ...]]
SweepReader = Callable[[Path], Mapping[str, Sequence[Cell]]]

SETUPS: Final = ("describe", "ledger", "printed", "bench")
"""Sections that give formulas their names."""
SECTIONS: Final = ("paper", *SETUPS, "claims")
COMMON: Final = ("id", "source", "claim", "kind", "expected")
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "analytic": ("value",),
    "measured": ("sweep", "runs", "statistic"),
    "bench": ("value",),
}
"""What a claim of each kind must have beside COMMON; bench: a measured one without a sweep."""
OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = {
    "analytic": ("tolerance", "conditions"),
    "measured": (
        *("tolerance", "conditions", "than", "less", "target", "split", "compare"),
        *("value", "than_value"),
    ),
    "bench": ("tolerance", "conditions"),
}


@dataclass(frozen=True, slots=True)
class Expected:
    """What the paper says."""

    relation: str
    """<, <=, >, >= or =."""
    formula: str
    tolerance: float
    """For =; absolute, or a share of the expected value."""
    relative: bool

    def slack(self, bound: float) -> float:
        """The tolerance in the unit of the claim, `bound` being the formula's value."""
        return abs(bound) * self.tolerance if self.relative else self.tolerance

    def told(self, bound: float) -> str:
        """As text, `bound` being the formula's value."""
        slack = f" ± {100 * self.tolerance:g} %" if self.relative else f" ± {self.tolerance:g}"
        sign = "" if self.relation == "=" else f"{self.relation} "
        return f"{sign}{plain(bound)}{slack if self.tolerance else ''}"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim, checked."""

    id: str
    file: Path
    paper: str
    """Folder of the file."""
    source: str
    """Where the paper makes it."""
    claim: str
    """In our words."""
    kind: str
    """analytic or measured."""
    expected: Expected
    value: str | None
    """The formula of a claim that asks no runs."""
    question: Question | None
    """What a measured claim asks of the runs."""
    conditions: str | None
    """Under which it can hold at all."""
    setups: Mapping[str, Setup]
    """Name -> (section, `key=value` words or a file)."""
    sweep: Path | None
    """File whose cells a measured claim asks."""
    sides: Sequence[Mapping[str, object]]
    """Settings of the cells: one, two or four."""

    @property
    def names(self) -> list[str]:
        """What its formulas speak of, where it asks no runs."""
        formulas = (str(self.value), self.expected.formula)
        return list(dict.fromkeys(name for text in formulas for name in names_in(parse(text))))

    @property
    def of_a_benchmark(self) -> bool:
        """Whether it is measured, but not on runs."""
        return self.kind == "measured" and self.question is None

    def command(self, scale: str | None) -> str:
        """Command lines that make its figure again; `scale` is that of the sweep, by default its fullest."""
        if self.sweep is not None:
            return shlex.join(["harness", "sweep", str(self.sweep), *self._words(scale)])
        return "; ".join(shlex.join(_command_of(*self.setups[name])) for name in self.names)

    def _words(self, scale: str | None) -> list[str]:
        assert self.question is not None
        values: dict[str, list[str]] = {}
        for key, value in (pair for side in self.sides for pair in side.items()):
            if str(value) not in values.setdefault(key, []):
                values[key].append(str(value))
        told = [("--set", f"{key}=[{', '.join(found)}]") for key, found in values.items()]
        chosen = next(c for c in self.question.candidates if scale in (None, c.scale))
        # A sweep without a scale called paper is full as it stands.
        named = f"scale:{chosen.scale}" in chosen.sides[0].log.tags
        return [*(["--scale", chosen.scale] if named else []), *(word for pair in told for word in pair)]


def load_claims(paper: str | None = None, *, folder: Path | None = None) -> list[Claim]:
    """The claims in `<folder>/<paper>/claims.yaml`, of every paper where none is named.

    `folder` is `sweeps` here, else beside the package. Raises ConfigError naming the file and the claim.
    """
    if folder is None:
        here = Path("sweeps")
        folder = here if here.is_dir() else Path(__file__).parents[2] / "sweeps"
    files = {file.parent.name: file for file in sorted(folder.glob("*/claims.yaml"))}
    require(len(files) > 0, f"{folder}: holds no <paper>/claims.yaml; run from the repository's root")
    require(
        paper is None or paper in files, f"--paper: no claims of {paper!r}{nearest(str(paper), list(files))}"
    )
    return [claim for name, file in files.items() if paper in (None, name) for claim in _read(file)]


def _command_of(section: str, words: Sequence[str]) -> list[str]:
    match section:
        case "describe":
            return ["harness", "describe", *words]
        case "ledger":
            return ["harness", "run", "runtime.transport=local", *words]
        case "printed":
            return ["harness", "reproduce", *words]
        case _:
            return ["make", "bench-claims"]


def plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _read(file: Path) -> list[Claim]:
    try:
        tree = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read ({' '.join(str(error).split())})") from None
    try:
        _check_keys(tree, SECTIONS, needed=("paper", "claims"))
        setups = {name: (kind, words) for kind in SETUPS for name, words in _setups(tree, kind, file.parent)}
        require(isinstance(tree["claims"], list), f"claims: must be a list, got {tree['claims']!r}")
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    claims: list[Claim] = []
    cells: SweepReader = functools.cache(cells_by_scale)  # many claims ask the same sweep
    for number, entry in enumerate(tree["claims"], start=1):
        name = entry.get("id", f"number {number}") if isinstance(entry, dict) else f"number {number}"
        try:
            claims.append(_claim(entry, file=file, setups=setups, cells=cells))
            require(
                name not in [c.id for c in claims[:-1]], "id: another claim has it; ids are unique in a file"
            )
        except ConfigError as error:
            raise ConfigError(f"{file}, claim {name}: {error}") from None
    return claims


def _setups(tree: Mapping[str, Any], kind: str, folder: Path) -> list[tuple[str, tuple[str, ...]]]:
    section = tree.get(kind) or {}
    words = "a file" if kind in ("printed", "bench") else "[key=value, ...]"
    require(isinstance(section, dict), f"{kind}: must hold `name: {words}`, got {section!r}")
    found: list[tuple[str, tuple[str, ...]]] = []
    for name, value in section.items():
        if kind in ("printed", "bench"):
            require(isinstance(value, str), f"{kind}.{name}: must be {words}, got {value!r}")
            found.append((name, (str(folder / value) if kind == "printed" else value,)))
        else:
            require(isinstance(value, list), f"{kind}.{name}: must be a list of key=value, got {value!r}")
            found.append((name, tuple(str(word) for word in value)))
    return found


def _kind(entry: Any) -> str:
    """That of FIELDS. Raises ConfigError."""
    kind = entry.get("kind") if isinstance(entry, dict) else None
    require(kind in ("analytic", "measured"), f"kind: must be analytic or measured, got {kind!r}")
    return "bench" if kind == "measured" and "sweep" not in entry and "value" in entry else str(kind)


def _claim(entry: Any, *, file: Path, setups: Mapping[str, Setup], cells: SweepReader) -> Claim:
    kind = _kind(entry)
    needed = (*COMMON, *FIELDS[kind])
    _check_keys(entry, (*needed, *OPTIONAL[kind]), needed=needed)
    expected = _expected(entry["expected"], entry.get("tolerance", 0))
    asks = kind == "measured"
    value = None if asks else str(entry["value"])
    _check_names(expected.formula, value, kind=kind, setups=setups)
    sweep = file.parent / str(entry["sweep"]) if asks else None
    return Claim(
        **{key: str(entry[key]) for key in ("id", "source", "claim", "kind")},
        file=file,
        paper=file.parent.name,
        expected=expected,
        value=value,
        question=_question(entry, cells(sweep)) if sweep else None,
        sweep=sweep,
        sides=_sides(entry) if asks else [],
        conditions=entry.get("conditions"),
        setups=setups,
    )


def _check_names(expected: str, value: str | None, *, kind: str, setups: Mapping[str, Setup]) -> None:
    for formula in filter(None, (expected, value)):
        for name in names_in(parse(formula)):
            require(name in setups, f"{formula!r}: nothing is called {name}{nearest(name, list(setups))}")
    asked = {setups[name][0] for name in names_in(parse(expected))}
    require(asked <= {"bench"} if kind == "bench" else "bench" not in asked,
            f"expected: {expected!r}: names of bench stand with names of bench")  # fmt: skip
    if value is None:
        return
    sections = {setups[name][0] for name in names_in(parse(value))}
    if kind == "bench":
        told = "a measured claim without a sweep asks what stands under bench"
        require(sections == {"bench"}, f"value: {value!r}: {told}")
    else:
        told = "is typed in; compute it from describe, ledger or printed"
        require(len(sections) > 0 and "bench" not in sections, f"value: {value!r} {told}")


def _expected(text: object, tolerance: object) -> Expected:
    found = re.fullmatch(r"\s*(<=|>=|<|>|)\s*(\S.*?)\s*", str(text), re.DOTALL)
    require(found is not None, f"expected: must be a formula, got {text!r}")
    assert found is not None
    slack = re.fullmatch(r"([0-9.eE+-]+)\s*(%?)", str(tolerance))
    try:
        size = float(slack[1]) if slack else math.nan
    except ValueError:
        size = math.nan
    require(size >= 0, f"tolerance: must be a number >= 0 or a percentage such as 5 %, got {tolerance!r}")
    relation = found[1] or "="
    require(relation == "=" or size == 0, f"tolerance: means nothing beside {relation}")
    relative = slack is not None and slack[2] == "%"
    return Expected(relation, found[2], size / 100 if relative else size, relative)


def _question(entry: Mapping[str, Any], cells: Mapping[str, Sequence[Cell]]) -> Question:
    sides = _sides(entry)
    target = entry.get("target")
    require(isinstance(target, int | float | None), f"target: must be a number, got {target!r}")
    candidates = []
    for scale, at_scale in cells.items():
        try:
            candidates.append(Candidate(scale, tuple(pick(at_scale, side) for side in sides)))
        except ConfigError:
            # A smaller scale may leave cells out, such as data sets; the fullest has them all.
            if not candidates:
                raise
    question = Question(
        candidates=tuple(candidates),
        statistic=str(entry["statistic"]),
        target=target,
        split=str(entry.get("split", "val")),
        compare=str(entry.get("compare", "difference")),
        values=_values(entry),
    )
    question.check()
    return question


def _sides(entry: Mapping[str, Any]) -> list[Mapping[str, object]]:
    """What `runs`, `than`, and those of `less`, say. Raises ConfigError."""
    less = entry.get("less")
    if less is not None:
        _check_keys(less, ("runs", "than"), needed=("runs", "than"))
        require("than" in entry, "less: is taken from a difference; give `than`, too")
    sides = []
    for where, tree in (("", entry), ("less.", less or {})):
        for key in ("runs", "than"):
            side = tree.get(key, {})
            told = f"{where}{key}: must hold settings of the sweep's cells"
            require(isinstance(side, dict), f"{told}, got {side!r}")
            if key in tree:
                sides.append(side)
    return sides


def _values(entry: Mapping[str, Any]) -> tuple[str | None, ...]:
    require("than_value" not in entry or "than" in entry, "than_value: there is no `than`")
    found = tuple(str(entry[key]) if key in entry else None for key in ("value", "than_value"))
    for formula in filter(None, found):
        names = names_in(parse(formula))
        require(len(names) > 0, f"value: {formula!r} is typed in; compute it from a run")
        for name in names:
            require(name in NAMES, f"value: {formula!r}: nothing is called {name}{nearest(name, NAMES)}")
    return found if "than_value" in entry else found[:1]


def _check_keys(entry: Any, allowed: Sequence[str], *, needed: Sequence[str]) -> None:
    require(isinstance(entry, dict), f"must hold {', '.join(needed)}, got {entry!r}")
    for key in entry:
        require(key in allowed, f"{key}: unknown key{nearest(str(key), allowed)}")
    for key in needed:
        require(entry.get(key) is not None, f"{key}: missing")
