"""How fast a link is, and what sending over it takes. Pure functions of numbers or columns.

Shannon, "A mathematical theory of communication" (1948), for the rate and its inverse; 3GPP TR 36.814
(2010), annex A.2, macro cell at 2 GHz, for the path loss; -174 dBm/Hz is thermal noise at 290 K.
LTE resource blocks under Rayleigh fading as in Malandrino, Chiasserini, "Flexible parallel learning in edge
scenarios", WoWMoM 2022; the mean rate over fading is closed (Abramowitz, Stegun 5.1, exponential integral).
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import exp1

Column: TypeAlias = int | float | NDArray[np.floating] | NDArray[np.signedinteger]
"""One number, or one per client [K] (float64 or int64)."""


def transfer_s(num_bytes: Column, bps: Column) -> Column:
    """Seconds that `num_bytes` take at a fixed rate of `bps` bit/s."""
    return 8 * num_bytes / bps


def shannon_bps(tx_w: Column, gain: Column, bandwidth_hz: Column, noise_w: Column) -> Column:
    """Capacity in bit/s of a channel with power gain `gain`: B log2(1 + p h / s2)."""
    bits_per_hz: Column = np.log2(1 + tx_w * gain / noise_w)
    return bandwidth_hz * bits_per_hz


def shannon_tx_w(bps: Column, gain: Column, bandwidth_hz: Column, noise_w: Column) -> Column:
    """Transmit power in W that reaches `bps` bit/s, the inverse of `shannon_bps`: (s2 / h)(2^(r/B) - 1)."""
    snr: Column = np.expm1(bps / bandwidth_hz * np.log(2))
    return noise_w / gain * snr


def path_loss_gain(distance_m: Column) -> Column:
    """Power gain (0..1] at a distance in metres: a loss of 128.1 + 37.6 log10(km) dB."""
    loss_db = 128.1 + 37.6 * np.log10(distance_m / 1000)
    gain: Column = np.power(10.0, -loss_db / 10)
    return gain


def noise_power_w(bandwidth_hz: Column, density_dbm_hz: float = -174.0) -> Column:
    """Noise in W over a band of `bandwidth_hz`, from its density in dBm/Hz."""
    density_w_hz: float = 10.0 ** (density_dbm_hz / 10) / 1000
    return bandwidth_hz * density_w_hz


def rayleigh_bps(sinr: Column, bandwidth_hz: Column, *, fading: str = "outside") -> Column:
    """Rate in bit/s over a band under Rayleigh fading o ~ Exp(1), by the mean signal-to-noise ratio.

    `outside` the logarithm: E[B log2(1 + o s)] = B e^(1/s) E1(1/s) / ln 2, the mean rate; `inside`:
    B log2(1 + E[o] s), its upper bound.
    """
    s = np.asarray(sinr, dtype=np.float64)
    with np.errstate(divide="ignore"):
        nats = np.log1p(s) if fading == "inside" else scaled_exp1(1 / s)
    rate: Column = bandwidth_hz * (nats / np.log(2.0))
    return rate


def scaled_exp1(x: Column) -> NDArray[np.float64]:
    """e^x E1(x) for x > 0, also where e^x overflows: above 50 by its continued fraction (A. & S. 5.1.22)."""
    values = np.asarray(x, dtype=np.float64)
    near = np.minimum(values, 50.0)
    tail = np.maximum(values, 50.0)
    fraction = np.zeros_like(tail)
    for n in range(20, 0, -1):
        fraction = n * n / (tail + 2 * n + 1 - fraction)
    found: NDArray[np.float64] = np.where(values <= 50, np.exp(near) * exp1(near), 1 / (tail + 1 - fraction))
    return found


def dbm_to_w(dbm: Column) -> Column:
    """Watts of a power in dBm."""
    watts: Column = np.power(10.0, np.asarray(dbm, dtype=np.float64) / 10) / 1000
    return watts
