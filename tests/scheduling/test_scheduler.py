"""The scheduler between rounds: seeds, batteries, state."""

from pathlib import Path

import numpy as np
import pytest
from local_run import Play, make_config

from harness.cost.devices import find_profile
from harness.cost.submodel import SubmodelProfile
from harness.run import checkpoint
from harness.scheduling.scheduler import Scheduler
from harness.types import ConfigError, SubmodelId

FULL = SubmodelId("full")
SUBMODELS = {FULL: SubmodelProfile(FULL, 1, 1, 1, 1, 1)}
PHONE_J = find_profile("phone", key="test").device.battery_j


def scheduler(*words: str) -> Scheduler:
    return Scheduler(make_config(["partition.num_clients=20", "scheduler.cohort_size=5", *words]))


def test_a_plan_depends_on_seed_and_round_and_not_on_calls_before() -> None:
    fresh = scheduler().plan(3, SUBMODELS).clients.tolist()
    used = scheduler()
    plans = [used.plan(round, SUBMODELS).clients.tolist() for round in range(4)]
    assert plans[3] == fresh
    assert len({tuple(p) for p in plans}) == 4
    assert scheduler("run.seed=1").plan(3, SUBMODELS).clients.tolist() != fresh


def test_rounds_draw_on_batteries_and_mains_stay_full() -> None:
    s = scheduler("fleet.profiles={phone: 1}")
    s.observe(np.array([2, 7]), np.array([10.0, 0.5]))
    s.observe(np.array([2]), np.array([1.0]))
    spent = PHONE_J - s.battery_j
    assert spent[2] == pytest.approx(11.0)
    assert spent[7] == pytest.approx(0.5)
    assert np.count_nonzero(spent) == 2
    mains = scheduler("fleet.profiles={raspberry_pi_4: 1}")
    mains.observe(np.array([2]), np.array([1e9]))
    assert np.isinf(mains.battery_j).all()


def test_state_round_trips_through_a_checkpoint() -> None:
    s, other = scheduler("fleet.profiles={phone: 1}"), scheduler("fleet.profiles={phone: 1}")
    s.observe(np.array([1]), np.array([5.0]))
    other.load_state_dict(checkpoint.load_bytes(checkpoint.dump(s.state_dict())))
    assert np.array_equal(s.battery_j, other.battery_j)
    s.observe(np.array([1]), np.array([5.0]))
    assert not np.array_equal(s.battery_j, other.battery_j)


def test_a_snapshot_does_not_follow_what_comes_after() -> None:
    s = scheduler("fleet.profiles={phone: 1}")
    before = s.state_dict()
    s.observe(np.array([1]), np.array([5.0]))
    s.load_state_dict(before)
    assert s.battery_j[1] == PHONE_J
    s.observe(np.array([1]), np.array([5.0]))
    assert float(before["battery_j"][1]) == PHONE_J


def test_a_typo_is_found_when_the_scheduler_is_built() -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.policy"):
        scheduler("scheduler.policy=unifrom")
    with pytest.raises(ConfigError, match=r"fleet\.profiles"):
        scheduler("fleet.profiles={fone: 1}")


# --- availability


def test_clients_come_and_go_with_the_simulated_clock(tmp_path: Path) -> None:
    table = tmp_path / "fleet.csv"
    table.write_text("available\n0-10\n5-20\n0-inf\n40-50\n")
    words = ["partition.num_clients=4", "scheduler.cohort_size=null", f"fleet.table={table}"]
    s = scheduler(*words)
    seen = []
    for round in range(5):
        plan = s.plan(round, SUBMODELS)
        seen.append((plan.clients.tolist(), plan.skipped))
        s.observe(plan.clients, np.zeros(len(plan)), seconds=6.0)
    assert [clients for clients, _ in seen] == [[0, 2], [0, 1, 2], [1, 2], [1, 2], [2]]
    assert seen[0][1] == {"unavailable": 2}
    other = scheduler(*words)
    other.load_state_dict(checkpoint.load_bytes(checkpoint.dump(s.state_dict())))
    assert other.now == s.now == 30.0


def test_a_federation_that_sleeps_is_waited_for(tmp_path: Path, play: Play) -> None:
    table = tmp_path / "fleet.csv"
    table.write_text("available\n100-1000\n300-1000\n")
    played = play(f"fleet.table={table}", "partition.num_clients=2", "run.num_rounds=3")
    first, second, third = played.records
    assert first["time/sim_s"] < 1
    assert first["time/sim_s_total"] == 100.0 + first["time/sim_s"]
    assert third["time/sim_s_total"] - second["time/sim_s_total"] == pytest.approx(third["time/sim_s"])
    assert {r["scheduler/skipped/unavailable"] for r in played.records} == {1}
    rest = play(
        f"fleet.table={table}",
        *("partition.num_clients=2", "run.num_rounds=3"),
        restored=played.commits[0].checkpoint,
        first=1,
    )
    assert rest.records == played.records[1:]


def test_nobody_ever_again_is_an_error(tmp_path: Path, play: Play) -> None:
    table = tmp_path / "fleet.csv"
    table.write_text("available\n" + "0-0.001\n" * 4)
    with pytest.raises(ConfigError, match=r"fleet\.table: no client is available after"):
        play(f"fleet.table={table}")
