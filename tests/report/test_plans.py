"""Plans read back from a ledger."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.config import FleetConfig
from harness.report import frames, html, plans, tables
from harness.scheduling.fleet import build_fleet


def ledger(*rows: tuple[int, int, str]) -> pd.DataFrame:
    """(round, client, submodel): 4 s of computing 8 FLOPs, a byte down and two bytes up in 3 s."""
    frame = pd.DataFrame(rows, columns=["round", "client", "submodel"])
    return frame.assign(
        phase="train", flops=8, rx_bytes=1, tx_bytes=2, compute_s=4.0, link_s=3.0, endpoint="fit"
    )


def test_who_got_what_when() -> None:
    table, names = plans.assignments(ledger((0, 0, "T"), (0, 1, "L"), (1, 1, "L"), (2, 0, "L"), (2, 4, "T")))
    assert names == ["L", "T"]
    # Ordered by first submodel: client 1, then 0 and 4.
    assert table.tolist() == [[0, 0, -1], [1, -1, 0], [-1, -1, 1]]
    many, _ = plans.assignments(ledger(*((0, client, "L") for client in range(1000))))
    assert many.shape == (plans.MOST_CLIENTS, 1)


def test_only_training_counts() -> None:
    lines = pd.concat(
        [
            ledger((0, 0, "L"), (0, 1, "")),
            ledger((0, 2, "L")).assign(phase="eval"),
            ledger((0, -1, "L")),
            ledger((0, 3, "L")).assign(flops=0),
        ]
    )
    assert plans.trained(lines)["client"].tolist() == [0]


def test_clocks_and_rates_are_read_back() -> None:
    """Unit devices: a FLOP a cycle; the byte down takes 1 of the 3 seconds, two bytes go up in 2."""
    fleet = build_fleet(FleetConfig({"unit": 1.0}), num_clients=2, seed=0)
    found = plans.operating_points(ledger((1, 1, "L"), (0, 1, "T"), (0, 0, "L")), fleet)
    assert found["submodel"].tolist() == ["L", "T"]
    assert found["ghz"].tolist() == [2e-9, 2e-9]
    assert found["mbps"].tolist() == pytest.approx([8e-6, 8e-6])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of two rounds and a FedAvg run beside it."""
    from harness import loading
    from harness.run.driver import execute
    from harness.run.method import method_config
    from harness.run.runtime import LocalRuntime

    found = tmp_path_factory.mktemp("runs")
    base = [
        *("task=synthetic", "task.options={num_train: 60, num_test: 20, image_size: 8}", "model=cnn"),
        *("partition.num_clients=4", "run.num_rounds=2", "runtime.transport=local"),
        *("fleet.profiles={mfl_node: 1}", "fleet.link.model=shannon", f"run.results_dir={found}"),
    ]
    mix = ["method=mfl", "scheduler=fixed_mix", "scheduler.mix={L: 2, T: 2}", "scheduler.power_budget_w=0.01"]
    for words in (mix, ["method=fedavg"]):
        execute(loading.load([*base, *words], method_config=method_config), runtime=LocalRuntime())
    return found


def test_a_page_shows_the_plans_of_mixed_runs_alone(folder: Path) -> None:
    results = frames.load(folder, ledger=False)
    runs = results.runs.assign(variant=tables.label_variants(results.runs))
    assert [run_id.split("-")[0] for run_id in plans.mixed_runs(results)] == ["mfl"]
    pictures = plans.plan_pictures(results, runs, key="t0")
    assert [p.title for p in pictures] == [
        "Submodels over rounds: mfl, seed 0",
        "Clock and rate of each client: mfl, seed 0",
    ]
    assert "L 50%, T 50%" in pictures[0].caption
    page = html.page(results, tables.comparison(results))
    assert all(p.title in page for p in pictures)


def test_what_is_drawn_is_what_was_planned(folder: Path) -> None:
    """Clocks read back from the ledger are those of the scheduler's plan."""
    run = next(p for p in folder.iterdir() if p.name.startswith("mfl"))
    fleet = plans.fleet_of(run / "config.yaml")
    assert fleet is not None
    found = plans.operating_points(plans.trained(frames.read_ledger(run)), fleet)
    assert len(found) == 4
    assert (found["ghz"] <= 1.0000001 * np.asarray(fleet.devices.max_frequency_hz) / 1e9).all()
    assert (found["mbps"] <= 1.0000001 * np.asarray(fleet.devices.tx_bps) / 1e6).all()
    assert plans.fleet_of(run / "none.yaml") is None
