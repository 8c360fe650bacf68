"""Verdicts on the claims of papers: analytic ones computed, measured ones read from results.

What a claim is, and how a file of them looks: harness/report/claims_file.py.
"""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from pathlib import Path
from typing import Any

from harness import loading
from harness.config import as_dict
from harness.data.tasks import load_task
from harness.report import frames
from harness.report.claims_file import Claim, Setup, load_claims, plain
from harness.report.formula import evaluate, names_in, parse
from harness.report.markup import class_of, pairs_list, scroll
from harness.report.measured import MIN_SEEDS, Measurement, cells_by_scale, measure
from harness.report.printed import read_printed
from harness.run.describe import describe
from harness.run.driver import execute
from harness.run.method import method_config
from harness.run.runtime import LocalRuntime
from harness.types import ConfigError

__all__ = ["Outcome", "Verdict", "audit", "decide", "load_claims", "to_html"]


class Outcome(StrEnum):
    """What became of a claim."""

    HOLDS = "holds"
    CONDITION = "holds with a condition"
    CONTRADICTED = "contradicted"
    INDICATIVE = "indicative"
    """Too few seeds, too small a scale, or an interval on both sides of what is claimed."""
    NOT_RUN = "not run"


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
            "expected": c.expected.told(self.bound), "bound": _finite(self.bound),
            "tolerance": c.expected.slack(self.bound), "found": self.found,
            "low": _finite(m.low) if m else None, "high": _finite(m.high) if m else None,
            "seeds": m.seeds if m else None, "scale": m.scale if m else None,
            "verdict": str(self.outcome), "conditions": self.conditions, "command": self.command,
        }  # fmt: skip

    @property
    def command(self) -> str:
        """What gives the figure: for a measured claim, the runs that it is read from."""
        return self.claim.command(self.measurement.scale if self.measurement else None)

    def row(self) -> tuple[str, ...]:
        """Claim, expected, found, verdict, as text."""
        c, m = self.claim, self.measurement
        found = "" if self.found is None else plain(self.found)
        if m is not None:
            seeds = f"{m.seeds} seed{'s' if m.seeds > 1 else ''}"
            found = (
                f"{found} [{round(m.low, 12):.4g}, {round(m.high, 12):.4g}], {seeds}, {m.scale} scale".strip()
            )
        conditional = self.outcome is Outcome.CONDITION
        verdict = f"{self.outcome}: {self.conditions}" if conditional else str(self.outcome)
        return f"{c.paper}/{c.id} ({c.source})\n{c.claim}", c.expected.told(self.bound), found, verdict


def audit(claims: Sequence[Claim], *, results: Path | frames.Results) -> list[Verdict]:
    """A verdict for each claim; `results` is the folder of runs, or what was read from it.

    Raises ConfigError naming file and claim.
    """
    found = None
    facts = Facts(results.folder if isinstance(results, frames.Results) else results)
    if isinstance(results, frames.Results):
        found = results
    elif any(claim.question for claim in claims) and any(results.glob("*/config.yaml")):
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

    def __init__(self, results: Path) -> None:
        """`results` is the folder whose `bench` holds what benchmarks wrote."""
        self._bench = results / "bench"
        self._known: dict[Setup, Mapping[str, Any]] = {}

    def of(self, claim: Claim, name: str) -> Mapping[str, Any]:
        """What `name` holds in the formulas of `claim`. Raises ConfigError."""
        section, words = setup = claim.setups[name]
        if setup not in self._known:
            try:
                self._known[setup] = self._make(section, words)
            except ConfigError as error:
                raise ConfigError(f"{section}.{name}: {error}") from None
        return self._known[setup]

    def _make(self, section: str, words: Sequence[str]) -> Mapping[str, Any]:
        match section:
            case "describe":
                return described(words)
            case "ledger":
                return played(words)
            case "printed":
                return printed(Path(words[0]))
            case _:
                return benchmarked(self._bench / words[0])

    def measured(self, claim: Claim) -> bool:
        """Whether the benchmarks that a claim asks have left their files."""
        return all((self._bench / claim.setups[name][1][0]).is_file() for name in claim.names)

    def repeats(self, claim: Claim) -> int:
        """Of the benchmark with the fewest."""
        return min(int(self.of(claim, name)["repeats"]) for name in claim.names)


def printed(file: Path) -> dict[str, Any]:
    """Quantity -> setting -> ... -> number, as the section `printed` of a sweep has them."""
    full = next(iter(cells_by_scale(file).values()))
    tree: dict[str, Any] = {}
    for quantity in read_printed(file, full=full):
        for path, value in quantity.printed.items():
            below, (*above, last) = tree, (quantity.name, *path)
            for key in above:
                below = below.setdefault(key, {})
            below[last] = value
    return tree


def benchmarked(file: Path) -> dict[str, Any]:
    """What a benchmark wrote: `repeats`, and tables of its own."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); run the benchmark again") from None
    if not (isinstance(found, dict) and isinstance(found.get("repeats"), int)):
        raise ConfigError(f"{file}: holds no `repeats`; run the benchmark again")
    return found


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


def to_html(verdicts: Sequence[Verdict]) -> str:
    """A section of a page: a line for each claim, and under the table how each figure came about."""
    counts = {outcome: sum(v.outcome is outcome for v in verdicts) for outcome in Outcome}
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    titles = "".join(f'<th scope="col">{title}</th>' for title in ("Claim", "Expected", "Found", "Verdict"))
    lines = "".join(f"<tr>{_html_line(verdict)}</tr>" for verdict in verdicts)
    how = pairs_list({f"{v.claim.paper}/{v.claim.id}": v.command for v in verdicts})
    return (
        f'<section><h2>Claims</h2><p class="setting">{escape(told)}</p>'
        + scroll(f"<thead><tr>{titles}</tr></thead><tbody>{lines}</tbody>", "claims")
        + f"<details><summary>Commands that give the figures</summary>{how}</details></section>"
    )


def _html_line(verdict: Verdict) -> str:
    claim = verdict.claim
    _, *cells = verdict.row()
    name = f"{claim.paper}/{claim.id} <small>{escape(claim.source)}</small>"
    mark = {Outcome.HOLDS: "win", Outcome.CONDITION: "win", Outcome.CONTRADICTED: "open"}
    kinds = ["", "", mark.get(verdict.outcome, "none")]
    tail = (f"<td{class_of(kind)}>{escape(cell)}</td>" for kind, cell in zip(kinds, cells, strict=True))
    return f'<th scope="row">{name}<span>{escape(claim.claim)}</span></th>{"".join(tail)}'


def _judge(claim: Claim, facts: Facts, results: frames.Results | None) -> Verdict:
    def names(name: str) -> object:
        return facts.of(claim, name)

    expected = claim.expected
    if claim.of_a_benchmark and not facts.measured(claim):
        # What it expects may be numbers alone, but may not be.
        bound = math.nan if names_in(parse(expected.formula)) else evaluate(expected.formula, names=names)
        return Verdict(claim, Outcome.NOT_RUN, bound, None, claim.conditions)
    bound = evaluate(expected.formula, names=names)
    slack = expected.slack(bound)
    if claim.value is not None:
        found = evaluate(claim.value, names=names)
        right = decide(expected.relation, low=found, high=found, bound=bound, slack=slack)
        outcome = (
            Outcome.CONTRADICTED if not right else Outcome.CONDITION if claim.conditions else Outcome.HOLDS
        )
        if claim.of_a_benchmark and facts.repeats(claim) < MIN_SEEDS:
            outcome = Outcome.INDICATIVE
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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
