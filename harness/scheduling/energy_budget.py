"""MFL's policies: who gets which submodel, at which clock and rate, on a power budget.

A RECONSTRUCTION of the scheduler of Yu, Li, IEEE Network 2021 (module-based federated learning with
neural-structure-aware resource management), which prints no usable formulas:

    maximise sum_j AGI_j / T  subject to  sum_j e_j / T <= P,  f_j <= f_max,  p_j <= p_max,  T <= max_round_s

AGI ("aggregate gradient information"), from a layer's kernel positions times output channels k_l^2 n_l and
the D_j examples of a client: a (prod_l k_l^2 n_l)^beta ln(1 + D_j), or [b_0 + sum_l b_l ln(k_l^2 n_l)] ln(1 +
D_j). The second form makes the smallest submodel always win on MFL's CNN: the largest has 1.11 of its AGI at
3.85 times its work.

Submodels sorted by work are paired with clients sorted by their least time for the largest one; then the
shortest round on the budget gives T, clocks and rates (harness/scheduling/resources.py). `energy_budget` does
so for every mix in which each submodel gets a multiple of its instances (all of them up to 64 clients, on a
refined grid over an even sample of the sorted clients above) and keeps the best; `fixed_mix` is told the mix;
`random_mix` deals it out by lot. Not in the paper: a client whose memory or battery does not carry its
submodel gets the next smaller one, and none where no submodel fits.

Shape letters: K clients, S submodels, the one with most work first, M mixes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.config import SchedulerConfig, require
from harness.cost.devices import OperatingPoint
from harness.cost.submodel import SubmodelProfile
from harness.scheduling import mixes
from harness.scheduling.plan import RoundPlan
from harness.scheduling.problem import Floats, Ints, Problem, agi, drive, infeasible, paired
from harness.scheduling.resources import shortest
from harness.scheduling.states import DeviceStates
from harness.types import SubmodelId

ENUMERATED_UP_TO = 64
"""Clients for which every mix is compared."""
SAMPLE = 256
"""Sorted clients, evenly spaced, that stand for a larger fleet while mixes are compared."""


Choose = Callable[[Problem, Ints, Ints], Ints]
"""A problem, its rows in pairing order and the largest kind each may get [K] -> the kind each gets [K]."""


def energy_budget(
    round: int,
    states: DeviceStates,
    submodels: Mapping[SubmodelId, SubmodelProfile],
    cfg: SchedulerConfig,
    rng: np.random.Generator,
) -> RoundPlan:
    """MFL: the mix, clocks and rates with the most gradient information per second on a power budget."""
    require(cfg.power_budget_w is not None, "scheduler.policy=energy_budget needs scheduler.power_budget_w")

    def choose(problem: Problem, order: Ints, most: Ints) -> Ints:
        return paired(search(problem, order, most, cfg).counts, order, most)

    return _plan(round, states, submodels, cfg, rng, choose)


def fixed_mix(
    round: int,
    states: DeviceStates,
    submodels: Mapping[SubmodelId, SubmodelProfile],
    cfg: SchedulerConfig,
    rng: np.random.Generator,
) -> RoundPlan:
    """MFL with a given mix: the fastest clients get the largest submodels; clocks and rates fit."""
    mixes.check_mix(cfg.mix, list(submodels), cohort=cfg.cohort_size or len(states.fleet))

    def choose(problem: Problem, order: Ints, most: Ints) -> Ints:
        names = [kind.name for kind in problem.kinds]
        return paired(mixes.counts_of(cfg.mix, names, clients=len(order)), order, most)

    return _plan(round, states, submodels, cfg, rng, choose)


def random_mix(
    round: int,
    states: DeviceStates,
    submodels: Mapping[SubmodelId, SubmodelProfile],
    cfg: SchedulerConfig,
    rng: np.random.Generator,
) -> RoundPlan:
    """The given mix dealt out by lot (without one, every submodel is as likely); clocks and rates fit."""
    if cfg.mix:
        mixes.check_mix(cfg.mix, list(submodels), cohort=cfg.cohort_size or len(states.fleet))

    def choose(problem: Problem, order: Ints, most: Ints) -> Ints:
        names = [kind.name for kind in problem.kinds]
        mix = cfg.mix or dict.fromkeys(names, 1.0 / len(names))
        counts = mixes.counts_of(mix, names, clients=len(order))
        return paired(counts, np.random.default_rng(lot).permutation(order), most)

    lot = int(rng.integers(2**63))
    return _plan(round, states, submodels, cfg, rng, choose)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search over mixes ended with."""

    counts: Ints
    """[S] of the best mix."""
    tried: int
    """Mixes compared."""


def search(problem: Problem, order: Ints, most: Ints, cfg: SchedulerConfig) -> Found:
    """The mix with the largest sum of AGI over T. Raises ConfigError where none fits into max_round_s."""
    n, multiples = len(order), problem.multiples
    every = (
        mixes.all_mixes(n, multiples, most=cfg.max_mixes)
        if n <= ENUMERATED_UP_TO or len(multiples) == 1
        else None
    )
    sample = order if n <= SAMPLE else order[(np.arange(SAMPLE) * n + n // 2) // SAMPLE]
    compare = _Comparison(problem, sample, most, cfg, share=len(sample) / n)
    if every is not None:
        return Found(every[compare.best(every.astype(np.float64) / n)], tried=len(every))
    shares, step = mixes.grid(len(multiples), most=min(cfg.max_mixes, 165))
    tried = len(shares)
    best = shares[compare.best(shares)]
    while step * n > max(multiples) and step > 1 / (2 * SAMPLE) and tried < cfg.max_mixes:
        step /= 2
        near = mixes.around(best, step)
        best, tried = near[compare.best(near)], tried + len(near) - 1
    return Found(mixes.whole(best[None], n, multiples)[0], tried=tried)


class _Comparison:
    """Mixes as shares [M, S], compared on some clients that stand for all."""

    def __init__(
        self, problem: Problem, sample: Ints, most: Ints, cfg: SchedulerConfig, *, share: float
    ) -> None:
        self.cfg, self.share = cfg, share
        self.sample = problem.rows(sample)
        self.most = most[sample]
        self.information = agi(self.sample, cfg)

    def best(self, shares: Floats) -> int:
        """Row of the best mix, the first of equals. Raises ConfigError where none is feasible."""
        found = [self._utility(shares[start : start + 512]) for start in range(0, len(shares), 512)]
        utility, seconds = (np.concatenate(column) for column in zip(*found, strict=True))
        if not np.isfinite(seconds).any():
            counts = mixes.whole(shares, round(len(self.sample) / self.share), self.sample.multiples)
            raise infeasible(self.sample, counts, self._limitless(shares), self.cfg)
        return int(np.argmax(utility))

    def _kinds(self, shares: Floats) -> Ints:
        ends = np.cumsum(shares, axis=1) * len(self.sample)
        place = np.arange(len(self.sample)) + 0.5
        laid: Ints = (place[None, :, None] > ends[:, None, :-1]).sum(axis=-1)
        return np.maximum(laid, self.most)

    def _seconds(self, kind: Ints, max_s: float) -> Floats:
        assert self.cfg.power_budget_w is not None
        power_w = self.cfg.power_budget_w * self.share
        return shortest(self.sample.demand(kind), power_w=power_w, max_s=max_s)

    def _utility(self, shares: Floats) -> tuple[Floats, Floats]:
        kind = self._kinds(shares)
        seconds = self._seconds(kind, self.cfg.max_round_s or np.inf)
        return self.information[kind, np.arange(len(self.sample))].sum(axis=1) / seconds, seconds

    def _limitless(self, shares: Floats) -> Floats:
        return self._seconds(self._kinds(shares), np.inf)


def _plan(
    round: int,
    states: DeviceStates,
    submodels: Mapping[SubmodelId, SubmodelProfile],
    cfg: SchedulerConfig,
    rng: np.random.Generator,
    choose: Choose,
) -> RoundPlan:
    """Draw a cohort, assign, set clocks and rates."""
    present = states.present()
    size = min(cfg.cohort_size or len(present), len(present))
    drawn = np.sort(present[rng.choice(len(present), size=size, replace=False)])
    fails = rng.random(size) < cfg.failure_probability
    problem = Problem(states, submodels, drawn)
    kind, points = _settle(problem, cfg, choose)
    none = len(problem.kinds)
    reasons = {
        "memory": int((problem.fits_memory() == none).sum()),
        "battery": int(((problem.fits_memory() < none) & (kind == none)).sum()),
    }
    names = list(submodels)
    place = np.array([names.index(k.name) for k in problem.kinds], dtype=np.int64)
    active = kind < none
    return RoundPlan(
        round=round,
        clients=drawn[active],
        submodels=tuple(names),
        submodel_index=place[kind[active]],
        points=points,
        fails=fails[active],
        deadline_s=cfg.deadline_s,
        skipped=states.absent() | {reason: n for reason, n in reasons.items() if n},
    )


def _settle(problem: Problem, cfg: SchedulerConfig, choose: Choose) -> tuple[Ints, OperatingPoint]:
    """Kinds [K] (S: none) and the points of those that get one.

    Whoever has no room or charge for its submodel gets the next smaller one, until everyone's plan holds.
    """
    none = len(problem.kinds)
    most = problem.fits_memory()
    order = problem.order()
    while True:
        rows = order[most[order] < none]
        kind = choose(problem, rows, most) if len(rows) else np.full(len(problem), none)
        active = np.flatnonzero(kind < none)
        part = problem.rows(active)
        points, spent = drive(part, kind[active], cfg)
        dry = active[spent > part.battery_j]
        if not len(dry):
            return kind, points
        most[dry] = kind[dry] + 1
