"""How fast a round may end on a power budget, and at which clocks and rates.

A reconstruction of MFL's resource model (Yu, Li, IEEE Network 2021, prints no formulas). A client that has
W cycles to compute and S bits to send in the T' seconds between its download and the round's end spends least
with f = W / (T' - tau) and r = S / tau, where the tau it sends for minimises the convex

    phi(tau) = kappa W^3 / (T' - tau)^2 + (s2 / h) tau (2^(S / (B tau)) - 1)

over S / r_max <= tau <= T' - W / f_max.

Power, sum_j emin_j(T) / T, falls in T; the shortest round on a budget is its root. On fixed links tau is
given.

Shape letters: K clients, ... any leading axes (assignments tried at once).
"""

from dataclasses import dataclass, fields
from typing import cast

import numpy as np
from numpy.typing import NDArray

from harness.cost.devices import DeviceProfile, OperatingPoint
from harness.cost.links import shannon_tx_w
from harness.scheduling.channels import Channel

Floats = NDArray[np.float64]
LN2 = float(np.log(2.0))
TIGHT = 1e-8
"""Relative share of the budget that a solution may leave unused."""
CHUNK = 1 << 14
"""Clients worked on at a time where there are many: columns that stay in the second-level cache."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What each client has to do in a round, and what limits it. Columns [..., K]."""

    cycles: Floats
    """W."""
    down_s: Floats
    """Seconds of the download."""
    up_bits: Floats
    """S."""
    up_s: Floats
    """Seconds of the upload at full rate: the least tau."""
    down_j: Floats
    """Energy of receiving."""
    kappa: Floats
    max_hz: Floats
    tx_w: Floats
    """Highest transmit power, and the one of a fixed link."""
    floor_w: Floats | None
    """s2 / h: transmit power over snr; None on fixed links."""
    bandwidth_hz: Floats | None
    """B; None on fixed links."""

    @property
    def least_s(self) -> Floats:
        """[..., K] seconds at full speed."""
        return self.down_s + self.cycles / self.max_hz + self.up_s

    def part(self, clients: slice | NDArray[np.int64]) -> "Demand":
        """Columns of some clients."""
        cut = [None if c is None else c[..., clients] for c in self.columns()]
        return Demand(*cast("list[Floats]", cut))

    def columns(self) -> list[Floats | None]:
        """Every field, in order."""
        return [getattr(self, f.name) for f in fields(self)]


def demand_of(
    devices: DeviceProfile,
    channel: Channel | None,
    *,
    flops: Floats,
    num_bytes: Floats,
    down_bytes: Floats | None = None,
) -> Demand:
    """FLOPs [..., K] and bytes up [..., K] on devices [K]; bytes down [..., K] where they are others."""
    bits = 8.0 * num_bytes
    down_s = (bits if down_bytes is None else 8.0 * down_bytes) / devices.rx_bps
    shape = np.broadcast_shapes(np.shape(flops), np.shape(bits))
    columns: list[Floats | None] = [
        flops / devices.flops_per_cycle,
        down_s,
        bits,
        bits / devices.tx_bps,
        devices.rx_w * down_s,
        *(np.asarray(column) for column in (devices.kappa, devices.max_frequency_hz, devices.tx_w)),
        None if channel is None else channel.noise_w / channel.gain,
        None if channel is None else channel.bandwidth_hz,
    ]
    spread = [None if c is None else np.broadcast_to(c, shape) for c in columns]
    return Demand(*cast("list[Floats]", spread))


def send_seconds(demand: Demand, duration_s: Floats, *, start: Floats | None = None) -> Floats:
    """tau [..., K] that spends least in a round of `duration_s` [..., 1], near `start` where given.

    Newton's iteration on log phi' over log tau, kept inside a bracket; the full-rate tau where a client
    cannot make it anyway.
    """
    low = demand.up_s
    if demand.floor_w is None or demand.bandwidth_hz is None:
        return low
    window = duration_s - demand.down_s
    high = np.maximum(window - demand.cycles / demand.max_hz, low)
    tau = low.copy() if start is None else np.clip(start, low, high)
    bits = demand.up_bits / demand.bandwidth_hz * LN2
    weight = 2.0 * demand.kappa * demand.cycles**3 / demand.floor_w
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for _ in range(60):
            u, rest = bits / tau, window - tau
            grown = np.exp(u)
            # e^u (u - 1) + 1 without cancelling for small u
            gain = np.where(u < 1e-3, u * u * (0.5 + u / 3), grown * (u - 1) + 1)
            h = np.log(weight / (rest * rest * rest * gain))
            low, high = np.where(h < 0, tau, low), np.where(h < 0, high, tau)
            slope = 3 * tau / rest + u * u * grown / gain
            guess = tau * np.exp(-h / slope)
            # Where nothing is computed (h = -inf) or numbers run out, halve the bracket instead.
            inside = (guess > low) & (guess < high)
            step = np.where(inside, guess, np.where(np.abs(h) <= 1e-12, tau, np.sqrt(low * high)))
            moved = np.max(np.abs(step - tau) / np.maximum(tau, 1e-300), initial=0.0)
            tau = step
            if moved < 1e-9:
                break
    return tau


def joules(demand: Demand, duration_s: Floats, tau: Floats) -> Floats:
    """[..., K] energy of each client in a round of `duration_s` [..., 1] in which it sends for `tau`."""
    rest = duration_s - demand.down_s - tau
    compute = np.where(demand.cycles > 0, demand.kappa * demand.cycles**3 / np.square(rest), 0.0)
    return compute + _tx_w(demand, tau) * tau + demand.down_j


def shortest(demand: Demand, *, power_w: float, max_s: float = np.inf) -> Floats:
    """[...] duration of the shortest round on a power budget; inf where none of at most `max_s` meets it.

    Regula falsi (Illinois) on log power over log duration, which is nearly a straight line; each evaluation
    starts from the sending times of the one before. The result lies on the side that keeps the budget.
    """
    low = demand.least_s.max(axis=-1, initial=0.0)
    excess = _Excess(demand, power_w)
    a, ya = np.log(np.maximum(low, 1e-300)), excess(low)
    b, yb = _bracket(excess, a, ya, limit=np.log(max_s))
    lost = (yb > 0) | (low > max_s)
    side = np.zeros(a.shape, dtype=np.int64)
    for _ in range(100):
        done = (ya <= 0) | (yb >= -TIGHT) | lost | (b - a < 1e-13)
        if done.all():
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            c = b - yb * (b - a) / (yb - ya) + TIGHT / 8
        c = np.where((c > a) & (c < b), c, (a + b) / 2)
        yc = excess(np.exp(np.where(done, b, c)))
        over = (yc > 0) & ~done
        under = (yc <= 0) & ~done
        a, b = np.where(over, c, a), np.where(under, c, b)
        ya = np.where(over, yc, np.where(under & (side == 1), ya / 2, ya))
        yb = np.where(under, yc, np.where(over & (side == -1), yb / 2, yb))
        side = np.where(over, -1, np.where(under, 1, side))
    return np.where(lost, np.inf, np.where(ya <= 0, low, np.exp(b)))


class _Excess:
    """log(power / budget) at a duration: positive where the budget is exceeded."""

    def __init__(self, demand: Demand, power_w: float) -> None:
        many = demand.cycles.ndim == 1 and demand.cycles.shape[0] > CHUNK
        ends = range(0, demand.cycles.shape[-1], CHUNK) if many else (0,)
        spans = [slice(start, start + CHUNK) for start in ends] if many else [slice(None)]
        self.parts = [demand.part(span) for span in spans]
        self.start: list[Floats | None] = [None] * len(spans)
        self.power_w = power_w

    def __call__(self, duration_s: Floats) -> Floats:
        at = np.asarray(duration_s)[..., None]
        total = np.zeros(np.shape(duration_s))
        for index, part in enumerate(self.parts):
            tau = self.start[index] = send_seconds(part, at, start=self.start[index])
            with np.errstate(divide="ignore", invalid="ignore"):
                total = total + np.nan_to_num(joules(part, at, tau), posinf=np.inf).sum(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Floats = np.log(np.maximum(total, 1e-300) / np.maximum(duration_s, 1e-300) / self.power_w)
        return found


def _bracket(excess: _Excess, a: Floats, ya: Floats, *, limit: float) -> tuple[Floats, Floats]:
    """A duration that keeps the budget, or the longest one allowed. Power falls with about T^-3."""
    b, yb = a.copy(), ya.copy()
    for _ in range(60):
        short = (yb > 0) & (b < limit)
        if not short.any():
            break
        b = np.where(short, np.minimum(b + np.maximum(yb / 2.5, 0.05), limit), b)
        yb = np.where(short, excess(np.exp(b)), yb)
    return b, yb


def points_of(demand: Demand, devices: DeviceProfile, duration_s: float) -> OperatingPoint:
    """Clocks and rates [K] with which everyone is done after `duration_s`, within its device's limits."""
    at = np.asarray([duration_s])
    tau = send_seconds(demand, at)
    with np.errstate(divide="ignore", invalid="ignore"):
        hz = demand.cycles / (at - demand.down_s - tau)
        hz = np.where((demand.cycles > 0) & (hz > 0), np.minimum(hz, demand.max_hz), demand.max_hz)
        bps = np.minimum(np.where(tau > 0, demand.up_bits / tau, np.inf), devices.tx_bps)
    shape = demand.cycles.shape
    rx_bps = np.broadcast_to(np.asarray(devices.rx_bps, np.float64), shape)
    return OperatingPoint(frequency_hz=hz, tx_bps=bps, rx_bps=rx_bps, tx_w=_tx_w(demand, tau))


def _tx_w(demand: Demand, tau: Floats) -> Floats:
    if demand.floor_w is None or demand.bandwidth_hz is None:
        return demand.tx_w
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = shannon_tx_w(demand.up_bits / tau, 1.0, demand.bandwidth_hz, demand.floor_w)
    found: Floats = np.where(tau <= demand.up_s, demand.tx_w, np.minimum(needed, demand.tx_w))
    return found
