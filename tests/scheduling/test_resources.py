"""The shortest round on a power budget: closed forms, brute force over sending times, limits that bind."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import LinkConfig
from harness.cost.devices import PROFILES, DeviceProfile
from harness.scheduling.channels import Channel, connect
from harness.scheduling.resources import Demand, demand_of, joules, points_of, send_seconds, shortest

LAST = np.finfo(float).eps


def fleet(
    metres: np.ndarray, *, hz: float | np.ndarray = 2.5e9, kappa: float | np.ndarray = 1e-28
) -> tuple[DeviceProfile, Channel | None]:
    node, k = PROFILES["mfl_node"].device, len(metres)
    columns = {name: np.full(k, getattr(node, name)) for name in DeviceProfile.__dataclass_fields__}
    columns |= {"max_frequency_hz": np.broadcast_to(hz, k), "kappa": np.broadcast_to(kappa, k)}
    return connect(
        DeviceProfile(**columns), LinkConfig(model="shannon"), distance_m=metres, bandwidth_hz=np.full(k, 1e6)
    )


def demand(k: int = 4, *, flops: float | np.ndarray = 3e10, size: float = 68e3, **device: float) -> Demand:
    devices, channel = fleet(np.linspace(20, 450, k), **device)
    return demand_of(
        devices, channel, flops=np.broadcast_to(np.float64(flops), k), num_bytes=np.full(k, np.float64(size))
    )


def test_where_computing_dominates_the_closed_form_holds() -> None:
    """T = (kappa sum W^3 / P)^(1/3), for a payload of a byte and clocks without a limit."""
    flops = np.array([1e10, 2e10, 3e10, 4e10])
    d = demand(flops=flops, size=1.0, hz=1e13)
    cycles = flops / 2
    for power in (0.5, 5.0, 50.0):
        assert shortest(d, power_w=power) == pytest.approx(
            (1e-28 * (cycles**3).sum() / power) ** (1 / 3), rel=1e-4
        )


@pytest.mark.parametrize(("size", "hz"), [(68e3, 2.5e9), (5e6, 2.5e9), (5e6, 5e8), (1.0, 2.5e9)])
def test_the_sending_time_beats_every_other(size: float, hz: float) -> None:
    d = demand(size=size, hz=hz)
    for stretch in (1.001, 1.3, 3.0, 20.0):
        duration = np.array([stretch * d.least_s.max()])
        best = joules(d, duration, send_seconds(d, duration))
        high = duration - d.down_s - d.cycles / d.max_hz
        for share in np.linspace(0, 1, 200):
            tau = d.up_s + share * (high - d.up_s)
            assert (best <= joules(d, duration, tau) * (1 + 1e-9)).all()


def test_a_warm_start_changes_nothing() -> None:
    d = demand(k=50, size=2e6)
    duration = np.array([1.7 * d.least_s.max()])
    cold = send_seconds(d, duration)
    for start in (d.up_s, cold * 3, cold / 3, np.full(50, 1e-9)):
        np.testing.assert_allclose(send_seconds(d, duration, start=start), cold, rtol=1e-7)


def test_power_falls_with_the_duration_and_the_root_is_tight() -> None:
    d = demand(k=20)
    low = float(d.least_s.max())
    times = low * np.geomspace(1, 50, 60)
    power = np.array([joules(d, np.array([t]), send_seconds(d, np.array([t]))).sum() / t for t in times])
    assert (np.diff(power) < 0).all()
    assert shortest(d, power_w=2 * power[0]) == low
    for budget in power[[5, 30, 55]]:
        found = float(shortest(d, power_w=budget))
        at = np.array([found])
        used = joules(d, at, send_seconds(d, at)).sum() / found
        assert budget * (1 - 1e-7) < used <= budget * (1 + 1e-12)


def test_only_the_longest_round_makes_a_budget_infeasible() -> None:
    d = demand()
    free = float(shortest(d, power_w=1e-3))
    assert np.isfinite(free)
    assert shortest(d, power_w=1e-3, max_s=free * 0.99) == np.inf
    assert shortest(d, power_w=1e-3, max_s=free * 1.01) == pytest.approx(free, rel=1e-7)
    assert shortest(d, power_w=1e3, max_s=0.99 * d.least_s.max()) == np.inf


def test_many_assignments_at_once_equal_one_by_one_and_chunks_change_no_solution() -> None:
    devices, channel = fleet(np.linspace(20, 450, 6))
    rng = np.random.default_rng(0)
    flops, size = rng.uniform(1e9, 5e10, (7, 6)), rng.uniform(1e3, 1e6, (7, 6))
    together = shortest(demand_of(devices, channel, flops=flops, num_bytes=size), power_w=1.0)
    alone = [
        float(shortest(demand_of(devices, channel, flops=f, num_bytes=s), power_w=1.0))
        for f, s in zip(flops, size, strict=True)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-7)
    d = demand(k=40_000)
    one = np.array([float(shortest(d, power_w=1e4))])
    assert joules(d, one, send_seconds(d, one)).sum() / one <= 1e4 * (1 + 1e-9)


def test_fixed_links_leave_only_the_clock() -> None:
    node = PROFILES["mfl_node"].device
    d = demand_of(node, None, flops=np.array([2e10, 1e10]), num_bytes=np.array([1e5, 1e5]))
    duration = 30.0
    points = points_of(d, DeviceProfile(*(np.full(2, c) for c in row(node))), duration)
    seconds = 8e5 / node.tx_bps
    np.testing.assert_allclose(points.frequency_hz, np.array([1e10, 5e9]) / (duration - 2 * seconds))
    assert (points.tx_w == node.tx_w).all()
    assert points.tx_bps == pytest.approx(node.tx_bps)


def row(device: DeviceProfile) -> list[float]:
    return [getattr(device, name) for name in DeviceProfile.__dataclass_fields__]


def test_who_has_nothing_to_compute_only_sends() -> None:
    devices, channel = fleet(np.array([50.0, 50.0]))
    d = demand_of(devices, channel, flops=np.array([0.0, 2e10]), num_bytes=np.array([1e5, 1e5]))
    found = float(shortest(d, power_w=0.5))
    points = points_of(d, devices, found)
    assert np.isfinite(points.frequency_hz).all()
    assert points.tx_w[0] < points.tx_w[1]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 12),
    share=st.floats(0.01, 1.5),
    size=st.floats(1e2, 1e7),
)
def test_limits_hold_on_random_fleets(seed: int, k: int, share: float, size: float) -> None:
    rng = np.random.default_rng(seed)
    devices, channel = fleet(
        rng.uniform(1, 1000, k), hz=rng.uniform(1e8, 4e9, k), kappa=10.0 ** rng.uniform(-29, -26, k)
    )
    d = demand_of(devices, channel, flops=rng.uniform(1e7, 1e11, k), num_bytes=np.full(k, size))
    low = np.array([d.least_s.max()])
    budget = share * float(joules(d, low, send_seconds(d, low)).sum() / low[0])
    found = float(shortest(d, power_w=budget))
    points = points_of(d, devices, found)
    assert (points.frequency_hz <= d.max_hz).all()
    assert (points.tx_w <= d.tx_w).all()
    assert (points.tx_bps <= devices.tx_bps).all()
    done = d.down_s + d.cycles / points.frequency_hz + d.up_bits / points.tx_bps
    assert done.max() <= found * (1 + 1e-9)
