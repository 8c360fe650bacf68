"""One round's assignment problem: what each submodel asks of each client, and the points that serve it.

Shape letters: K clients, S submodels, the one with most work first, M mixes.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.config import SchedulerConfig, require
from harness.cost.devices import Cost, OperatingPoint, Work, price, price_idle
from harness.cost.submodel import SubmodelProfile
from harness.scheduling.resources import Demand, demand_of, points_of, shortest
from harness.scheduling.states import DeviceStates
from harness.types import ConfigError, SubmodelId

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Problem:
    """One round's clients and submodels as columns."""

    def __init__(
        self, states: DeviceStates, submodels: Mapping[SubmodelId, SubmodelProfile], clients: Ints
    ) -> None:
        assert states.num_examples is not None, "the scheduler was not told the partition"
        assert states.examples_seen is not None, "the scheduler was not told the partition"
        self._states, self._submodels = states, submodels
        self.clients = clients
        self.kinds = sorted(submodels.values(), key=lambda s: -s.flops_train)
        self.devices = states.fleet.take(clients)
        self.channel = states.fleet.channel.take(clients) if states.fleet.channel else None
        self.battery_j = states.battery_j[clients]
        self.examples = states.num_examples[clients]
        self.seen = states.examples_seen[clients]
        self.flops = np.array([kind.flops_train for kind in self.kinds], dtype=np.int64)
        self.up, self.down = np.array([kind.traffic for kind in self.kinds], dtype=np.int64).reshape(-1, 2).T
        self.memory = np.array([kind.train_bytes for kind in self.kinds], dtype=np.float64)

    def __len__(self) -> int:
        return len(self.clients)

    def rows(self, rows: Ints) -> "Problem":
        """The same submodels for some of the clients."""
        return Problem(self._states, self._submodels, self.clients[rows])

    @property
    def multiples(self) -> list[int]:
        """[S] clients that make one set of each submodel; the first takes any number."""
        return [1, *(kind.num_instances for kind in self.kinds[1:])]

    def demand(self, kind: Ints) -> Demand:
        """Of an assignment [..., K] of submodels to clients."""
        flops = (self.flops[kind] * self.seen).astype(np.float64)
        up, down = (column[kind].astype(np.float64) for column in (self.up, self.down))
        return demand_of(self.devices, self.channel, flops=flops, num_bytes=up, down_bytes=down)

    def order(self) -> Ints:
        """[K] rows by their least time for the largest submodel, ties by id."""
        least = self.demand(np.zeros(len(self), dtype=np.int64)).least_s
        return np.argsort(least, kind="stable").astype(np.int64)

    def fits_memory(self) -> Ints:
        """[K] the largest submodel that training has room for; S for none."""
        room = np.broadcast_to(np.asarray(self.devices.memory_bytes, np.float64), (len(self),))
        carries = self.memory[None, :] <= room[:, None]
        return np.where(carries.any(axis=1), carries.argmax(axis=1), len(self.kinds)).astype(np.int64)

    def predict(self, kind: Ints, points: OperatingPoint) -> tuple[Cost, Floats, float]:
        """What the ledger will say: costs [K], joules with waiting [K], seconds."""
        work = Work(self.flops[kind] * self.seen, tx_bytes=self.up[kind], rx_bytes=self.down[kind])
        cost = price(work, self.devices, points)
        busy = np.asarray(cost.busy_s)
        seconds = float(busy.max(initial=0.0))
        idle = np.asarray(price_idle(seconds - busy, self.devices))
        return cost, np.asarray(cost.compute_j) + cost.link_j + idle, seconds


def paired(counts: Ints, order: Ints, most: Ints) -> Ints:
    """[..., K] the kind of each row: counts [..., S] laid along the rows in `order`, capped by `most` [K].

    Rows that are not in `order` get nothing (S).
    """
    ends = np.cumsum(counts, axis=-1)
    place = np.arange(len(order))
    laid = (place[..., :, None] >= ends[..., None, :]).sum(axis=-1)
    kind = np.full((*counts.shape[:-1], len(most)), counts.shape[-1], dtype=np.int64)
    kind[..., order] = np.maximum(laid, most[order])
    return kind


def agi(problem: Problem, cfg: SchedulerConfig) -> Floats:
    """[S, K] aggregate gradient information of each submodel on each client."""
    form = _power if cfg.agi == "power" else _information
    told = np.array([form([math.log(c) for c in kind.capacity], cfg) for kind in problem.kinds])
    return np.outer(told, np.log1p(problem.examples))


def _power(logs: Sequence[float], cfg: SchedulerConfig) -> float:
    return cfg.agi_scale * math.exp(cfg.agi_exponent * sum(logs))


def _information(logs: Sequence[float], cfg: SchedulerConfig) -> float:
    slopes = list(cfg.agi_slopes) or [1.0] * len(logs)
    require(
        len(slopes) == len(logs), f"scheduler.agi_slopes must hold {len(logs)} numbers, got {len(slopes)}"
    )
    return cfg.agi_offset + sum(slope * log for slope, log in zip(slopes, logs, strict=True))


def drive(problem: Problem, kind: Ints, cfg: SchedulerConfig) -> tuple[OperatingPoint, Floats]:
    """Operating points [K] of an assignment [K], and the joules [K] that the ledger will say.

    The shortest round on the budget, or full speed without one. Raises ConfigError where max_round_s is too
    short for it.
    """
    if not len(problem):
        return problem.devices.full_speed(), np.zeros(0)
    if cfg.power_budget_w is None:
        points = problem.devices.full_speed()
        return points, problem.predict(kind, points)[1]
    demand = problem.demand(kind)
    limit = cfg.max_round_s or np.inf
    seconds = float(shortest(demand, power_w=cfg.power_budget_w, max_s=limit))
    if not math.isfinite(seconds):
        needed = shortest(demand, power_w=cfg.power_budget_w)
        counts = np.bincount(kind, minlength=len(problem.kinds))
        raise infeasible(problem, counts[None], needed[None], cfg)
    slack = 1e-12
    while True:
        points = points_of(demand, problem.devices, seconds)
        _, spent, lasts = problem.predict(kind, points)
        # The solver keeps to the budget; rounding in `price` may still be an ulp above it.
        if float(spent.sum()) <= cfg.power_budget_w * lasts:
            return points, spent
        seconds, slack = seconds * (1 + slack), slack * 2


def infeasible(problem: Problem, counts: Ints, seconds: Floats, cfg: SchedulerConfig) -> ConfigError:
    """The error that names the plan [M, S] counts, [M] seconds it needs, that comes nearest."""
    least = int(np.argmin(seconds))
    mix = ", ".join(f"{kind.name}: {n}" for kind, n in zip(problem.kinds, counts[least], strict=True) if n)
    return ConfigError(
        f"scheduler.power_budget_w={cfg.power_budget_w:g}: no plan ends within scheduler.max_round_s="
        f"{cfg.max_round_s:g}; the least feasible one ({{{mix}}}) takes {seconds[least]:.4g} s; raise either"
    )
