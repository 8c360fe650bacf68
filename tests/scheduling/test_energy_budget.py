"""MFL's policies: budgets and limits on random fleets, pairing, the gap to brute force, what is refused."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import FleetConfig, LinkConfig, SchedulerConfig
from harness.cost.submodel import SubmodelProfile
from harness.scheduling.energy_budget import search
from harness.scheduling.fleet import build_fleet
from harness.scheduling.plan import RoundPlan
from harness.scheduling.policies import POLICIES
from harness.scheduling.problem import Problem, agi
from harness.scheduling.resources import shortest
from harness.scheduling.states import DeviceStates
from harness.types import ConfigError, SubmodelId

NODES = {"mfl_node": 1.0}
CHANNELS = ((16, 32, 32, 10), (16, 16, 32, 10), (16, 16, 16, 10), (8, 16, 16, 10))
FLOPS = (33_812_352, 17_555_328, 14_422_464, 8_777_664)
PARAMS = (16_938, 10_010, 6_250, 5_018)
LARGEST_GAP = 0.03
"""Utility that pairing in sorted order may lose to the best assignment of the same kinds of mixes."""


def kinds() -> dict[SubmodelId, SubmodelProfile]:
    """The submodels of MFL's CNN on MNIST."""
    return {
        SubmodelId(name): SubmodelProfile(
            name=SubmodelId(name),
            params=params,
            macs_forward=flops // 6,
            flops_train=flops,
            num_bytes=4 * params,
            activation_bytes=1,
            train_bytes=8 * params,
            capacity=tuple(9 * c for c in channels),
            num_instances=q,
        )
        for name, channels, flops, params, q in zip(
            "LMST", CHANNELS, FLOPS, PARAMS, (1, 2, 4, 8), strict=True
        )
    }


def states(
    k: int, *, seed: int = 0, examples: object = 937, fleet: FleetConfig | None = None
) -> DeviceStates:
    cfg = fleet or FleetConfig(NODES, clock_hz=[1.5e9, 2.5e9], link=LinkConfig(model="shannon"))
    held = np.broadcast_to(np.asarray(examples, np.int64), (k,)).copy()
    return DeviceStates(
        build_fleet(cfg, num_clients=k, seed=seed), np.full(k, np.inf), num_examples=held, examples_seen=held
    )


def plan(name: str, given: DeviceStates, *, seed: int = 0, **keys: object) -> RoundPlan:
    cfg = SchedulerConfig(policy=name, **keys)  # type: ignore[arg-type]
    return POLICIES[name](0, given, kinds(), cfg, np.random.default_rng(seed))


def told(found: RoundPlan, given: DeviceStates) -> tuple[Problem, np.ndarray, float]:
    problem = Problem(given, kinds(), found.clients)
    _, joules, seconds = problem.predict(found.submodel_index, found.points)
    return problem, joules, seconds


# --- the paper's figures


@pytest.mark.parametrize(
    ("power_w", "mix", "ratio"), [(10.0, (16, 16, 16, 16), 0.677), (100.0, (32, 16, 8, 8), 0.818)]
)
def test_equal_power_needs_less_time_and_energy_where_clocks_do_not_bind(
    power_w: float, mix: tuple[int, ...], ratio: float
) -> None:
    """(sum_j W_j^3 / 64 W_L^3)^(1/3); the solver, links included, within 1 % of it."""
    given = states(64, fleet=FleetConfig(NODES, clock_hz=[1e11, 1e11], link=LinkConfig(model="shannon")))
    found = []
    for counts in (mix, (64, 0, 0, 0)):
        chosen = dict(zip("LMST", map(float, counts), strict=True))
        _, joules, seconds = told(plan("fixed_mix", given, mix=chosen, power_budget_w=power_w), given)
        assert joules.sum() / seconds == pytest.approx(power_w, rel=1e-6)
        found.append((seconds, joules.sum()))
    assert found[0][0] / found[1][0] == pytest.approx(ratio, rel=0.01)
    assert found[0][1] / found[1][1] == pytest.approx(ratio, rel=0.01)


def test_all_at_full_speed_draw_about_54_w() -> None:
    given = states(64)
    _, joules, seconds = told(plan("uniform", given), given)
    full = 1e-28 * np.asarray(given.fleet.devices.max_frequency_hz) ** 3
    assert full.sum() == pytest.approx(54, rel=0.12)  # 64 clocks, uniform between 1.5 and 2.5 GHz
    assert joules.sum() / seconds < 100


def test_identical_clients_all_get_one_type() -> None:
    given = states(
        64,
        fleet=FleetConfig(
            NODES,
            clock_hz=[1e11, 1e11],
            link=LinkConfig(model="shannon", min_distance_m=100.0, max_distance_m=100.0),
        ),
    )
    assert max(plan("energy_budget", given, power_budget_w=10.0).shares().values()) == 1.0


def test_the_information_form_degenerates_to_the_smallest() -> None:
    """L has 1.11 of T's AGI at 3.85 times its work."""
    given = states(64)
    found = plan("energy_budget", given, power_budget_w=10.0, agi="information")
    assert found.shares()["T"] == 1.0
    problem = Problem(given, kinds(), np.arange(64))
    information = agi(problem, SchedulerConfig(agi="information"))[:, 0]
    assert information[0] / information[3] == pytest.approx(1.11, abs=0.005)
    assert problem.flops[0] / problem.flops[3] == pytest.approx(3.85, abs=0.005)
    weighted = agi(problem, SchedulerConfig(agi="information", agi_offset=1.0, agi_slopes=[0, 0, 0, 2.0]))
    assert weighted[:, 0] == pytest.approx((1 + 2 * np.log(90)) * np.log(938))


def test_the_power_form_by_hand() -> None:
    problem = Problem(states(2, examples=[1, 3]), kinds(), np.arange(2))
    found = agi(problem, SchedulerConfig(agi_scale=2.0, agi_exponent=0.5))
    product = (9 * 16) * (9 * 32) * (9 * 32) * (9 * 10)
    assert found[0] == pytest.approx([2 * product**0.5 * np.log(2), 2 * product**0.5 * np.log(4)])


# --- pairing


def test_the_fastest_clients_get_the_largest_submodels() -> None:
    given = states(8)
    found = plan("fixed_mix", given, mix={"L": 2, "M": 2, "S": 2, "T": 2}, power_budget_w=5.0)
    order = Problem(given, kinds(), np.arange(8)).order()
    assert found.submodel_index[order].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    twins = states(
        8, fleet=FleetConfig(NODES, link=LinkConfig(model="shannon", min_distance_m=9.0, max_distance_m=9.0))
    )
    assert plan("fixed_mix", twins, mix={"L": 0.5, "T": 0.5}).submodel_index.tolist() == [0] * 4 + [3] * 4


def test_random_assignment_keeps_the_mix_and_forgets_the_clocks() -> None:
    given = states(64)
    mix = {"L": 32.0, "M": 16.0, "S": 8.0, "T": 8.0}
    found = [plan("random_mix", given, mix=mix, seed=seed, power_budget_w=5.0) for seed in (0, 0, 1)]
    assert [np.bincount(p.submodel_index).tolist() for p in found] == [[32, 16, 8, 8]] * 3
    assert np.array_equal(found[0].submodel_index, found[1].submodel_index)
    assert not np.array_equal(found[0].submodel_index, found[2].submodel_index)
    paired = plan("fixed_mix", given, mix=mix, power_budget_w=5.0)
    assert not np.array_equal(found[0].submodel_index, paired.submodel_index)
    even = plan("random_mix", given)
    assert set(even.shares().values()) == {0.25}


def test_failures_and_cohorts_are_those_of_every_policy() -> None:
    given = states(64)
    keys = {"cohort_size": 20, "failure_probability": 0.3}
    one, two = plan("uniform", given, **keys), plan("fixed_mix", given, mix={"L": 1.0}, **keys)
    assert one.clients.tolist() == two.clients.tolist()
    assert one.fails.tolist() == two.fails.tolist()


# --- against all assignments


def gap_to_brute_force(k: int, seed: int, power_w: float) -> float:
    """What the heuristic loses to the best assignment whose mix is in whole sets, in parts of its utility."""
    rng = np.random.default_rng(seed)
    given = states(k, seed=seed, examples=rng.integers(200, 1500, k))
    problem = Problem(given, kinds(), np.arange(k))
    cfg = SchedulerConfig(power_budget_w=power_w)
    every = np.array(list(itertools.product(range(4), repeat=k)))
    counts = (every[:, :, None] == np.arange(1, 4)).sum(axis=1)
    every = every[(counts % np.array([2, 4, 8]) == 0).all(axis=1)]
    worth = agi(problem, cfg)[every, np.arange(k)].sum(axis=1)
    best = float((worth / shortest(problem.demand(every), power_w=power_w)).max())
    found = plan("energy_budget", given, power_budget_w=power_w)
    _, _, seconds = told(found, given)
    mine = float(agi(problem, cfg)[found.submodel_index, np.arange(k)].sum() / seconds)
    return 1 - mine / best


@pytest.mark.parametrize(("k", "seed", "power_w"), [(4, 0, 0.5), (5, 1, 3.0), (6, 2, 20.0), (8, 0, 6.4)])
def test_the_heuristic_is_near_the_best_assignment(k: int, seed: int, power_w: float) -> None:
    assert -1e-6 <= gap_to_brute_force(k, seed, power_w) <= LARGEST_GAP


def test_a_sampled_grid_finds_about_what_enumeration_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    given = states(64)
    problem = Problem(given, kinds(), np.arange(64))
    cfg = SchedulerConfig(power_budget_w=100.0)
    words = problem, problem.order(), np.zeros(64, np.int64), cfg
    full = search(*words)
    monkeypatch.setattr("harness.scheduling.energy_budget.ENUMERATED_UP_TO", 0)
    coarse = search(*words)
    assert 0 < coarse.tried < full.tried

    def utility(counts: np.ndarray) -> float:
        mix = dict(zip("LMST", map(float, counts), strict=True))
        found = plan("fixed_mix", given, mix=mix, power_budget_w=100.0)
        worth = agi(problem, cfg)[found.submodel_index, np.arange(64)].sum()
        return float(worth / told(found, given)[2])

    assert utility(coarse.counts) >= 0.99 * utility(full.counts)


# --- constraints, whatever the fleet


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 80),
    power_w=st.floats(1e-3, 300),
    model=st.sampled_from(["shannon", "lte", "profile"]),
    profile=st.sampled_from(["mfl_node", "phone", "raspberry_pi_4"]),
    policy=st.sampled_from(["energy_budget", "fixed_mix", "random_mix"]),
    drained=st.booleans(),
)
def test_budgets_and_limits_are_never_exceeded(
    seed: int, k: int, power_w: float, model: str, profile: str, policy: str, drained: bool
) -> None:
    rng = np.random.default_rng(seed)
    fleet = FleetConfig({profile: 1.0}, speed_sigma=float(rng.uniform(0, 0.5)), link=LinkConfig(model=model))
    given = states(k, seed=seed, examples=rng.integers(1, 2000, k), fleet=fleet)
    if drained:
        given.battery_j[:] = 10.0 ** rng.uniform(-2, 3, k)
    mix = {} if policy == "energy_budget" else {"L": 0.5, "T": 0.5}
    found = plan(policy, given, power_budget_w=power_w, mix=mix, max_mixes=60)
    assert len(found) + sum(found.skipped.values()) == k
    if not len(found):
        return
    problem, joules, seconds = told(found, given)
    assert joules.sum() / seconds <= power_w
    assert (joules <= given.battery_j[found.clients]).all()
    points, devices = found.points, problem.devices
    assert (np.asarray(points.frequency_hz) <= devices.max_frequency_hz).all()
    assert (np.asarray(points.tx_w) <= devices.tx_w).all()
    assert (np.asarray(points.tx_bps) <= devices.tx_bps).all()
    assert (np.asarray(points.frequency_hz) > 0).all()


# --- refusals


@pytest.mark.parametrize("policy", ["energy_budget", "fixed_mix", "random_mix"])
def test_a_budget_that_no_plan_meets_names_the_least_feasible_one(policy: str) -> None:
    mix = {} if policy == "energy_budget" else {"T": 1.0}
    given = states(64)
    with pytest.raises(ConfigError) as error:
        plan(policy, given, power_budget_w=0.01, max_round_s=20.0, mix=mix)
    text = str(error.value)
    assert "\n" not in text
    assert "scheduler.power_budget_w=0.01: no plan ends within scheduler.max_round_s=20" in text
    least = re.search(r"the least feasible one \(\{T: 64\}\) takes ([\d.]+) s", text)
    assert least is not None
    _, joules, seconds = told(plan("fixed_mix", given, mix={"T": 1.0}, power_budget_w=0.01), given)
    assert float(least[1]) == pytest.approx(seconds, rel=1e-3)
    assert joules.sum() / seconds <= 0.01
    longer = plan(policy, given, power_budget_w=0.01, max_round_s=seconds * 1.001, mix=mix)
    assert longer.shares()["T"] == 1.0


def test_settings_that_are_missing() -> None:
    with pytest.raises(ConfigError, match=r"energy_budget needs scheduler\.power_budget_w"):
        plan("energy_budget", states(4))
    with pytest.raises(ConfigError, match=r"scheduler\.mix must sum to the cohort of 4"):
        plan("fixed_mix", states(4), mix={"L": 3.0})
    with pytest.raises(ConfigError, match=r"agi_slopes must hold 4 numbers, got 2"):
        plan("energy_budget", states(4), power_budget_w=1.0, agi="information", agi_slopes=[1.0, 1.0])
