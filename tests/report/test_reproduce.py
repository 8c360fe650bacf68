"""A paper's table beside ours: seeds, deviations and data, by hand."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from harness.cli import app
from harness.config import Config, as_dict
from harness.report import load
from harness.report.printed import read_printed
from harness.report.reproduce import Reproduction, Row, reproduce, to_csv, to_html, to_markdown
from harness.run.sweep import expand
from harness.types import ConfigError

SWEEP = """
name: toy
description: A toy.
base: {task: digits, run.num_rounds: 2, runtime.transport: local}
variants: {avg: {method: fedavg}, sgd: {method: fedsgd}}
grid: {partition.num_clients: [4, 8], run.seed: [0, 1]}
scales:
  smoke: {task.name: synthetic, partition.num_clients: [4], run.seed: [0]}
  small: {task.limit_train: 500, partition.num_clients: [4]}
  paper: {}
"""
PRINTED = """
printed:
  - quantity: Accuracy
    source: Table 9
    unit: "%"
    value: 100 * at.eval.accuracy
    by: [variant, partition.num_clients]
    values: {avg: {4: 70.5, 8: 60}, sgd: {4: diverges}}
    note: of a damaged copy
  - {quantity: Rounds to .8, unit: rounds, value: to.rounds, target: 0.8, by: [variant], values: {avg: 4}}
  - {quantity: Traffic, unit: B, value: total.bytes}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweeps" / "toy" / "table9.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(SWEEP + PRINTED)
    return path


def write_run(folder: Path, cfg: Config, val: Sequence[float]) -> None:
    """Test accuracy is val - 0.1; a round sends 10 B, and takes 2 J and 3 s."""
    run = folder / cfg.run_id
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(as_dict(cfg)))
    totals = {"cost/tx_bytes_total": 10, "cost/client_flops_total": 5, "cost/compute_j_total": 2.0}
    totals |= {"time/sim_s_total": 3.0}
    lines = [
        {"round": i, "val/accuracy": x, "eval/accuracy": x - 0.1}
        | {key: value * (i + 1) for key, value in totals.items()}
        for i, x in enumerate(val)
    ]
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = max(lines, key=lambda line: line["val/accuracy"])
    told = {"metrics": lines[-1], "best": best, "totals": {}, "timings": {}, "rounds": len(lines)}
    (run / "summary.json").write_text(json.dumps(told))


def made(file: Path, scale: str, curves: Sequence[Sequence[float]]) -> Reproduction:
    """The sweep at a scale, where the first cells have these curves of val."""
    cells = expand(file, scale=scale)
    folder = file.parents[2] / "runs"
    for cell, curve in zip(cells, curves, strict=False):
        write_run(folder, cell.cfg, curve)
    return reproduce(file, cells, load(folder, ledger=False), scale=scale)


def rows(found: Reproduction, table: int = 0) -> dict[str, Row]:
    return {row.label: row for row in found.tables[table].rows}


def test_means_deviations_and_seeds(file: Path) -> None:
    found = made(file, "paper", [[0.9, 0.8], [0.7, 0.8], [0.7, 0.6]])
    avg = rows(found)["avg, num_clients 4"]
    assert avg.last == (pytest.approx(70), pytest.approx(0))
    assert avg.best == (pytest.approx(75), pytest.approx(math.sqrt(50)))
    assert avg.deviation == pytest.approx(75 - 70.5)
    assert (avg.seeds, avg.planned, avg.rounds) == (2, 2, 2)
    half = rows(found)["avg, num_clients 8"]
    assert (half.seeds, half.planned) == (1, 2)
    assert half.deviation == pytest.approx(0)
    none = rows(found)["sgd, num_clients 4"]
    assert (none.paper, none.seeds) == ("diverges", 0)
    assert math.isnan(none.deviation)
    assert "sgd, num_clients 8" in rows(found), "a cell without a printed number shows ours alone"


def test_a_target_is_read_where_it_was_reached(file: Path) -> None:
    found = made(file, "paper", [[0.9, 0.8], [0.7, 0.8], [0.7, 0.6]])
    # After one round and after two: mean 1.5 against the paper's 4.
    assert rows(found, 1)["avg, num_clients 4"].last[0] == pytest.approx(1.5)
    assert rows(found, 1)["avg, num_clients 4"].deviation == pytest.approx(-62.5)
    assert rows(found, 1)["avg, num_clients 8"].seeds == 0
    assert rows(found, 2)["avg, num_clients 4"].last[0] == 20


def test_other_data_have_no_deviation_and_printed_cells_stay(file: Path) -> None:
    found = made(file, "smoke", [[0.5, 0.6]])
    avg = rows(found)["avg, num_clients 4"]
    assert (avg.data, avg.paper, avg.last[0]) == ("synthetic", 70.5, pytest.approx(50))
    assert math.isnan(avg.deviation)
    left_out = rows(found)["avg, num_clients 8"]
    assert (left_out.planned, left_out.paper, left_out.data) == (0, 60, "")
    told = to_markdown(found)
    assert "| avg, num_clients 8 | — | 60.00 | not at this scale |" in told
    assert "No deviation is told where this scale has other data" in told
    assert "Scale smoke shows that everything runs" in told
    assert found.changes["task.name"] == ("synthetic", "digits")


def test_a_smaller_scale_says_what_it_changes(file: Path) -> None:
    found = made(file, "small", [[0.5, 0.6]])
    assert found.changes == {"task.limit_train": ("500", "None"), "partition.num_clients": ("4", "4, 8")}
    assert rows(found)["avg, num_clients 4"].deviation == pytest.approx(50 - 70.5)
    told = to_markdown(found)
    for part in (
        "# toy/table9 at scale small",
        "Accuracy, % (Table 9)",
        "-20.50",
        "1 of 2",
        "5 seeds",
        "damaged",
    ):
        assert part in told
    lines = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert lines[0]["quantity"] == "Accuracy"
    assert float(lines[0]["deviation"]) == pytest.approx(-20.5)
    assert lines[0]["scale"] == "small"
    assert '<th scope="row">avg, num_clients 4</th>' in to_html(found)


def test_where_nothing_is_printed_ours_stand_alone(file: Path) -> None:
    file.write_text(SWEEP)
    found = made(file, "paper", [[0.5, 0.6]])
    assert [table.quantity.name for table in found.tables][:2] == ["Test accuracy", "Traffic"]
    assert rows(found)["avg, num_clients 4"].best[0] == pytest.approx(50)
    head, _ = found.tables[0].text()
    assert "Paper" not in head


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("values: {avg: {5: 1}}", "avg, 5 is no cell of the sweep"),
        ("values: {avg: 1}", "must nest as deep as `by`"),
        ("values: {avg: {4: [1]}}", "must end in numbers or texts"),
        ("value: 100 * att.eval.accuracy", "unknown name 'att'; did you mean at?"),
        ("value: to.rounds", "target: a number where the value speaks of `to`"),
        ("by: [variants]", "does not vary 'variants'; did you mean variant?"),
        ("units: B", "unknown key 'units'; did you mean unit?"),
        ("split: train", "split: must be val or test"),
    ],
)
def test_mistakes_name_file_and_entry(file: Path, wrong: str, told: str) -> None:
    entry = {
        "quantity": "A",
        "unit": "%",
        "value": "100 * at.eval.accuracy",
        "by": ["variant", "partition.num_clients"],
    }
    entry |= yaml.safe_load(wrong)
    file.write_text(SWEEP + yaml.safe_dump({"printed": [entry]}))
    with pytest.raises(ConfigError) as caught:
        read_printed(file, full=expand(file, scale="paper"))
    assert str(caught.value).startswith(f"{file}: printed[0]")
    assert told in str(caught.value)


def test_a_formula_for_what_no_run_has_is_told(file: Path) -> None:
    file.write_text(SWEEP + PRINTED.replace("at.eval.accuracy", "at.eval.accurcy"))
    with pytest.raises(ConfigError, match="no 'accurcy' here; did you mean accuracy"):
        made(file, "paper", [[0.5, 0.6]])


def test_the_command_runs_and_writes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parents[2])
    tiny = ["task.options={num_train: 60, num_test: 20}", "model=logistic", "log.console=false"]
    words = [part for word in tiny for part in ("--set", word)]
    done = CliRunner().invoke(app, ["reproduce", str(file.relative_to(file.parents[2])), *words])
    assert done.exit_code == 0, done.output
    out = Path("results/reports/toy/table9-smoke")
    assert {path.name for path in out.iterdir()} == {"reproduction.md", "reproduction.csv", "report.html"}
    assert "70.50" in (out / "reproduction.md").read_text()
    assert "numbers and ours, scale smoke</h2>" in (out / "report.html").read_text()
