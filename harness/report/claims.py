"""Every claim of a paper with its verdict: analytic ones computed, measured ones read from results.

    paper: "McMahan et al., AISTATS 2017"
    describe: {cnn: [task=mnist, model=fedavg_cnn]}        # configurations, counted without data
    ledger: {tiny: [task=synthetic, run.num_rounds=2]}     # configurations, run in a temporary folder
    claims:
      - {id: cnn-params, source: section 3, claim: "...", kind: analytic,
         value: cnn.models.full.params, expected: 1663370}
      - {id: fewer-rounds, source: table 2, claim: "...", kind: measured, sweep: table2.yaml,
         runs: {variant: fedavg}, than: {variant: fedsgd}, compare: ratio,
         statistic: rounds_to, target: 0.99, expected: "< 1"}

`value` and `expected` are formulas (harness/report/formula.py); `expected` may open with <, <=, > or >=, and
without one needs no more than `tolerance` (a number, or a percentage of it: "5 %"). In formulas a `describe`
name holds `models`, `exchanges`, `data` and `config`; a `ledger` name holds `rounds`, `ledger` and `config`.
"""

import functools
import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import yaml

from harness import loading
from harness.config import as_dict, nearest, require
from harness.data.tasks import load_task
from harness.report import frames
from harness.report.formula import evaluate, names_in, parse
from harness.report.measured import MIN_SEEDS, Candidate, Measurement, Question, cells_by_scale, measure, pick
from harness.run.describe import describe
from harness.run.driver import execute
from harness.run.method import method_config
from harness.run.runtime import LocalRuntime
from harness.run.sweep import Cell
from harness.types import ConfigError

Setup = tuple[str, tuple[str, ...]]
SweepReader = Callable[[Path], Mapping[str, Sequence[Cell]]]

SECTIONS: Final = ("paper", "describe", "ledger", "claims")
COMMON: Final = ("id", "source", "claim", "kind", "expected")
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "analytic": ("value",),
    "measured": ("sweep", "runs", "statistic"),
}
"""What a claim of each kind must have beside COMMON."""
OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = {
    "analytic": ("tolerance", "conditions"),
    "measured": ("tolerance", "conditions", "than", "target", "split", "compare"),
}


class Outcome(StrEnum):
    """What became of a claim."""

    HOLDS = "holds"
    CONDITION = "holds with a condition"
    CONTRADICTED = "contradicted"
    INDICATIVE = "indicative"
    """Too few seeds, too small a scale, or an interval on both sides of what is claimed."""
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Expected:
    """What the paper says."""

    relation: str
    """<, <=, >, >= or =."""
    formula: str
    tolerance: float
    """For =; absolute, or a share of the expected value."""
    relative: bool

    def told(self, bound: float) -> str:
        """As text, `bound` being the formula's value."""
        slack = f" ± {100 * self.tolerance:g} %" if self.relative else f" ± {self.tolerance:g}"
        sign = "" if self.relation == "=" else f"{self.relation} "
        return f"{sign}{_plain(bound)}{slack if self.tolerance else ''}"


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
    """The formula of an analytic claim."""
    question: Question | None
    """What a measured claim asks of the runs."""
    conditions: str | None
    """Under which it can hold at all."""
    setups: Mapping[str, Setup]
    """Name -> (describe or ledger, `key=value` words)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim and what was found."""

    claim: Claim
    outcome: Outcome
    bound: float
    """Value of the expected formula."""
    found: float | None
    """The value, or the mean over seeds; None where there is none, or it is only bounded."""
    conditions: str | None
    measurement: Measurement | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; an open end of an interval is null."""
        c, m = self.claim, self.measurement
        return {
            "id": c.id, "paper": c.paper, "source": c.source, "claim": c.claim, "kind": c.kind,
            "expected": c.expected.told(self.bound), "bound": self.bound, "found": self.found,
            "low": _finite(m.low) if m else None, "high": _finite(m.high) if m else None,
            "seeds": m.seeds if m else None, "scale": m.scale if m else None,
            "verdict": str(self.outcome), "conditions": self.conditions,
        }  # fmt: skip

    def row(self) -> tuple[str, ...]:
        """Claim, expected, found, verdict, as text."""
        c, m = self.claim, self.measurement
        found = "" if self.found is None else _plain(self.found)
        if m is not None:
            seeds = f"{m.seeds} seed{'s' if m.seeds > 1 else ''}"
            found = f"{found} [{m.low:.4g}, {m.high:.4g}], {seeds}, {m.scale} scale".strip()
        conditional = self.outcome is Outcome.CONDITION
        verdict = f"{self.outcome}: {self.conditions}" if conditional else str(self.outcome)
        return f"{c.paper}/{c.id} ({c.source})\n{c.claim}", c.expected.told(self.bound), found, verdict


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


def audit(claims: Sequence[Claim], *, results: Path) -> list[Verdict]:
    """A verdict for each claim; `results` is the folder of runs. Raises ConfigError naming file and claim."""
    facts = Facts()
    found: frames.Results | None = None
    if any(claim.question for claim in claims) and results.is_dir() and any(results.glob("*/config.yaml")):
        found = frames.load(results, ledger=False)
    verdicts = []
    for claim in claims:
        try:
            verdicts.append(_judge(claim, facts, found))
        except ConfigError as error:
            raise ConfigError(f"{claim.file}, claim {claim.id}: {error}") from None
    return verdicts


class Facts:
    """The trees that formulas speak of, each made once."""

    def __init__(self) -> None:
        self._known: dict[Setup, Mapping[str, Any]] = {}

    def of(self, claim: Claim, name: str) -> Mapping[str, Any]:
        """What `name` holds in the formulas of `claim`. Raises ConfigError."""
        kind, words = setup = claim.setups[name]
        if setup not in self._known:
            try:
                self._known[setup] = described(words) if kind == "describe" else played(words)
            except ConfigError as error:
                raise ConfigError(f"{kind}.{name}: {error}") from None
        return self._known[setup]


def described(words: Sequence[str]) -> dict[str, Any]:
    """Models, exchanges, data and config of a configuration, without a data set."""
    cfg = loading.load(words, method_config=method_config)
    task = load_task(cfg.task)
    data = {
        "num_train": task.num_train,
        "num_classes": task.num_classes,
        "inputs": math.prod(task.input_shape),
    }
    return {**describe(cfg), "data": data, "config": as_dict(cfg)}


def played(words: Sequence[str]) -> dict[str, Any]:
    """Rounds and ledger of a configuration, run in this process and forgotten."""
    with tempfile.TemporaryDirectory(prefix="harness-claim-") as folder:
        own = [f"run.results_dir={folder}", "runtime.transport=local", "log.wandb=disabled"]
        cfg = loading.load([*words, *own], method_config=method_config)
        execute(cfg, runtime=LocalRuntime())
        found = frames.load(Path(folder))
        tables = {"rounds": found.rounds.to_dict("records"), "ledger": found.ledger.to_dict("records")}
    return {**tables, "config": as_dict(cfg)}


def decide(relation: str, *, low: float, high: float, bound: float, slack: float = 0.0) -> bool | None:
    """True where every value in [low, high] satisfies the relation, False where none does, else None."""
    yes, no = {
        "<": (high < bound, low >= bound),
        "<=": (high <= bound, low > bound),
        ">": (low > bound, high <= bound),
        ">=": (low >= bound, high < bound),
        "=": (bound - slack <= low and high <= bound + slack, high < bound - slack or low > bound + slack),
    }[relation]
    return True if yes else False if no else None


def _judge(claim: Claim, facts: Facts, results: frames.Results | None) -> Verdict:
    def names(name: str) -> object:
        return facts.of(claim, name)

    expected = claim.expected
    bound = evaluate(expected.formula, names=names)
    slack = abs(bound) * expected.tolerance if expected.relative else expected.tolerance
    if claim.value is not None:
        found = evaluate(claim.value, names=names)
        right = decide(expected.relation, low=found, high=found, bound=bound, slack=slack)
        outcome = (
            Outcome.CONTRADICTED if not right else Outcome.CONDITION if claim.conditions else Outcome.HOLDS
        )
        return Verdict(claim, outcome, bound, found, claim.conditions)
    assert claim.question is not None
    m = measure(claim.question, results) if results is not None else None
    if m is None:
        return Verdict(claim, Outcome.NOT_RUN, bound, None, claim.conditions)
    right = decide(expected.relation, low=m.low, high=m.high, bound=bound, slack=slack)
    conditions = claim.conditions
    if m.scale != "paper":
        conditions = "; ".join(filter(None, [conditions, f"at {m.scale} scale"]))
    return Verdict(claim, _weigh(right, m, conditions), bound, _finite(m.mean), conditions, m)


def _weigh(right: bool | None, m: Measurement, conditions: str | None) -> Outcome:
    """A small scale can support a paper's claim, not refute it; smoke can do neither."""
    if right is None or m.seeds < MIN_SEEDS or m.scale == "smoke" or (m.scale == "small" and not right):
        return Outcome.INDICATIVE
    if not right:
        return Outcome.CONTRADICTED
    return Outcome.CONDITION if conditions else Outcome.HOLDS


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _read(file: Path) -> list[Claim]:
    try:
        tree = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read ({' '.join(str(error).split())})") from None
    try:
        _check_keys(tree, SECTIONS, needed=("paper", "claims"))
        setups = {
            name: (kind, words) for kind in ("describe", "ledger") for name, words in _setups(tree, kind)
        }
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


def _setups(tree: Mapping[str, Any], kind: str) -> list[tuple[str, tuple[str, ...]]]:
    section = tree.get(kind) or {}
    require(isinstance(section, dict), f"{kind}: must hold `name: [key=value, ...]`, got {section!r}")
    for name, words in section.items():
        require(isinstance(words, list), f"{kind}.{name}: must be a list of key=value, got {words!r}")
    return [(name, tuple(str(word) for word in words)) for name, words in section.items()]


def _claim(entry: Any, *, file: Path, setups: Mapping[str, Setup], cells: SweepReader) -> Claim:
    kind = entry.get("kind") if isinstance(entry, dict) else None
    require(kind in FIELDS, f"kind: must be {' or '.join(FIELDS)}, got {kind!r}")
    needed = (*COMMON, *FIELDS[str(kind)])
    _check_keys(entry, (*needed, *OPTIONAL[str(kind)]), needed=needed)
    expected = _expected(entry["expected"], entry.get("tolerance", 0))
    value = str(entry["value"]) if kind == "analytic" else None
    for formula in filter(None, (expected.formula, value)):
        for name in names_in(parse(formula)):
            require(name in setups, f"{formula!r}: nothing is called {name}{nearest(name, list(setups))}")
    if kind == "analytic":
        assert value is not None
        require(
            len(names_in(parse(value))) > 0,
            f"value: {value!r} is typed in; compute it from describe or ledger",
        )
    return Claim(
        **{key: str(entry[key]) for key in ("id", "source", "claim", "kind")},
        file=file,
        paper=file.parent.name,
        expected=expected,
        value=value,
        question=_question(entry, cells(file.parent / str(entry["sweep"]))) if kind == "measured" else None,
        conditions=entry.get("conditions"),
        setups=setups,
    )


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
    sides = []
    for key in ("runs", "than"):
        side = entry.get(key, {})
        require(isinstance(side, dict), f"{key}: must hold settings of the sweep's cells, got {side!r}")
        if key in entry:
            sides.append(side)
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
    )
    question.check()
    return question


def _check_keys(entry: Any, allowed: Sequence[str], *, needed: Sequence[str]) -> None:
    require(isinstance(entry, dict), f"must hold {', '.join(needed)}, got {entry!r}")
    for key in entry:
        require(key in allowed, f"{key}: unknown key{nearest(str(key), allowed)}")
    for key in needed:
        require(entry.get(key) is not None, f"{key}: missing")
