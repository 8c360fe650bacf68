"""by_memory and by_share: who gets what, and the same fraction of every class."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import FleetConfig, SchedulerConfig
from harness.cost.submodel import SubmodelProfile
from harness.scheduling.classes import by_memory, by_share, sample_sizes
from harness.scheduling.fleet import build_fleet
from harness.scheduling.mixes import apportion
from harness.scheduling.plan import RoundPlan
from harness.scheduling.states import DeviceStates, Policy
from harness.types import ConfigError, SubmodelId


def profile(name: str, train_bytes: int) -> SubmodelProfile:
    return SubmodelProfile(SubmodelId(name), 1, 1, 1, 1, 1, train_bytes=train_bytes)


SUBMODELS = {SubmodelId(name): profile(name, size) for name, size in (("big", 5 * 10**9), ("small", 10**9))}


def planned(
    policy: Policy,
    total: int,
    *,
    profiles: dict[str, float] | None = None,
    submodels: dict[SubmodelId, SubmodelProfile] = SUBMODELS,
    seed: int = 0,
    round: int = 0,
    available: list[bool] | None = None,
    **keys: object,
) -> RoundPlan:
    fleet = build_fleet(FleetConfig(profiles or {"phone": 1}), num_clients=total, seed=1)
    states = DeviceStates(
        fleet,
        battery_j=np.full(total, np.inf),
        available=None if available is None else np.array(available),
        seed=seed,
    )
    cfg = SchedulerConfig(**keys)  # type: ignore[arg-type]
    return policy(round, states, submodels, cfg, np.random.default_rng((seed, round)))


def kinds(plan: RoundPlan) -> dict[int, str]:
    return {int(client): str(plan[client].submodel) for client in plan}


# --- by_share


def test_classes_are_dealt_once_by_seed() -> None:
    one, later, other = (
        kinds(planned(by_share, 40, mix={"big": 0.5, "small": 0.5}, seed=seed, round=round))
        for seed, round in ((0, 0), (0, 7), (1, 0))
    )
    assert one == later
    assert one != other
    assert list(one.values()).count("big") == 20


def test_samples_keep_their_class_and_differ_by_round() -> None:
    everyone = kinds(planned(by_share, 40, mix={"big": 1, "small": 3}))
    rounds = [planned(by_share, 40, mix={"big": 1, "small": 3}, cohort_size=8, round=r) for r in range(5)]
    for plan in rounds:
        assert all(everyone[client] == kind for client, kind in kinds(plan).items())
        assert plan.shares() == {"big": 0.25, "small": 0.75}
        assert plan.clients.tolist() == sorted(set(plan.clients.tolist()))
    assert len({tuple(plan.clients) for plan in rounds}) == 5


def test_ten_percent_of_each() -> None:
    plan = planned(by_share, 200, mix={"big": 0.7, "small": 0.3}, cohort_size=20)
    assert [list(kinds(plan).values()).count(name) for name in ("big", "small")] == [14, 6]


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({}, "scheduler.mix must hold shares of big, small for policy by_share, got {}"),
        ({"big": 0.0}, "scheduler.mix must hold shares of big, small for policy by_share, got {'big': 0.0}"),
        ({"bigg": 1.0}, "scheduler.mix: unknown submodel 'bigg'; did you mean big?"),
    ],
)
def test_mixes_that_give_nobody_anything(mix: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(by_share, 4, mix=mix)
    assert str(caught.value) == message


# --- by_memory


def memory_of(name: str) -> float:
    return float(build_fleet(FleetConfig({name: 1}), num_clients=1, seed=0).devices.memory_bytes[0])


@pytest.mark.parametrize(("short", "kind"), [(0, "big"), (1, "small")])
def test_the_largest_that_fits_to_the_byte(short: int, kind: str) -> None:
    laptop = int(memory_of("laptop"))
    # The order in which a method names its submodels does not matter.
    for names in (("big", "small"), ("small", "big")):
        needs = {"big": laptop + short, "small": 1000}
        submodels = {SubmodelId(name): profile(name, needs[name]) for name in names}
        assert kinds(planned(by_memory, 1, profiles={"laptop": 1}, submodels=submodels)) == {0: kind}


def test_a_device_that_carries_none_is_skipped_with_the_reason() -> None:
    phone, laptop = int(memory_of("phone")), int(memory_of("laptop"))
    submodels = {SubmodelId("big"): profile("big", laptop), SubmodelId("small"): profile("small", phone + 1)}
    plan = planned(by_memory, 6, profiles={"phone": 1, "laptop": 1}, submodels=submodels)
    assert (len(plan), plan.skipped) == (3, {"memory": 3})
    assert set(kinds(plan).values()) == {"big"}


def test_nobody_who_carries_any_is_an_error() -> None:
    submodels = {SubmodelId("big"): profile("big", 10**15)}
    with pytest.raises(
        ConfigError, match=r"^scheduler.policy=by_memory: no client can train the smallest subm"
    ):
        planned(by_memory, 3, submodels=submodels)


# --- both


def test_those_who_are_away_are_not_drawn() -> None:
    plan = planned(by_share, 4, mix={"big": 1, "small": 1}, available=[True, False, True, False])
    assert plan.clients.tolist() == [0, 2]
    assert plan.skipped == {"unavailable": 2}


def test_nobody_there_at_all_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no client that is available in round 3 suits any submodel"):
        planned(by_share, 2, mix={"big": 1, "small": 1}, available=[False, False], round=3)


def test_failures_do_not_change_who_is_drawn() -> None:
    calm, rough = (
        planned(by_share, 50, mix={"big": 1, "small": 1}, cohort_size=10, failure_probability=p)
        for p in (0, 0.9)
    )
    assert calm.clients.tolist() == rough.clients.tolist()
    assert rough.fails.any()
    assert not calm.fails.any()


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=4), fraction=st.floats(0.01, 1))
def test_every_class_gives_its_fraction_and_at_least_one(sizes: list[int], fraction: float) -> None:
    if sum(sizes) == 0:
        sizes = [1, *sizes[1:]]
    takes = sample_sizes(np.array(sizes), fraction=fraction)
    for size, take in zip(sizes, takes.tolist(), strict=True):
        assert min(1, size) <= take <= size
        assert abs(take - size * fraction) <= 1.5 or take == 1


@given(shares=st.lists(st.floats(0.01, 10), min_size=1, max_size=5), total=st.integers(0, 100))
def test_apportioning_sums_up_and_stays_within_one(shares: list[float], total: int) -> None:
    counts = apportion(np.array(shares), total)
    assert counts.sum() == total
    assert (np.abs(counts - np.array(shares) / sum(shares) * total) < 1 + 1e-9).all()
