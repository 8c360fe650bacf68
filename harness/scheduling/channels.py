"""From distances to rates: the link models of `fleet.link`.

Shape letter: K clients.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from harness.config import LinkConfig
from harness.cost.devices import DeviceProfile
from harness.cost.links import dbm_to_w, noise_power_w, path_loss_gain, rayleigh_bps, shannon_bps

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Channel:
    """What sending at a rate takes: power (noise / gain) (2^(rate / band) - 1)."""

    gain: Floats
    """[K] power gain to the mast."""
    bandwidth_hz: Floats
    """[K] own band."""
    noise_w: Floats
    """[K] noise in it."""

    def take(self, clients: NDArray[np.int64]) -> "Channel":
        """Of some clients, in that order."""
        return Channel(self.gain[clients], self.bandwidth_hz[clients], self.noise_w[clients])


def draw_distances(cfg: LinkConfig, num_clients: int, rng: np.random.Generator) -> Floats:
    """[K] metres: uniform over the area of the ring between min_distance_m and max_distance_m."""
    near, far = cfg.min_distance_m**2, cfg.max_distance_m**2
    return np.sqrt(near + (far - near) * rng.random(num_clients))


def connect(
    devices: DeviceProfile, cfg: LinkConfig, *, distance_m: Floats, bandwidth_hz: Floats
) -> tuple[DeviceProfile, Channel | None]:
    """Devices [K] with the rates of a link model, and their channels where power follows from the rate."""
    return MODELS[cfg.model](devices, cfg, distance_m, bandwidth_hz)


def _profile(
    devices: DeviceProfile, cfg: LinkConfig, distance_m: Floats, bandwidth_hz: Floats
) -> tuple[DeviceProfile, Channel | None]:
    return devices, None


def _shannon(
    devices: DeviceProfile, cfg: LinkConfig, distance_m: Floats, bandwidth_hz: Floats
) -> tuple[DeviceProfile, Channel | None]:
    """Full rate at full transmit power; the channel is symmetric, so the mast sends as fast."""
    gain = np.asarray(path_loss_gain(distance_m))
    noise = np.asarray(noise_power_w(bandwidth_hz, cfg.noise_dbm_hz))
    bps = shannon_bps(devices.tx_w, gain, bandwidth_hz, noise)
    return replace(devices, tx_bps=bps, rx_bps=bps), Channel(gain, bandwidth_hz, noise)


def _lte(
    devices: DeviceProfile, cfg: LinkConfig, distance_m: Floats, bandwidth_hz: Floats
) -> tuple[DeviceProfile, Channel | None]:
    """FPL: equal shares of the resource blocks, fixed powers, Rayleigh fading. Sending draws tx_dbm once."""
    blocks = cfg.num_blocks / len(distance_m)
    per_block = 1.0 if cfg.power_per_block else blocks
    gain = distance_m ** (-cfg.path_exponent)
    noise = noise_power_w(cfg.block_hz, cfg.noise_dbm_hz)

    def rate(dbm: float, interference_w: float) -> Floats:
        sinr = dbm_to_w(dbm) / per_block * gain / (noise + interference_w)
        return np.asarray(rayleigh_bps(sinr, blocks * cfg.block_hz, fading=cfg.fading))

    faster = replace(
        devices,
        tx_w=np.full(len(distance_m), dbm_to_w(cfg.tx_dbm)),
        tx_bps=rate(cfg.tx_dbm, cfg.tx_interference_w),
        rx_bps=rate(cfg.server_dbm, cfg.rx_interference_w),
    )
    return faster, None


Model = Callable[[DeviceProfile, LinkConfig, Floats, Floats], tuple[DeviceProfile, Channel | None]]
MODELS: Final[dict[str, Model]] = {"profile": _profile, "shannon": _shannon, "lte": _lte}
