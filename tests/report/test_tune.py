"""Choosing on val, and the sweep that is written: it runs the chosen values on seeds that no trial had."""

import json
from pathlib import Path

import pytest
import yaml

from harness.config import as_dict
from harness.report import load
from harness.report.compare import Budget
from harness.report.tune import best, to_yaml, trials, tuned_sweep
from harness.run.sweep import Cell, expand
from harness.types import ConfigError

SWEEP = """
name: t
base: {task: digits, run.num_rounds: 2}
variants: {avg: {method: fedavg}, sgd: {method: fedsgd}}
grid: {method.lr: [0.1, 0.2], run.seed: [100, 101]}
scales: {smoke: {run.seed: [100], method.lr: [0.2, 0.3]}}
"""
BUDGET = Budget("joules", 10)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tune.yaml"
    path.write_text(SWEEP)
    return path


def write_run(folder: Path, cell: Cell, *, val: float, test: float) -> None:
    """Two rounds of 6 J: the first has these values, the second is perfect, and beyond the budget."""
    run = folder / cell.cfg.run_id
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(as_dict(cell.cfg)))
    lines = [
        {"round": i, "val/accuracy": v, "eval/accuracy": t, "cost/compute_j_total": 6.0 * (i + 1)}
        for i, (v, t) in enumerate([(val, test), (1.0, 1.0)])
    ]
    (run / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = {"metrics": lines[-1], "best": lines[-1], "totals": {}, "timings": {}, "rounds": 2}
    (run / "summary.json").write_text(json.dumps(told))


def test_the_best_mean_on_val_within_the_budget_wins(file: Path, tmp_path: Path) -> None:
    cells = expand(file)
    vals = {("avg", 0.1): 0.5, ("avg", 0.2): 0.6, ("sgd", 0.1): 0.4, ("sgd", 0.2): 0.4}
    for cell in cells:
        variant, lr, seed = (cell.settings[key] for key in ("variant", "method.lr", "run.seed"))
        # Test points the other way, and one lucky seed at 0.1 does not outweigh the mean.
        val = vals[str(variant), float(str(lr))] + (
            0.15 if (lr, seed) == (0.1, 100) and variant == "avg" else 0
        )
        write_run(tmp_path / "runs", cell, val=val, test=1 - val)
    tried = trials(cells, load(tmp_path / "runs", ledger=False), BUDGET)
    assert [(t.variant, dict(t.values), t.seeds) for t in tried][:2] == [
        ("avg", {"method.lr": 0.1}, 2),
        ("avg", {"method.lr": 0.2}, 2),
    ]
    assert [t.val for t in tried] == pytest.approx([0.575, 0.6, 0.4, 0.4])
    assert {name: t.values["method.lr"] for name, t in best(tried).items()} == {"avg": 0.2, "sgd": 0.1}


def test_a_trial_that_is_missing_or_beyond_the_budget_is_told(file: Path, tmp_path: Path) -> None:
    cells = expand(file)
    write_run(tmp_path / "runs", cells[0], val=0.5, test=0.5)
    with pytest.raises(ConfigError, match="has not finished"):
        trials(cells, load(tmp_path / "runs", ledger=False), BUDGET)
    tried = trials(cells[:1], load(tmp_path / "runs", ledger=False), Budget("joules", 5))
    with pytest.raises(ConfigError, match="avg: no evaluation within the budget"):
        best(tried)


def test_what_is_written_is_a_sweep_on_other_seeds(file: Path, tmp_path: Path) -> None:
    from harness.report.tune import Trial

    out = tmp_path / "tuned.yaml"

    def choose(avg: float, sgd: float, scale: str | None) -> dict[tuple[str, int], float]:
        chosen = {
            "avg": Trial("avg", {"method.lr": avg}, 0.5, 2),
            "sgd": Trial("sgd", {"method.lr": sgd}, 0.5, 2),
        }
        sections = tuned_sweep(file, chosen, scale=scale, before=out, seeds=range(5))
        out.write_text(to_yaml(sections, file=file, budget=BUDGET, scale=scale))
        return rates(scale)

    def rates(scale: str | None) -> dict[tuple[str, int], float]:
        return {
            (str(c.settings["variant"]), c.cfg.run.seed): c.cfg.method.lr for c in expand(out, scale=scale)
        }

    assert choose(0.2, 0.1, None) == {("avg", i): 0.2 for i in range(5)} | {("sgd", i): 0.1 for i in range(5)}
    assert choose(0.3, 0.2, "smoke") == {("avg", 0): 0.3, ("sgd", 0): 0.2}
    assert rates(None)["avg", 4] == 0.2, "what was chosen as it stands is kept"
    assert out.read_text().startswith("# Written by `harness tune")
    with pytest.raises(ConfigError, match="to be tuned on"):
        tuned_sweep(file, {}, scale=None, before=out, seeds=range(101))
