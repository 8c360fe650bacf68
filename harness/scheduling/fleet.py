"""The devices of a federation as columns: a million clients are a few arrays.

Shape letter: K clients.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.config import FleetConfig, LinkConfig, require
from harness.cost.devices import DeviceProfile, find_profile
from harness.scheduling.channels import Channel, connect, draw_distances
from harness.scheduling.device_table import CONSTANTS, DeviceTable, read_table
from harness.scheduling.mixes import apportion
from harness.scheduling.windows import Windows
from harness.types import ClientId

DEFAULT_PROFILE = "raspberry_pi_4"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Every client's device; `fleet[client]` is one of them."""

    profiles: tuple[str, ...]
    """Names that `profile_index` points into."""
    profile_index: NDArray[np.int64]
    """[K]"""
    devices: DeviceProfile
    """Columns [K] float64, in client order."""
    channel: Channel | None = None
    """Columns [K], where transmit power follows from the rate that is chosen."""
    windows: Windows | None = None
    """When clients are available; None: always."""

    def __len__(self) -> int:
        return len(self.profile_index)

    def __getitem__(self, client: ClientId) -> DeviceProfile:
        """One client's device, as plain Python floats. Raises IndexError for a client outside 0..K-1."""
        if not 0 <= client < len(self):
            raise IndexError(f"client {client} is not in a fleet of {len(self)}")
        return self.devices.row(client)

    def take(self, clients: NDArray[np.int64]) -> DeviceProfile:
        """Columns of the devices of `clients`, in that order."""
        return self.devices.take(clients)

    def profile(self, client: ClientId) -> str:
        """Name of the profile that a client's device derives from."""
        return self.profiles[int(self.profile_index[client])]


def build_fleet(cfg: FleetConfig, *, num_clients: int, seed: int) -> Fleet:
    """Deal devices to `num_clients` clients by the shares of `fleet.profiles`.

    Shares become counts by largest remainder; who gets which device, and how far its clock and rates lie
    from its profile (`fleet.speed_sigma`), depend on the seed alone. Full-speed power stays the profile's.
    A table (`fleet.table`) overrides the profiles, and `fleet.link` the rates. Raises ConfigError for an
    unknown profile, a negative share or spread, shares that sum to 0, or a table that is none.
    """
    shares = dict(cfg.profiles) or {DEFAULT_PROFILE: 1.0}
    named = [find_profile(name, key="fleet.profiles").device for name in shares]
    require(cfg.speed_sigma >= 0, f"fleet.speed_sigma must be >= 0, got {cfg.speed_sigma}")
    counts = _largest_remainder(np.array(list(shares.values())), num_clients)
    deal, clock, link, hertz, place, rows = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(6))
    index = deal.permutation(np.repeat(np.arange(len(named), dtype=np.int64), counts))
    table = read_table(cfg, num_clients=num_clients, rng=rows) if cfg.table else None
    if table is not None and (names := table.profiles()) is not None:
        shares, named, index = _by_name(names, shares, index)
    columns = (
        np.array([getattr(d, f) for d in named], dtype=np.float64)[index]
        for f in DeviceProfile.__dataclass_fields__
    )
    devices = DeviceProfile(*columns)
    if cfg.speed_sigma > 0:
        devices = _spread(
            devices,
            clock=np.exp(cfg.speed_sigma * clock.standard_normal(num_clients)),
            link=np.exp(cfg.speed_sigma * link.standard_normal(num_clients)),
        )
    if cfg.clock_hz:
        devices = replace(devices, max_frequency_hz=hertz.uniform(*_clocks(cfg), size=num_clients))
    devices, channel = _placed(
        devices, cfg.link, table, distance_m=draw_distances(cfg.link, num_clients, place)
    )
    return Fleet(
        profiles=tuple(shares),
        profile_index=index,
        devices=devices,
        channel=channel,
        windows=table.windows(period_s=cfg.period_s) if table is not None else None,
    )


def server_profile(cfg: FleetConfig) -> DeviceProfile:
    """The server's device, plain numbers. Raises ConfigError for an unknown profile."""
    return find_profile(cfg.server, key="fleet.server").device


def _placed(
    devices: DeviceProfile, cfg: LinkConfig, table: DeviceTable | None, *, distance_m: NDArray[np.float64]
) -> tuple[DeviceProfile, Channel | None]:
    """Devices at their distances, with what a table says."""
    bandwidth_hz = np.full(len(distance_m), cfg.bandwidth_hz)
    if table is not None:
        columns = (table.column(name, np.asarray(getattr(devices, name), np.float64)) for name in CONSTANTS)
        devices = DeviceProfile(*columns)
        distance_m = table.column("distance_m", distance_m)
        bandwidth_hz = table.column("bandwidth_hz", bandwidth_hz)
    return connect(devices, cfg, distance_m=distance_m, bandwidth_hz=bandwidth_hz)


def _by_name(
    names: list[str], shares: dict[str, float], index: NDArray[np.int64]
) -> tuple[dict[str, float], list[DeviceProfile], NDArray[np.int64]]:
    """Profiles as a table names them; a client without a name keeps the one it was dealt."""
    known = list(shares)
    told = [name or known[int(dealt)] for name, dealt in zip(names, index, strict=True)]
    found = {name: find_profile(name, key="fleet.table: profile").device for name in dict.fromkeys(told)}
    place = {name: position for position, name in enumerate(found)}
    return (
        dict.fromkeys(found, 1.0),
        list(found.values()),
        np.array([place[name] for name in told], dtype=np.int64),
    )


def _clocks(cfg: FleetConfig) -> tuple[float, float]:
    pair = cfg.clock_hz
    require(
        len(pair) == 2 and 0 < pair[0] <= pair[1],
        f"fleet.clock_hz must be [lowest, highest] with 0 < lowest <= highest, got {list(pair)}",
    )
    return pair[0], pair[1]


def _spread(
    devices: DeviceProfile, *, clock: NDArray[np.float64], link: NDArray[np.float64]
) -> DeviceProfile:
    """Multiply clocks [K] and rates [K]; kappa falls with the cube, so that kappa f^3 at full speed stays."""
    return replace(
        devices,
        max_frequency_hz=devices.max_frequency_hz * clock,
        kappa=devices.kappa / (clock * clock * clock),
        tx_bps=devices.tx_bps * link,
        rx_bps=devices.rx_bps * link,
    )


def _largest_remainder(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Counts >= 0 that sum to `total`, each within 1 of its share; ties go to the earlier profile."""
    require(
        bool(np.all(shares >= 0)) and shares.sum() > 0,
        f"fleet.profiles must hold shares >= 0 with a positive sum, got {shares.tolist()}",
    )
    return apportion(shares, total)
