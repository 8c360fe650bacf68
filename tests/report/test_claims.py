"""Verdicts: analytic ones follow the configuration, measured ones follow runs written by hand."""

import dataclasses
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.cli import app
from harness.config import Config, as_dict
from harness.report.claims import Verdict, audit, decide, load_claims, to_html
from harness.run.sweep import expand
from harness.types import ConfigError

SWEEPS = Path(__file__).parents[2] / "sweeps"
SWEEP = """
base: {task: digits, run.num_rounds: 4}
variants: {avg: {method: fedavg}, sgd: {method: fedsgd}}
grid: {run.seed: [0, 1, 2, 3, 4]}
"""
SCALES = "scales: {smoke: {run.num_rounds: 2}, small: {run.num_rounds: 3}, paper: {}}"


def write_claims(tmp_path: Path, claims: Sequence[object], **sections: object) -> Path:
    """`<tmp_path>/sweeps/toy/claims.yaml` beside a sweep; the folder that `load_claims` takes."""
    folder = tmp_path / "sweeps" / "toy"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "table.yaml").exists():
        (folder / "table.yaml").write_text(SWEEP)
    (folder / "claims.yaml").write_text(
        yaml.safe_dump({"paper": "Toy 2020", "claims": list(claims), **sections})
    )
    return folder.parent


def judge(tmp_path: Path, claim: Mapping[str, object], **sections: object) -> Verdict:
    folder = write_claims(tmp_path, [{"id": "it", "source": "here", "claim": "so", **claim}], **sections)
    (verdict,) = audit(load_claims("toy", folder=folder), results=tmp_path / "results")
    return verdict


# Analytic


def params(tmp_path: Path, *words: str, expected: object, **more: object) -> Verdict:
    claim = {"kind": "analytic", "value": "net.models.full.params", "expected": expected, **more}
    return judge(tmp_path, claim, describe={"net": list(words)})


def test_analytic_figures_move_with_the_configuration(tmp_path: Path) -> None:
    mlp = params(tmp_path, "task=mnist", "model=mlp", expected=199210)
    assert (mlp.found, mlp.outcome) == (784 * 200 + 200 + 200 * 200 + 200 + 200 * 10 + 10, "holds")
    other = params(tmp_path, "task=mnist", "model=logistic", expected=199210)
    assert (other.found, other.outcome) == (784 * 10 + 10, "contradicted")
    words = ["task=synthetic", "model=logistic"]
    assert params(tmp_path, *words, expected=0).found == 256 * 10 + 10
    assert params(tmp_path, *words, "task.options.num_classes=20", expected=0).found == 256 * 20 + 20


@pytest.mark.parametrize(
    ("expected", "more", "outcome"),
    [
        ("2 * 3925", {}, "holds"),
        (7850, {"conditions": "on a good day"}, "holds with a condition"),
        (7851, {"conditions": "on a good day"}, "contradicted"),
        (7800, {"tolerance": 50}, "holds"),
        (7800, {"tolerance": 49}, "contradicted"),
        (7800, {"tolerance": "1 %"}, "holds"),
        (7800, {"tolerance": "0.5 %"}, "contradicted"),
        ("< 7850", {}, "contradicted"),
        ("<= 7850", {}, "holds"),
        ("> net.data.inputs * net.data.num_classes", {}, "holds"),
    ],
)
def test_expectations(tmp_path: Path, expected: object, more: dict[str, object], outcome: str) -> None:
    assert params(tmp_path, "task=mnist", "model=logistic", expected=expected, **more).outcome == outcome


def test_a_ledger_is_that_of_a_real_run(tmp_path: Path) -> None:
    options = ["task.options.num_train=60", "task.options.num_test=20"]
    words = ["task=synthetic", "model=logistic", *options, "partition.num_clients=3", "run.num_rounds=2"]
    claim = {
        "kind": "analytic",
        "value": "sum(tiny.ledger.train.fit.tx_bytes)",
        "expected": "sum(tiny.rounds['cost/rx_bytes'])",
    }
    found = judge(tmp_path, claim, ledger={"tiny": words})
    # 2,570 parameters of 4 bytes, 3 clients, 2 rounds.
    assert (found.found, found.bound, found.outcome) == (2570 * 4 * 3 * 2, 2570 * 4 * 3 * 2, "holds")


def test_the_claims_of_fedavgs_paper() -> None:
    verdicts = {v.claim.id: v for v in audit(load_claims("fedavg"), results=Path("no such folder"))}
    analytic = {name: v for name, v in verdicts.items() if v.claim.kind == "analytic"}
    assert {v.outcome for v in analytic.values()} == {"holds", "holds with a condition"}
    assert verdicts["2nn-params"].found == 199_210
    assert verdicts["cnn-params"].found == 1_663_370
    assert verdicts["bytes-per-round"].found == 2 * 4 * 1_663_370
    assert verdicts["local-work-costs-compute"].found == 5
    assert {v.outcome for v in verdicts.values() if v.claim.kind == "measured"} == {"not run"}


# Measured


def write_run(tmp_path: Path, cfg: Config, val: Sequence[float], *, finished: bool = True) -> None:
    """A run whose val loss is 1 - val, test accuracy val - 0.1, and whose every round sends 10 B."""
    folder = tmp_path / "results" / cfg.run_id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(as_dict(cfg)))
    lines = [
        {
            "round": i,
            "val/accuracy": x,
            "val/loss": 1 - x,
            "eval/accuracy": x - 0.1,
            "cost/tx_bytes_total": 10 * (i + 1),
        }
        for i, x in enumerate(val)
    ]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        best = max(lines, key=lambda line: line["val/accuracy"])
        metrics = {key: x for key, x in lines[-1].items() if key.startswith(("val/", "eval/"))}
        told = {"metrics": metrics, "best": best, "totals": {}, "timings": {}, "rounds": len(lines)}
        (folder / "summary.json").write_text(json.dumps(told))


def write_runs(
    tmp_path: Path,
    variant: str,
    curves: Sequence[Sequence[float]],
    *,
    scale: str | None = None,
    words: str = "",
) -> None:
    """A finished run of SWEEP's `variant` for each curve of val accuracies, seeds from 0."""
    write_claims(tmp_path, [])
    cells = expand(
        tmp_path / "sweeps/toy/table.yaml", scale=scale, words=[f"variant={variant}", *words.split()]
    )
    for cell, curve in zip(cells, curves, strict=False):
        write_run(tmp_path, cell.cfg, curve)


def ask(tmp_path: Path, **claim: object) -> Verdict:
    question = {"kind": "measured", "sweep": "table.yaml", "runs": {"variant": "avg"}, "statistic": "final"}
    return judge(tmp_path, question | claim)


FIVE = [[0.5, 0.8], [0.5, 0.81], [0.5, 0.82], [0.5, 0.83], [0.5, 0.84]]
"""Final test accuracies .70 to .74, mean .72."""


def test_nothing_run_is_told(tmp_path: Path) -> None:
    found = ask(tmp_path, expected="> 0")
    assert (found.outcome, found.found, found.measurement) == ("not run", None, None)


@pytest.mark.parametrize(
    ("expected", "more", "outcome"),
    [
        ("> 0.69", {}, "holds"),
        ("> 0.69", {"conditions": "with luck"}, "holds with a condition"),
        ("> 0.75", {}, "contradicted"),
        ("> 0.72", {}, "indicative"),  # the interval has both sides
        ("0.72", {"tolerance": 0.05}, "holds"),
        ("0.72", {"tolerance": 0.001}, "indicative"),  # the interval is wider
        ("0.9", {"tolerance": "10 %"}, "contradicted"),
    ],
)
def test_five_seeds_make_a_verdict(
    tmp_path: Path, expected: str, more: dict[str, object], outcome: str
) -> None:
    write_runs(tmp_path, "avg", FIVE)
    found = ask(tmp_path, expected=expected, **more)
    assert found.outcome == outcome
    m = found.measurement
    assert m is not None
    assert (m.seeds, m.scale) == (5, "paper")
    assert m.mean == pytest.approx(0.72)
    assert 0.70 <= m.low < 0.72 < m.high <= 0.74


def test_smoke_is_indicative_and_small_holds_on_a_condition(tmp_path: Path) -> None:
    write_claims(tmp_path, [])
    (tmp_path / "sweeps/toy/table.yaml").write_text(SWEEP + SCALES)
    write_runs(tmp_path, "avg", FIVE, scale="smoke")
    assert ask(tmp_path, expected="> 0.1").outcome == "indicative"
    write_runs(tmp_path, "avg", FIVE, scale="small")
    small = ask(tmp_path, expected="> 0.1")
    assert (small.outcome, small.conditions) == ("holds with a condition", "at small scale")
    assert ask(tmp_path, expected="> 0.9").outcome == "indicative", "a small scale refutes no paper"
    write_runs(tmp_path, "avg", FIVE[:4], scale="paper")
    still = ask(tmp_path, expected="> 0.1").measurement
    assert still is not None
    assert (still.scale, still.seeds) == ("small", 5), "five small seeds say more than four full ones"
    write_runs(tmp_path, "avg", FIVE, scale="paper")
    assert ask(tmp_path, expected="> 0.1").outcome == "holds"


def test_a_smaller_scale_may_leave_cells_out(tmp_path: Path) -> None:
    write_claims(tmp_path, [])
    without = SCALES.replace("run.num_rounds: 2", "run.num_rounds: 2, variant: [sgd]")
    (tmp_path / "sweeps/toy/table.yaml").write_text(SWEEP + without)
    write_runs(tmp_path, "sgd", FIVE, scale="smoke")
    assert ask(tmp_path, expected="> 0.1").outcome == "not run"
    write_runs(tmp_path, "avg", FIVE, scale="small")
    assert ask(tmp_path, expected="> 0.1").outcome == "holds with a condition"


def test_four_seeds_are_indicative(tmp_path: Path) -> None:
    write_runs(tmp_path, "avg", FIVE[:4])
    found = ask(tmp_path, expected="> 0.1")
    assert found.outcome == "indicative"
    assert found.row()[2].endswith("4 seeds, paper scale")


def test_only_finished_runs_of_the_very_configuration_count(tmp_path: Path) -> None:
    write_runs(tmp_path, "avg", FIVE, words="method.lr=0.5")
    write_runs(tmp_path, "sgd", FIVE)
    assert ask(tmp_path, expected="> 0").outcome == "not run"
    cell = expand(tmp_path / "sweeps/toy/table.yaml")[0]
    write_run(tmp_path, cell.cfg, [0.5], finished=False)
    with pytest.warns(UserWarning, match="unfinished"):
        assert ask(tmp_path, expected="> 0").outcome == "not run"
    on_gpu = dataclasses.replace(cell.cfg.runtime, accelerator="auto", client_threads=2)
    write_run(tmp_path, dataclasses.replace(cell.cfg, runtime=on_gpu), [0.5])
    with pytest.warns(UserWarning, match="unfinished"):
        assert ask(tmp_path, expected="> 0").outcome == "indicative", "threads and GPUs do not set runs apart"


def test_rounds_and_bytes_to_a_target_on_val_or_test(tmp_path: Path) -> None:
    write_runs(tmp_path, "avg", [[0.5, 0.8, 0.9]] * 5)
    to = {"target": 0.8, "tolerance": 0}
    assert ask(tmp_path, statistic="rounds_to", expected=2, **to).outcome == "holds"
    assert ask(tmp_path, statistic="rounds_to", expected=3, split="test", **to).outcome == "holds"
    assert ask(tmp_path, statistic="bytes_to", expected=20, **to).outcome == "holds"
    assert ask(tmp_path, statistic="total_bytes", expected=30).outcome == "holds"
    assert ask(tmp_path, statistic="best", expected=0.8, tolerance=1e-9).outcome == "holds"


def test_the_round_of_the_lowest_validation_loss(tmp_path: Path) -> None:
    write_runs(tmp_path, "avg", [[0.5, 0.8, 0.7, 0.8]] * 5)
    assert ask(tmp_path, statistic="lowest_val_loss", expected=2).outcome == "holds"
    write_runs(tmp_path, "sgd", [[0.5, 0.6, 0.7, 0.8]] * 5)
    last = ask(tmp_path, statistic="lowest_val_loss", runs={"variant": "sgd"}, expected=4)
    assert last.outcome == "indicative", "still falling when the rounds were used up"
    assert (last.as_dict()["low"], last.as_dict()["high"]) == (4.0, None)


def test_falls_in_the_first_half_of_a_run(tmp_path: Path) -> None:
    write_runs(tmp_path, "avg", [[0.5, 0.4, 0.8, 0.7, 0.9, 0.1]] * 5)
    swing = {"statistic": "early_swing", "tolerance": 1e-9}
    assert ask(tmp_path, **swing, expected=0.1).outcome == "holds"  # 0.5 to 0.4; later falls do not count


def test_a_formula_over_each_run(tmp_path: Path) -> None:
    write_runs(tmp_path, "avg", FIVE)
    write_runs(tmp_path, "sgd", FIVE)
    alone = ask(tmp_path, value="at.val.loss + at.eval.accuracy", expected=0.9, tolerance=1e-9)
    assert alone.outcome == "holds"
    versus = {"than": {"variant": "sgd"}, "value": "at.val.accuracy"}
    assert ask(tmp_path, **versus, expected=0, tolerance=1e-9).outcome == "holds"
    twice = ask(
        tmp_path, **versus, than_value="2 * at.val.accuracy", compare="ratio", expected=0.5, tolerance=1e-9
    )
    assert twice.outcome == "holds"
    with pytest.raises(ConfigError, match=r"claim it: .*no 'f1' here"):
        ask(tmp_path, value="at.eval.f1", expected="> 0")


def test_a_run_that_lacks_the_metric_is_left_out(tmp_path: Path) -> None:
    write_runs(tmp_path, "avg", FIVE)
    rounds = next((tmp_path / "results").glob("*-0")) / "rounds.jsonl"
    rounds.write_text(rounds.read_text().replace("val/loss", "val/older"))
    found = ask(tmp_path, value="at.val.loss", expected="> 0")
    assert found.measurement is not None
    assert (found.measurement.seeds, found.outcome) == (4, "indicative")


def test_a_lowest_loss_before_patience_was_used_up_may_not_be_the_lowest(tmp_path: Path) -> None:
    write_claims(tmp_path, [])
    views = "partition: views, partition.num_clients: 5, method.junction: 1, method.patience: 2"
    (tmp_path / "sweeps/toy/table.yaml").write_text(
        f"base: {{task: digits, run.num_rounds: 4, {views}}}\n"
        "variants: {avg: {method: fpl}}\n"
        "grid: {run.seed: [0, 1, 2, 3, 4]}\n"
    )
    write_runs(tmp_path, "avg", [[0.5, 0.6, 0.8, 0.7]] * 5)
    capped = ask(tmp_path, statistic="lowest_val_loss", expected=3)
    assert (capped.outcome, capped.as_dict()["high"]) == ("indicative", None)
    write_runs(tmp_path, "avg", [[0.5, 0.8, 0.7, 0.7]] * 5)
    assert ask(tmp_path, statistic="lowest_val_loss", expected=2).outcome == "holds"


def test_a_difference_less_another(tmp_path: Path) -> None:
    write_runs(tmp_path, "avg", FIVE)
    write_runs(tmp_path, "sgd", [[x - 0.1 for x in curve] for curve in FIVE])
    avg, sgd = {"variant": "avg"}, {"variant": "sgd"}
    more = ask(tmp_path, runs=avg, than=sgd, less={"runs": sgd, "than": avg}, expected=0.2, tolerance=1e-9)
    assert more.outcome == "holds"
    assert "variant=[avg, sgd]" in more.command


def test_what_a_paper_printed_is_read_from_its_sweep(tmp_path: Path) -> None:
    values = "value: at.eval.metric, by: [variant], values: {avg: 90, sgd: 60}"
    printed = f"printed: [{{quantity: Top, unit: '%', {values}}}]"
    write_claims(tmp_path, [])
    (tmp_path / "sweeps/toy/table.yaml").write_text(SWEEP + printed)
    claim = {"kind": "analytic", "value": "table.Top.avg / table.Top.sgd"}
    (tmp_path / "sweeps/toy/one.yaml").write_text(
        SWEEP + "printed: [{quantity: Top, unit: m, value: at.eval.metric, values: 7}]"
    )
    alone = {"kind": "analytic", "value": "one.Top", "expected": 7}
    assert judge(tmp_path, alone, printed={"one": "one.yaml"}).outcome == "holds"
    found = judge(tmp_path, claim | {"expected": 1.5}, printed={"table": "table.yaml"})
    assert found.outcome == "holds"
    assert found.command.startswith("harness reproduce ")
    assert (
        judge(tmp_path, claim | {"expected": "< 1"}, printed={"table": "table.yaml"}).outcome
        == "contradicted"
    )


@pytest.mark.parametrize(("repeats", "outcome"), [(5, "holds"), (4, "indicative"), (None, "not run")])
def test_a_benchmark_is_read_from_what_it_wrote(tmp_path: Path, repeats: int | None, outcome: str) -> None:
    if repeats:
        (tmp_path / "results" / "bench").mkdir(parents=True)
        told = {"repeats": repeats, "given": [{"exponent": 0.9}, {"exponent": 1.0}]}
        (tmp_path / "results" / "bench" / "planning.json").write_text(json.dumps(told))
    for expected in ("<= 1.1", "<= 0.3 * planning.repeats"):
        claim = {"kind": "measured", "value": "max(planning.given.exponent)", "expected": expected}
        found = judge(tmp_path, claim, bench={"planning": "planning.json"})
        assert found.outcome == outcome
        json.dumps(found.as_dict(), allow_nan=False)


def test_a_target_that_was_not_reached_bounds_from_below(tmp_path: Path) -> None:
    write_runs(tmp_path, "avg", [[0.5, 0.6, 0.7, 0.7]] * 5)
    to = {"statistic": "rounds_to", "target": 0.8}
    assert ask(tmp_path, expected="> 3", **to).outcome == "holds"
    assert ask(tmp_path, expected="< 3", **to).outcome == "contradicted"
    open_end = ask(tmp_path, expected="< 9", **to)
    assert open_end.outcome == "indicative"
    told = open_end.as_dict()
    assert (told["found"], told["low"], told["high"]) == (None, 4.0, None)
    json.dumps(told, allow_nan=False)


def test_two_configurations_are_compared_seed_by_seed(tmp_path: Path) -> None:
    write_runs(tmp_path, "avg", FIVE)
    write_runs(tmp_path, "sgd", [[x - 0.1 for x in curve] for curve in FIVE])
    versus = {"than": {"variant": "sgd"}}
    # Each seed gains exactly .1, so the interval has no width although the seeds differ by .04.
    gain = ask(tmp_path, expected=0.1, tolerance=1e-9, **versus)
    assert gain.outcome == "holds"
    assert gain.measurement is not None
    assert gain.measurement.high - gain.measurement.low < 1e-9
    ratio = ask(tmp_path, expected="> 1.1", compare="ratio", **versus)
    assert ratio.outcome == "holds"
    assert ratio.found == pytest.approx(0.72 / 0.62)


def test_a_ratio_with_an_unreached_target_is_bounded(tmp_path: Path) -> None:
    write_runs(tmp_path, "avg", [[0.5, 0.9, 0.9, 0.9]] * 5)
    write_runs(tmp_path, "sgd", [[0.1, 0.2, 0.3, 0.4]] * 5)
    versus = {"than": {"variant": "sgd"}, "compare": "ratio", "statistic": "rounds_to", "target": 0.9}
    # 2 rounds against more than 4.
    assert ask(tmp_path, expected="<= 0.5", **versus).outcome == "holds"
    assert ask(tmp_path, expected="< 0.3", **versus).outcome == "indicative"
    assert ask(tmp_path, expected="> 0.5", **versus).outcome == "contradicted"


@pytest.mark.parametrize(
    ("paper", "name", "word", "other"),
    [
        ("fdnnc", "cut-of-fc-weights", "method.rank=8", "method.rank=16"),
        ("fpl", "params-images", "task=emnist", "task=mnist"),
    ],
)
def test_the_claims_of_the_papers_move_with_ranks_and_classes(
    paper: str, name: str, word: str, other: str
) -> None:
    (claim,) = [claim for claim in load_claims(paper, folder=SWEEPS) if claim.id == name]
    setups = {
        key: (kind, tuple(other if w == word else w for w in words))
        for key, (kind, words) in claim.setups.items()
    }
    assert setups != claim.setups
    was, now = audit([claim, dataclasses.replace(claim, setups=setups)], results=Path("none"))
    assert was.outcome == "holds"
    assert now.outcome == "contradicted"
    assert now.found != was.found


def test_commands_give_the_figures(tmp_path: Path) -> None:
    tiny = params(tmp_path, "task=digits", "model=logistic", "task.options={}", expected=1)
    assert tiny.command == "harness describe task=digits model=logistic 'task.options={}'"
    write_claims(tmp_path, [])
    (tmp_path / "sweeps/toy/table.yaml").write_text(SWEEP + SCALES)
    sweep = tmp_path / "sweeps/toy/table.yaml"
    versus = {"than": {"variant": "sgd"}}
    told = ask(tmp_path, expected="> 0", **versus)
    assert told.command == f"harness sweep {sweep} --scale paper --set 'variant=[avg, sgd]'"
    words = shlex.split(told.command)
    assert len(expand(Path(words[2]), scale=words[4], words=[words[6]])) == 10
    write_runs(tmp_path, "avg", FIVE, scale="small")
    assert ask(tmp_path, expected="> 0").command.endswith("--scale small --set 'variant=[avg]'")
    assert ask(tmp_path, expected="> 0").as_dict()["command"].startswith("harness sweep")


def test_claims_stand_in_a_page(tmp_path: Path) -> None:
    told = to_html([params(tmp_path, "task=mnist", "model=logistic", expected="7850", source="<b>")])
    assert "1 holds</p>" in told
    assert '<td class="win">holds</td>' in told
    assert "&lt;b&gt;" in told
    assert "harness describe task=mnist model=logistic" in told


# Files and the command


ANALYTIC = {
    "id": "x",
    "source": "s",
    "claim": "c",
    "kind": "analytic",
    "value": "n.models.full.params",
    "expected": 1,
}
MEASURED = {
    "id": "x",
    "source": "s",
    "claim": "c",
    "kind": "measured",
    "sweep": "table.yaml",
    "runs": {"variant": "avg"},
    "statistic": "final",
    "expected": "> 0",
}


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        (ANALYTIC | {"kind": "analytical"}, "kind: must be analytic or measured, got 'analytical'"),
        (ANALYTIC | {"tolerances": 1}, "tolerances: unknown key; did you mean tolerance?"),
        (ANALYTIC | {"source": None}, "source: missing"),
        (ANALYTIC | {"value": "nn.models"}, "nothing is called nn; did you mean n?"),
        (ANALYTIC | {"value": "199210"}, "is typed in"),
        (ANALYTIC | {"value": "n.models.("}, "is not a formula"),
        (ANALYTIC | {"expected": "< "}, "'<' is not a formula"),
        (ANALYTIC | {"tolerance": "wide"}, "tolerance: must be a number"),
        (ANALYTIC | {"expected": "< 2", "tolerance": 1}, "tolerance: means nothing beside <"),
        (MEASURED | {"value": "0.9"}, "value: '0.9' is typed in"),
        (MEASURED | {"value": "att.eval.accuracy"}, "nothing is called att; did you mean at?"),
        (MEASURED | {"value": "at.eval.f1", "statistic": "total_bytes"}, "where statistic is final or best"),
        (MEASURED | {"than_value": "at.eval.f1"}, "than_value: there is no `than`"),
        (MEASURED | {"less": {"runs": {}, "than": {}}}, "less: is taken from a difference"),
        (MEASURED | {"than": {}, "less": {"runs": {}}}, "than: missing"),
        (
            MEASURED
            | {k: {"variant": "sgd"} for k in ("than",)}
            | {"less": {"runs": {"variant": "sgd"}, "than": {"variant": "avg"}}, "compare": "ratio"},
            "compare: less takes differences",
        ),
        (ANALYTIC | {"kind": "measured"}, "asks what stands under bench"),
        (MEASURED | {"sweep": "tables.yaml"}, "tables.yaml: cannot be read"),
        (MEASURED | {"runs": {"variant": "avgg"}}, "variant=avgg: no cell"),
        (MEASURED | {"runs": {"method": "avg"}}, "method: the sweep does not vary it"),
        (MEASURED | {"runs": {}}, "means 2 configurations"),
        (MEASURED | {"runs": 3}, "runs: must hold settings"),
        (MEASURED | {"statistic": "finale"}, "unknown value 'finale'; did you mean final?"),
        (MEASURED | {"statistic": "rounds_to"}, "target: rounds_to needs a target"),
        (MEASURED | {"target": 0.9}, "target: final has no target"),
        (MEASURED | {"target": "high"}, "target: must be a number"),
        (MEASURED | {"split": "train"}, "split: unknown value 'train'"),
        ("x", "kind: must be"),
    ],
)
def test_mistakes_name_file_and_claim(tmp_path: Path, claim: object, told: str) -> None:
    folder = write_claims(tmp_path, [claim], describe={"n": ["task=digits"]})
    with pytest.raises(ConfigError) as caught:
        load_claims("toy", folder=folder)
    name = "x" if isinstance(claim, dict) else "number 1"
    assert str(caught.value).startswith(f"{folder / 'toy' / 'claims.yaml'}, claim {name}: ")
    assert told in str(caught.value)


def test_mistakes_found_while_computing_name_file_and_claim(tmp_path: Path) -> None:
    folder = write_claims(tmp_path, [ANALYTIC], describe={"n": ["task=digitz"]})
    with pytest.raises(
        ConfigError, match=r"claims\.yaml, claim x: describe\.n: task\.name: unknown task 'digitz'"
    ):
        audit(load_claims("toy", folder=folder), results=tmp_path)
    folder = write_claims(
        tmp_path, [ANALYTIC | {"value": "n.models.half.params"}], describe={"n": ["task=digits"]}
    )
    with pytest.raises(ConfigError, match=r"claims\.yaml, claim x: no 'half'"):
        audit(load_claims("toy", folder=folder), results=tmp_path)


def test_two_claims_of_one_id_and_unknown_papers(tmp_path: Path) -> None:
    folder = write_claims(tmp_path, [ANALYTIC, ANALYTIC], describe={"n": ["task=digits"]})
    with pytest.raises(ConfigError, match="claim x: id: another claim has it"):
        load_claims("toy", folder=folder)
    with pytest.raises(ConfigError, match="no claims of 'toys'; did you mean toy"):
        load_claims("toys", folder=folder)
    with pytest.raises(ConfigError, match=r"holds no <paper>/claims\.yaml"):
        load_claims(folder=tmp_path / "empty")


def test_the_command_prints_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = ANALYTIC | {"expected": 650}
    write_claims(tmp_path, [claim], describe={"n": ["task=digits", "model=logistic", "task.image_size=8"]})
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["claims", "--paper", "toy", "--json"])
    assert done.exit_code == 0
    (told,) = json.loads(done.output)
    assert (told["id"], told["found"], told["verdict"]) == ("x", 650, "holds")
    shown = CliRunner().invoke(app, ["claims"])
    assert "holds" in shown.output


numbers = st.floats(-100, 100)


@given(
    st.sampled_from(["<", "<=", ">", ">=", "="]), numbers, numbers, numbers, st.floats(0, 10), st.floats(0, 1)
)
def test_decisions_agree_with_every_value_of_the_interval(
    relation: str, first: float, second: float, bound: float, slack: float, share: float
) -> None:
    low, high = sorted((first, second))
    value = min(max(low + share * (high - low), low), high)
    right = {
        "<": value < bound,
        "<=": value <= bound,
        ">": value > bound,
        ">=": value >= bound,
        "=": bound - slack <= value <= bound + slack,
    }[relation]
    decided = decide(relation, low=low, high=high, bound=bound, slack=slack)
    assert decided is None or decided == right
    # A single value is always decided.
    assert decide(relation, low=value, high=value, bound=bound, slack=slack) == right


def test_nothing_is_decided_about_an_unbounded_interval() -> None:
    for relation in ("<", "<=", ">", ">=", "="):
        assert decide(relation, low=-math.inf, high=math.inf, bound=0.0, slack=1.0) is None
