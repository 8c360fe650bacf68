"""Policies: pure, seeded, within bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import FleetConfig, SchedulerConfig
from harness.cost.submodel import SubmodelProfile
from harness.scheduling.fleet import build_fleet
from harness.scheduling.plan import RoundPlan
from harness.scheduling.policies import DeviceStates, load_policy, uniform
from harness.types import ClientId, ConfigError, SubmodelId


def profile(name: str) -> SubmodelProfile:
    return SubmodelProfile(SubmodelId(name), 1, 1, 1, 1, 1)


SUBMODELS = {SubmodelId(name): profile(name) for name in ("big", "small")}


def planned(total: int, *, seed: int = 0, round: int = 0, **keys: object) -> RoundPlan:
    fleet = build_fleet(FleetConfig({"phone": 1, "laptop": 1}), num_clients=total, seed=1)
    states = DeviceStates(fleet, battery_j=np.full(total, np.inf))
    cfg = SchedulerConfig(**keys)  # type: ignore[arg-type]
    return uniform(round, states, SUBMODELS, cfg, np.random.default_rng(seed))


@given(total=st.integers(1, 40), data=st.data())
def test_uniform_draws_distinct_clients_in_ascending_order(total: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, total))
    plan = planned(total, cohort_size=size, seed=data.draw(st.integers(0, 99)))
    ids = plan.clients.tolist()
    assert len(ids) == size
    assert ids == sorted(set(ids))
    assert 0 <= ids[0] <= ids[-1] < total
    assert plan.shares() == {"big": 1.0, "small": 0.0}


def test_everyone_takes_part_by_default_at_full_speed_of_its_own_device() -> None:
    plan = planned(6, round=9, deadline_s=3.0)
    fleet = build_fleet(FleetConfig({"phone": 1, "laptop": 1}), num_clients=6, seed=1)
    assert (plan.round, plan.deadline_s, plan.clients.tolist()) == (9, 3.0, list(range(6)))
    for client in map(ClientId, range(6)):
        assert plan[client].point == fleet[client].full_speed()
    part = planned(6, cohort_size=3)
    for client in part:
        assert part[client].point == fleet[client].full_speed()


def test_the_generator_alone_decides() -> None:
    one, same, other = (planned(50, cohort_size=10, seed=seed).clients.tolist() for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_every_client_is_as_likely_as_any_other() -> None:
    counts = np.zeros(10)
    for seed in range(400):
        counts[planned(10, cohort_size=3, seed=seed).clients] += 1
    # 120 expected, standard deviation 9.2
    assert counts.min() > 120 - 5 * 9.2
    assert counts.max() < 120 + 5 * 9.2


@pytest.mark.parametrize(("chance", "low", "high"), [(0.0, 0, 0), (1.0, 500, 500), (0.3, 100, 200)])
def test_failures_are_planned_at_their_rate(chance: float, low: int, high: int) -> None:
    assert low <= planned(500, failure_probability=chance).fails.sum() <= high


def test_failures_do_not_change_who_is_drawn() -> None:
    calm, rough = (planned(50, cohort_size=10, failure_probability=p) for p in (0.0, 0.9))
    assert calm.clients.tolist() == rough.clients.tolist()


def test_unknown_policies_are_named() -> None:
    assert load_policy("uniform") is uniform
    with pytest.raises(
        ConfigError, match=r"^scheduler.policy: unknown policy 'unifrom'; did you mean uniform\?$"
    ):
        load_policy("unifrom")
