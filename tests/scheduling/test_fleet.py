"""Fleets: counts, dealing, spread."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import FleetConfig, LinkConfig
from harness.cost.devices import PROFILES, DeviceProfile
from harness.scheduling.fleet import build_fleet, server_profile
from harness.types import SERVER, ClientId, ConfigError

FIELDS = [f.name for f in dataclasses.fields(DeviceProfile)]


def test_shares_become_counts_by_largest_remainder() -> None:
    # 10 clients by 1 : 1 : 1 are 3.33 each, the first takes the remainder; 7 by 5 : 3 : 2 are 3.5, 2.1, 1.4
    even = build_fleet(FleetConfig({"phone": 1, "laptop": 1, "ideal": 1}), num_clients=10, seed=0)
    assert np.bincount(even.profile_index).tolist() == [4, 3, 3]
    uneven = build_fleet(FleetConfig({"phone": 0.5, "laptop": 0.3, "ideal": 0.2}), num_clients=7, seed=0)
    assert np.bincount(uneven.profile_index).tolist() == [4, 2, 1]


def test_the_default_is_all_raspberry_pi_4() -> None:
    fleet = build_fleet(FleetConfig(), num_clients=3, seed=0)
    assert [fleet[ClientId(c)] for c in range(3)] == [PROFILES["raspberry_pi_4"].device] * 3


@given(
    shares=st.dictionaries(st.sampled_from(sorted(PROFILES)), st.floats(1e-6, 1e6), min_size=1),
    num_clients=st.integers(1, 300),
    seed=st.integers(0, 2**32),
)
def test_every_client_holds_a_profile_near_its_share(
    shares: dict[str, float], num_clients: int, seed: int
) -> None:
    fleet = build_fleet(FleetConfig(shares), num_clients=num_clients, seed=seed)
    assert len(fleet) == num_clients
    counts = np.bincount(fleet.profile_index, minlength=len(shares))
    exact = np.array(list(shares.values())) / sum(shares.values()) * num_clients
    assert np.all(np.abs(counts - exact) < 1 + 1e-9)
    for client in range(0, num_clients, 37):
        assert fleet[ClientId(client)] == PROFILES[fleet.profile(ClientId(client))].device


def test_the_seed_alone_decides_who_gets_what() -> None:
    cfg = FleetConfig({"phone": 1, "laptop": 1}, speed_sigma=0.5)
    one, same, other = (build_fleet(cfg, num_clients=64, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(getattr(one.devices, f), getattr(same.devices, f)) for f in FIELDS)
    assert not np.array_equal(one.profile_index, other.profile_index)
    assert 0 < np.count_nonzero(np.diff(one.profile_index)) != 1, "profiles lie in blocks: not permuted"


def test_more_spread_deals_the_same_profiles() -> None:
    plain, spread = (
        build_fleet(FleetConfig({"phone": 1, "laptop": 2}, speed_sigma=sigma), num_clients=50, seed=3)
        for sigma in (0.0, 1.0)
    )
    assert np.array_equal(plain.profile_index, spread.profile_index)


@given(sigma=st.floats(0.01, 1.0), seed=st.integers(0, 1000))
def test_spread_keeps_full_speed_power_and_the_ratio_of_rates(sigma: float, seed: int) -> None:
    profile = PROFILES["phone"].device
    devices = build_fleet(FleetConfig({"phone": 1}, speed_sigma=sigma), num_clients=200, seed=seed).devices
    f = np.asarray(devices.max_frequency_hz)
    np.testing.assert_allclose(devices.kappa * f**3, 5.5, rtol=1e-12)
    np.testing.assert_allclose(
        np.asarray(devices.tx_bps) / devices.rx_bps, profile.tx_bps / profile.rx_bps, rtol=1e-12
    )
    kept = [name for name in FIELDS if name not in ("max_frequency_hz", "kappa", "tx_bps", "rx_bps")]
    assert all(set(np.asarray(getattr(devices, name))) == {getattr(profile, name)} for name in kept)


def test_spread_is_log_normal_and_independent_for_clock_and_link() -> None:
    profile = PROFILES["phone"].device
    devices = build_fleet(FleetConfig({"phone": 1}, speed_sigma=0.4), num_clients=40_000, seed=0).devices
    clock = np.log(np.asarray(devices.max_frequency_hz) / profile.max_frequency_hz)
    link = np.log(np.asarray(devices.tx_bps) / profile.tx_bps)
    for logs in (clock, link):
        assert abs(logs.mean()) < 0.01  # standard error 0.002
        assert logs.std() == pytest.approx(0.4, abs=0.01)
    assert abs(np.corrcoef(clock, link)[0, 1]) < 0.02


def test_a_million_clients_are_columns_and_a_client_is_plain_numbers() -> None:
    fleet = build_fleet(FleetConfig({"phone": 3, "laptop": 1}), num_clients=1_000_000, seed=0)
    assert np.bincount(fleet.profile_index).tolist() == [750_000, 250_000]
    assert all(getattr(fleet.devices, name).shape == (1_000_000,) for name in FIELDS)
    assert {type(getattr(fleet[ClientId(999_999)], name)) for name in FIELDS} == {float}


def test_take_and_indexing_agree() -> None:
    fleet = build_fleet(FleetConfig({"phone": 1, "laptop": 1}, speed_sigma=0.2), num_clients=20, seed=5)
    clients = np.array([17, 0, 3])
    taken = fleet.take(clients)
    assert [taken.row(row) for row in range(3)] == [fleet[ClientId(int(c))] for c in clients]


@pytest.mark.parametrize("client", [SERVER, ClientId(4)])
def test_a_client_outside_the_fleet_is_an_error(client: ClientId) -> None:
    with pytest.raises(IndexError, match="fleet of 4"):
        build_fleet(FleetConfig(), num_clients=4, seed=0)[client]


def test_the_server() -> None:
    assert server_profile(FleetConfig(server="laptop")) == PROFILES["laptop"].device


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (FleetConfig({"phon": 1.0}), r"fleet\.profiles: unknown device profile 'phon'; did you mean phone\?"),
        (FleetConfig({"phone": -1.0, "laptop": 2.0}), r"fleet\.profiles must hold shares >= 0"),
        (
            FleetConfig({"phone": 0.0}),
            r"fleet\.profiles must hold shares >= 0 with a positive sum, got \[0\.0\]",
        ),
        (FleetConfig(speed_sigma=-0.1), r"fleet\.speed_sigma must be >= 0, got -0\.1"),
    ],
)
def test_impossible_fleets_are_refused(cfg: FleetConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_fleet(cfg, num_clients=2, seed=0)


def test_an_unknown_server_profile_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"fleet\.server: unknown device profile"):
        server_profile(FleetConfig(server="cloud"))


# --- links and clocks


def test_clocks_are_drawn_from_a_range_and_leave_kappa() -> None:
    devices = build_fleet(
        FleetConfig({"mfl_node": 1.0}, clock_hz=[1.5e9, 2.5e9]), num_clients=1000, seed=0
    ).devices
    clocks = np.asarray(devices.max_frequency_hz)
    assert 1.5e9 <= clocks.min() < 1.51e9
    assert 2.49e9 < clocks.max() <= 2.5e9
    assert set(np.asarray(devices.kappa)) == {1e-28}
    for pair in ([1.0], [2.0, 1.0], [0.0, 1.0]):
        with pytest.raises(ConfigError, match=r"fleet\.clock_hz must be \[lowest, highest\]"):
            build_fleet(FleetConfig(clock_hz=pair), num_clients=1, seed=0)


def test_clients_lie_uniformly_over_the_area() -> None:
    link = LinkConfig(model="shannon", min_distance_m=10.0, max_distance_m=500.0)
    fleet = build_fleet(FleetConfig({"mfl_node": 1.0}, link=link), num_clients=20_000, seed=0)
    assert fleet.channel is not None
    metres = 1000 * 10 ** ((-10 * np.log10(fleet.channel.gain) - 128.1) / 37.6)
    assert metres.min() >= 10 * (1 - 1e-9)
    assert metres.max() <= 500 * (1 + 1e-9)
    assert np.mean(metres**2) == pytest.approx((10**2 + 500**2) / 2, rel=0.02)


def test_shannon_gives_full_rate_at_full_power() -> None:
    link = LinkConfig(model="shannon", min_distance_m=250.0, max_distance_m=250.0)
    fleet = build_fleet(FleetConfig({"mfl_node": 1.0}, link=link), num_clients=2, seed=0)
    profile = PROFILES["mfl_node"].device  # 250 m, 1 MHz, 0.2 W
    assert fleet[ClientId(0)].tx_bps == pytest.approx(profile.tx_bps, rel=1e-12)
    assert fleet[ClientId(0)].rx_bps == fleet[ClientId(0)].tx_bps
    assert fleet.channel is not None
    assert fleet.channel.take(np.array([1])).noise_w.tolist() == pytest.approx([10**-14.4])


def test_lte_shares_the_resource_blocks() -> None:
    """Five clients of 20 blocks at the distance where the uplink has SINR 3.2: 6.216 and 7.453 Mbit/s."""
    noise = 10 ** (-17.4) / 1000 * 180e3
    metres = float(np.sqrt(0.01 / (3.2 * (1e-7 + noise))))
    rates = {}
    for fading in ("outside", "inside"):
        link = LinkConfig(model="lte", min_distance_m=metres, max_distance_m=metres, fading=fading)
        fleet = build_fleet(FleetConfig(link=link), num_clients=5, seed=0)
        assert fleet.channel is None
        rates[fading] = fleet[ClientId(0)].tx_bps
        assert fleet[ClientId(0)].tx_w == pytest.approx(0.01)
        assert fleet[ClientId(0)].rx_bps > fleet[ClientId(0)].tx_bps
    assert rates["outside"] == pytest.approx(6.216e6, rel=1e-4)
    assert rates["inside"] == pytest.approx(7.453e6, rel=1e-4)
    shared = LinkConfig(model="lte", min_distance_m=metres, max_distance_m=metres, power_per_block=False)
    assert build_fleet(FleetConfig(link=shared), num_clients=5, seed=0)[ClientId(0)].tx_bps < rates["outside"]
