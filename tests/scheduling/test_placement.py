"""Cuts priced by hand, and the choice among them."""

from dataclasses import replace

import numpy as np
import pytest

from harness.cost.cuts import Cut
from harness.cost.devices import DeviceProfile
from harness.scheduling.placement import best_cut, price_cuts
from harness.types import ConfigError

NODE = DeviceProfile(
    flops_per_cycle=1.0, max_frequency_hz=10.0, kappa=0.01, idle_w=1.0, tx_w=2.0, rx_w=0.5,
    tx_bps=8.0, rx_bps=16.0, memory_bytes=1e9, battery_j=1e9,
)  # fmt: skip
SERVER = replace(NODE, max_frequency_hz=100.0, kappa=0.0001, idle_w=3.0)
SOURCES = DeviceProfile(*(np.full(2, getattr(NODE, f)) for f in DeviceProfile.__dataclass_fields__))
EARLY = Cut("early", source_flops=10, server_flops=400, activation_bytes=16)
LATE = Cut("late", source_flops=300, server_flops=100, activation_bytes=2)


def test_a_cut_by_hand() -> None:
    """10 cycles at 10 Hz, 16 bytes up at 8 bit/s and down at 16: 1 + 16 + 8 s; 400 cycles at 100 Hz: 4 s."""
    (placed,) = price_cuts([EARLY], sources=SOURCES, server=SERVER)
    assert placed.seconds == pytest.approx(25 + 4)
    source_j = 0.01 * 10 * 100 + 2 * 16 + 0.5 * 8 + 1.0 * 4
    server_j = 0.0001 * 400 * 100**2 + 3 * 25
    assert placed.joules == pytest.approx(2 * source_j + server_j)
    assert placed.link_bytes == 64


def test_the_slowest_source_decides() -> None:
    slow = replace(SOURCES, tx_bps=np.array([8.0, 1.0]))
    (placed,) = price_cuts([EARLY], sources=slow, server=SERVER)
    assert placed.seconds == pytest.approx(1 + 128 + 8 + 4)


def test_links_and_clocks_move_the_junction() -> None:
    """Fast links favour an early cut, slow ones a late one."""
    fast = replace(SOURCES, tx_bps=np.full(2, 8e3), rx_bps=np.full(2, 8e3))
    slow = replace(SOURCES, tx_bps=np.full(2, 2.0), rx_bps=np.full(2, 2.0))
    found = [best_cut(price_cuts([LATE, EARLY], sources=s, server=SERVER)).layer for s in (fast, slow)]
    assert found == ["early", "late"]


def test_time_and_energy_may_disagree() -> None:
    hot = replace(SERVER, kappa=1.0)
    placed = price_cuts([EARLY, LATE], sources=replace(SOURCES, tx_bps=np.full(2, 64.0)), server=hot)
    assert best_cut(placed, objective="time").layer == "early"
    assert best_cut(placed, objective="energy").layer == "late"
    with pytest.raises(ConfigError, match=r"method\.objective must be one of time, energy, got 'money'"):
        best_cut(placed, objective="money")


def test_of_equal_cuts_the_one_behind_the_activation() -> None:
    placed = price_cuts([replace(EARLY, layer="relu"), EARLY, LATE], sources=SOURCES, server=SERVER)
    assert placed[0].seconds == placed[1].seconds
    assert best_cut(placed[:2]).layer == "early"
