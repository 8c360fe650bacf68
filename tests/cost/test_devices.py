"""Pricing on numbers small enough to check by hand, and columns against rows."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cost.devices import (
    PROFILES,
    Cost,
    DeviceProfile,
    OperatingPoint,
    Work,
    find_profile,
    kappa_from,
    price,
    price_idle,
)
from harness.types import ConfigError

DEVICE = DeviceProfile(
    flops_per_cycle=4,
    max_frequency_hz=100.0,
    kappa=2e-6,
    idle_w=0.5,
    tx_w=3.0,
    rx_w=2.0,
    tx_bps=80.0,
    rx_bps=160.0,
    memory_bytes=1e6,
    battery_j=math.inf,
)
WORK = Work(flops=2_000, tx_bytes=40, rx_bytes=60)


def test_price_by_hand() -> None:
    # 500 cycles at 100 Hz; up 320 bit at 80 bit/s, down 480 bit at 160 bit/s; 2e-6 * 500 * 100^2 J
    cost = price(WORK, DEVICE, DEVICE.full_speed())
    assert cost == Cost(compute_s=5.0, link_s=7.0, compute_j=10.0, link_j=3 * 4.0 + 2 * 3.0)
    assert cost.busy_s == 12.0


def test_half_the_clock_takes_twice_the_time_and_a_quarter_of_the_energy() -> None:
    point = dataclasses.replace(DEVICE.full_speed(), frequency_hz=50.0)
    slow, full = price(WORK, DEVICE, point), price(WORK, DEVICE, DEVICE.full_speed())
    assert (slow.compute_s, slow.compute_j) == (2 * full.compute_s, full.compute_j / 4)
    assert (slow.link_s, slow.link_j) == (full.link_s, full.link_j)


def test_the_point_decides_rates_and_transmit_power_and_the_device_the_receive_power() -> None:
    point = OperatingPoint(frequency_hz=100.0, tx_bps=320.0, rx_bps=480.0, tx_w=5.0)
    cost = price(WORK, DEVICE, point)
    assert (cost.link_s, cost.link_j) == (2.0, 5.0 * 1 + 2.0 * 1)


def test_waiting_is_priced() -> None:
    assert price_idle(6.0, DEVICE) == 3.0


def test_kappa_makes_full_speed_draw_the_load_power() -> None:
    kappa = kappa_from(16.0, 2.0)
    assert kappa == 2.0
    device = dataclasses.replace(DEVICE, kappa=kappa, max_frequency_hz=2.0)
    cost = price(WORK, device, device.full_speed())
    assert cost.compute_j / cost.compute_s == 16.0


_numbers = st.floats(1e-3, 1e12)


@given(
    work=st.lists(st.tuples(*[st.integers(0, 10**15)] * 3), min_size=1, max_size=9),
    constants=st.tuples(*[_numbers] * 10),
    point=st.tuples(*[_numbers] * 4),
)
def test_a_column_gives_the_bits_of_its_rows(
    work: list[tuple[int, int, int]], constants: tuple[float, ...], point: tuple[float, ...]
) -> None:
    scale = np.linspace(0.3, 3.0, len(work))
    devices = DeviceProfile(*(c * scale for c in constants))
    points = OperatingPoint(*(p / scale for p in point))
    columns = Work(*(np.array(column, dtype=np.int64) for column in zip(*work, strict=True)))
    costs = price(columns, devices, points)
    waits = price_idle(scale, devices)
    for row, one in enumerate(work):
        assert price(Work(*one), devices.row(row), points.row(row)) == costs.row(row)
        assert price_idle(float(scale[row]), devices.row(row)) == waits[row]


@given(flops=st.integers(0, 10**12), share=st.floats(0, 1))
def test_splitting_work_costs_the_same(flops: int, share: float) -> None:
    first = int(flops * share)
    whole = price(Work(flops, 0, 0), DEVICE, DEVICE.full_speed())
    parts = [price(Work(n, 0, 0), DEVICE, DEVICE.full_speed()) for n in (first, flops - first)]
    assert parts[0].compute_j + parts[1].compute_j == pytest.approx(whole.compute_j)
    assert parts[0].compute_s + parts[1].compute_s == pytest.approx(whole.compute_s)


def test_rows_are_plain_numbers_and_single_numbers_stay() -> None:
    mixed = dataclasses.replace(DEVICE, kappa=np.array([1.0, 2.0]), memory_bytes=np.array([7, 8]))
    row = mixed.row(1)
    assert (row.kappa, row.memory_bytes, row.idle_w) == (2.0, 8, 0.5)
    assert {type(getattr(row, f.name)) for f in dataclasses.fields(row)} == {int, float}
    taken = mixed.take(np.array([1, 1, 0]))
    assert np.asarray(taken.kappa).tolist() == [2.0, 2.0, 1.0]


@pytest.mark.parametrize("name", PROFILES)
def test_profiles_state_a_source_for_every_constant_and_are_sane(name: str) -> None:
    profile = PROFILES[name]
    device = profile.device
    constants = [f.name for f in dataclasses.fields(device)]
    assert profile.name == name
    assert profile.description
    assert sorted(profile.source) == sorted(constants)
    assert all(profile.source.values())
    values = {c: getattr(device, c) for c in constants}
    assert all(type(v) in (int, float) for v in values.values())
    positive = {c for c in constants if not c.endswith("_w") and c != "kappa"}
    assert all(v > 0 if c in positive else v >= 0 for c, v in values.items())
    cost = price(Work(10**9, 10**6, 10**6), device, device.full_speed())
    assert all(math.isfinite(float(getattr(cost, f.name))) for f in dataclasses.fields(cost))


@pytest.mark.parametrize(
    ("name", "gflops", "watts"),
    [
        ("phone", 68.0, 5.5),
        ("raspberry_pi_4", 23.778, 7.2),
        ("jetson_nano", 117.9648, 10.0),
        ("laptop", 177.574, 41.6),
        ("edge_server", 4070.4, 70.0),
        ("mfl_node", 5.0, 1.5625),
    ],
)
def test_profiles_reach_their_cited_speed_and_power(name: str, gflops: float, watts: float) -> None:
    device = PROFILES[name].device
    cost = price(Work(flops=10**9, tx_bytes=0, rx_bytes=0), device, device.full_speed())
    assert cost.compute_s == pytest.approx(1 / gflops)
    assert cost.compute_j / cost.compute_s == pytest.approx(watts)


def test_the_ideal_device_is_free_and_the_unit_device_counts() -> None:
    work = Work(flops=5, tx_bytes=3, rx_bytes=2)
    ideal, unit = PROFILES["ideal"].device, PROFILES["unit"].device
    assert price(work, ideal, ideal.full_speed()) == Cost(0.0, 0.0, 0.0, 0.0)
    assert price(work, unit, unit.full_speed()) == Cost(5.0, 5.0, 5.0, 5.0)


def test_mfl_node_link_is_shannon_at_250_m() -> None:
    # loss 128.1 + 37.6 log10(0.25) = 105.4624 dB; 0.2 W = 23.0103 dBm; noise -114 dBm
    snr_db = 10 * math.log10(200) - (128.1 + 37.6 * math.log10(0.25)) + 114
    assert PROFILES["mfl_node"].device.tx_bps == pytest.approx(1e6 * math.log2(1 + 10 ** (snr_db / 10)))


def test_an_unknown_profile_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"fleet\.server: unknown device profile 'jetson'; did you mean jetson_nano"
    ):
        find_profile("jetson", key="fleet.server")
