"""Where to cut a network between sources and server: FPL's first step, by what `price` says of every cut.

Malandrino, Chiasserini, WoWMoM 2022: identify the layers that can be replicated, and place each. Every layer
below the cut lies at the sources, the junction and all above it at the server; all cuts are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.config import require
from harness.cost.cuts import Cut as Cut
from harness.cost.devices import DeviceProfile, Work, price, price_idle
from harness.cost.pipeline import stages_of, steady

OBJECTIVES = ("time", "energy")


@dataclass(frozen=True, slots=True)
class Placed:
    """A cut and its price, per example of every source."""

    layer: str
    seconds: float
    """Of the slowest source, then of the server."""
    joules: float
    """Of all sources and the server, waiting included."""
    link_bytes: int
    """Over all links, both ways."""


def price_cuts(
    cuts: Sequence[Cut],
    *,
    sources: DeviceProfile,
    server: DeviceProfile,
    sizes: Sequence[int] = (1,),
) -> list[Placed]:
    """The price of every cut, in their order, for sources [V] (columns) and one server, all at full speed.

    `sizes`: examples of each micro-batch of a batch; several overlap, as they do where they are charged.
    """
    return [_price(cut, sources, server, sizes) for cut in cuts]


def best_cut(placed: Sequence[Placed], *, objective: str = "time") -> Placed:
    """The quickest or most frugal one; of equal ones the last, which lies behind the activation.

    Raises ConfigError where there is none, and for another objective.
    """
    require(
        objective in OBJECTIVES, f"method.objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}"
    )
    require(len(placed) > 0, "method.junction=auto: the network has no layer before which it could stand")
    return min(reversed(placed), key=lambda p: p.seconds if objective == "time" else p.joules)


def _price(cut: Cut, sources: DeviceProfile, server: DeviceProfile, sizes: Sequence[int]) -> Placed:
    below = Work(cut.source_flops, tx_bytes=cut.activation_bytes, rx_bytes=cut.activation_bytes)
    there = price(below, sources, sources.full_speed())
    above = price(Work(cut.server_flops, tx_bytes=0, rx_bytes=0), server, server.full_speed())
    busy = np.atleast_1d(np.asarray(there.busy_s, dtype=np.float64))
    seconds = float(busy.max()) + float(above.compute_s)
    if len(sizes) > 1:
        seconds, busy = _overlapped(cut, sources, float(above.compute_s), sizes)
    spent = np.asarray(there.compute_j) + there.link_j + price_idle(seconds - busy, sources)
    idle = price_idle(seconds - float(above.compute_s), server)
    return Placed(
        layer=cut.layer,
        seconds=seconds,
        joules=float(np.sum(spent)) + float(above.compute_j) + float(idle),
        link_bytes=int(np.sum(2 * cut.activation_bytes * np.ones_like(busy, dtype=np.int64))),
    )


def _overlapped(
    cut: Cut, sources: DeviceProfile, server_s: float, sizes: Sequence[int]
) -> tuple[float, NDArray[np.float64]]:
    """Seconds per example of a batch that is cut into micro-batches, and busy ones of each source [V]."""
    batch = sum(sizes)
    count = len(np.atleast_1d(np.asarray(sources.tx_bps)))
    flops, forward, size = (
        np.broadcast_to(np.asarray(each) * batch, count)
        for each in (cut.source_flops, cut.forward_flops, cut.activation_bytes)
    )
    stages = []
    for i in range(count):
        device = sources.row(i)
        work = Work(int(flops[i]), tx_bytes=int(size[i]), rx_bytes=int(size[i]))
        point = device.full_speed()
        stages.append(stages_of(work, ahead_flops=int(forward[i]), device=device, point=point))
    seconds, busy = steady(stages, server_s=server_s * batch, sizes=sizes)
    return seconds / batch, np.array(busy) / batch
