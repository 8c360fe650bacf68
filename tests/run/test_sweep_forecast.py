"""Forecasts against what runs are charged."""

from pathlib import Path

import pytest

from harness.run.driver import execute
from harness.run.runtime import LocalRuntime
from harness.run.store import run_folder
from harness.run.sweep import Cell, expand
from harness.run.sweep_forecast import COLUMNS, forecast, rows_of

# 100 examples less a tenth for val: 30 for each of three clients, so the mean share is everyone's share.
TEXT = """
base:
  task: {name: synthetic, model: mlp, options: {num_train: 100, num_test: 20, image_size: 8}}
  partition: {name: iid, num_clients: 3}
  fleet: {profiles: {phone: 0.5, laptop: 0.5}}
  run: {num_rounds: 2}
  runtime: {transport: local}
  method: {name: METHOD, batch_size: 7, local_epochs: 2}
grid: {run.seed: [0, 1]}
"""


def cells_of(tmp_path: Path, method: str = "fedavg") -> list[Cell]:
    path = tmp_path / "s.yaml"
    path.write_text(TEXT.replace("METHOD", method))
    return expand(path, words=[f"run.results_dir={tmp_path / 'results'}"])


@pytest.mark.parametrize("method", ["fedavg", "centralized", "local_only"])
def test_the_plan_of_equal_shares_is_what_is_charged(tmp_path: Path, method: str) -> None:
    cell = cells_of(tmp_path, method)[0]
    (found,) = forecast([cell])
    totals = execute(cell.cfg, runtime=LocalRuntime())["totals"]
    assert found.source == "plan"
    assert found.client_flops == totals["client_flops"]
    assert found.server_flops == totals["server_flops"]
    assert found.num_bytes == totals["tx_bytes"] + totals["rx_bytes"]
    assert found.client_j == pytest.approx(totals["client_j"], rel=1e-9)
    assert found.memory_bytes > 0
    assert found.wall_s is not None
    assert found.wall_s > 0


def test_files_of_another_seed_and_of_a_started_run_tell_more(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    totals = execute(cells[0].cfg, runtime=LocalRuntime())["totals"]
    folder = run_folder(cells[0].cfg)
    first, second = forecast(cells)
    assert first == second
    assert (first.source, first.client_flops) == ("files", totals["client_flops"])
    for name in ("rounds.jsonl", "timings.jsonl"):  # as if it was cut after round 0: half of two rounds
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text(lines[0])
    assert forecast(cells)[1].client_flops == totals["client_flops"]


def test_rows_end_in_the_sum(tmp_path: Path) -> None:
    cells = cells_of(tmp_path)
    found = forecast(cells)
    rows = rows_of(cells, found)
    assert {len(row) for row in rows} == {len(COLUMNS)}
    assert [row[1] for row in rows] == ["seed=0", "seed=1", "one after another"]
    assert found[0].client_flops > 0
    searched = rows_of(cells, found, num_trials=10)[-1]
    assert searched[1] == "10 trials at these values, none stopped early"
    assert searched[2] != rows[-1][2]
