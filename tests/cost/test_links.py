"""Link rates on hand-computed numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import exp1

from harness.cost.links import (
    dbm_to_w,
    noise_power_w,
    path_loss_gain,
    rayleigh_bps,
    scaled_exp1,
    shannon_bps,
    shannon_tx_w,
    transfer_s,
)


def test_fixed_rate() -> None:
    assert transfer_s(1_000, 8_000) == 1.0
    assert transfer_s(np.array([0, 1_000]), np.array([1.0, 4_000.0])).tolist() == [0.0, 2.0]


def test_shannon_at_a_signal_to_noise_ratio_of_7() -> None:
    # B log2(1 + 7) = 3 B
    assert shannon_bps(0.7, 1e-3, 1e6, 1e-4) == pytest.approx(3e6, rel=1e-12)
    assert shannon_tx_w(3e6, 1e-3, 1e6, 1e-4) == pytest.approx(0.7, rel=1e-12)


@pytest.mark.parametrize(("metres", "loss_db"), [(1000, 128.1), (100, 90.5), (10, 52.9)])
def test_path_loss_falls_by_37_6_db_a_decade(metres: float, loss_db: float) -> None:
    assert path_loss_gain(metres) == pytest.approx(10 ** (-loss_db / 10), rel=1e-12)


def test_thermal_noise_of_1_mhz() -> None:
    # -174 dBm/Hz + 60 dB = -114 dBm = 10^-14.4 W
    assert noise_power_w(1e6) == pytest.approx(10**-14.4, rel=1e-12)
    assert noise_power_w(2.0, density_dbm_hz=30.0) == pytest.approx(2.0)


@given(
    bps=st.floats(1e3, 2e7),
    distance=st.floats(10, 500),
    bandwidth=st.floats(1e6, 2e7),
    steps=st.floats(1.01, 4),
)
def test_transmit_power_inverts_the_rate_and_grows_with_it(
    bps: float, distance: float, bandwidth: float, steps: float
) -> None:
    gain, noise = path_loss_gain(distance), noise_power_w(bandwidth)
    watts = shannon_tx_w(bps, gain, bandwidth, noise)
    assert shannon_bps(watts, gain, bandwidth, noise) == pytest.approx(bps, rel=1e-6)
    assert shannon_tx_w(bps * steps, gain, bandwidth, noise) > steps * watts


def test_columns_equal_their_rows() -> None:
    metres = np.array([10.0, 123.4, 500.0])
    gains = path_loss_gain(metres)
    rates = shannon_bps(0.2, gains, 1e6, noise_power_w(1e6))
    for row, distance in enumerate(metres):
        one = shannon_bps(0.2, path_loss_gain(float(distance)), 1e6, noise_power_w(1e6))
        assert one == pytest.approx(rates[row], rel=1e-14)


# --- Rayleigh fading


def test_the_rates_of_fpls_example() -> None:
    """SINR 3.2 on 20 blocks of 180 kHz."""
    assert rayleigh_bps(3.2, 20 * 180e3, fading="inside") == pytest.approx(7.453e6, rel=1e-4)
    assert rayleigh_bps(3.2, 20 * 180e3) == pytest.approx(6.216e6, rel=1e-4)


@pytest.mark.parametrize("sinr", [0.01, 0.4, 3.2, 50.0, 1e4])
def test_the_mean_over_fading_is_that_of_a_million_draws(sinr: float) -> None:
    draws = np.log2(1 + sinr * np.random.default_rng(0).exponential(size=1_000_000))
    error = draws.std() / 1000
    assert rayleigh_bps(sinr, 1.0) == pytest.approx(draws.mean(), abs=5 * error)


def test_no_signal_is_too_weak_and_none_too_strong() -> None:
    sinr = 10.0 ** np.arange(-12, 13)
    rates, bounds = rayleigh_bps(sinr, 1.0), rayleigh_bps(sinr, 1.0, fading="inside")
    assert np.isfinite(rates).all()
    assert (np.diff(rates) > 0).all()
    assert (rates <= bounds).all()
    assert rates[0] == pytest.approx(1e-12 / np.log(2), rel=1e-6)  # log2(1 + x) near 0
    assert rayleigh_bps(0.0, 1.0) == 0.0


@given(x=st.floats(1e-6, 1e12))
def test_the_scaled_integral_lies_between_its_bounds(x: float) -> None:
    """ln(1 + 2/x) / 2 < e^x E1(x) < ln(1 + 1/x) (Abramowitz and Stegun 5.1.20)."""
    value = float(scaled_exp1(x))
    assert np.log1p(2 / x) / 2 * (1 - 1e-12) <= value <= np.log1p(1 / x) * (1 + 1e-12)


def test_the_continued_fraction_meets_the_library() -> None:
    x = np.array([50.0, 50.0 + 1e-9, 200.0, 600.0])
    np.testing.assert_allclose(scaled_exp1(x), np.exp(x) * exp1(x), rtol=1e-12)


def test_dbm() -> None:
    assert dbm_to_w(np.array([0.0, 10.0, 30.0])).tolist() == pytest.approx([1e-3, 1e-2, 1.0])
