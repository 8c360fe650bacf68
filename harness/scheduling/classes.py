"""Policies for federations of device classes: each client has one submodel, and every class is sampled alike.

A round draws the same fraction of every class (FDNNC: 10 % of the big and 10 % of the small devices), at
least one of a class that has any. A client's class is decided by its memory, or dealt by shares.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from harness.config import SchedulerConfig, nearest, require
from harness.cost.submodel import SubmodelProfile
from harness.learning.seeding import derive
from harness.scheduling.mixes import apportion
from harness.scheduling.plan import RoundPlan
from harness.scheduling.states import DeviceStates
from harness.types import ConfigError, SubmodelId

NOBODY = -1
"""Class of a client that no submodel suits."""

Ints = NDArray[np.int64]


def by_memory(
    round: int,
    states: DeviceStates,
    submodels: Mapping[SubmodelId, SubmodelProfile],
    cfg: SchedulerConfig,
    rng: np.random.Generator,
) -> RoundPlan:
    """Every client the largest submodel that it can train now; who can train none is skipped.

    Largest by what training it takes (`train_bytes`), held against the device's memory. Raises ConfigError
    where no client can train any.
    """
    names = list(submodels)
    needs = [submodels[name].train_bytes for name in names]
    memory = np.broadcast_to(
        np.asarray(states.fleet.devices.memory_bytes, dtype=np.float64), (len(states.fleet),)
    )
    classes = np.full(len(states.fleet), NOBODY, dtype=np.int64)
    for index in sorted(range(len(names)), key=lambda i: needs[i]):
        classes[memory >= needs[index]] = index
    require(
        bool((classes != NOBODY).any()),
        f"scheduler.policy=by_memory: no client can train the smallest submodel, which takes {min(needs):,} "
        f"bytes (most memory: {memory.max():,.0f}); lower method.batch_size or choose larger fleet.profiles",
    )
    return stratified(round, states, names, cfg, rng, classes=classes, reason="memory")


def by_share(
    round: int,
    states: DeviceStates,
    submodels: Mapping[SubmodelId, SubmodelProfile],
    cfg: SchedulerConfig,
    rng: np.random.Generator,
) -> RoundPlan:
    """Classes dealt once and for all by `scheduler.mix` (shares or counts, normalised) and the run's seed.

    Raises ConfigError for a mix that names no submodel of the method or gives nobody anything.
    """
    names = list(submodels)
    for name in cfg.mix:
        require(name in names, f"scheduler.mix: unknown submodel {name!r}{nearest(name, names)}")
    shares = np.array([cfg.mix.get(name, 0.0) for name in names], dtype=np.float64)
    require(
        shares.sum() > 0 and bool((shares >= 0).all()),
        f"scheduler.mix must hold shares of {', '.join(names)} for policy by_share, got {dict(cfg.mix)}",
    )
    counts = apportion(shares, len(states.fleet))
    deal = np.random.default_rng(derive(states.seed, purpose="classes"))
    classes = deal.permutation(np.repeat(np.arange(len(names), dtype=np.int64), counts))
    return stratified(round, states, names, cfg, rng, classes=classes, reason="class")


def stratified(
    round: int,
    states: DeviceStates,
    names: list[SubmodelId],
    cfg: SchedulerConfig,
    rng: np.random.Generator,
    *,
    classes: Ints,
    reason: str,
) -> RoundPlan:
    """cohort_size / num_clients of every class, at full speed. `classes` [K] index `names`, -1: none."""
    present = states.present()
    able = present[classes[present] != NOBODY]
    skipped = states.absent()
    if len(present) > len(able):
        skipped[reason] = len(present) - len(able)
    if not len(able):
        raise ConfigError(
            f"scheduler.policy: no client that is available in round {round} suits any submodel"
        )
    sizes = np.bincount(classes[able], minlength=len(names))
    wanted = min(cfg.cohort_size or len(states.fleet), len(states.fleet))
    takes = sample_sizes(sizes, fraction=wanted / len(states.fleet))
    drawn = [
        rng.choice(able[classes[able] == index], size=take, replace=False) for index, take in enumerate(takes)
    ]
    clients = np.sort(np.concatenate(drawn))
    return RoundPlan(
        round=round,
        clients=clients,
        submodels=tuple(names),
        submodel_index=classes[clients],
        points=states.fleet.take(clients).full_speed(),
        fails=rng.random(len(clients)) < cfg.failure_probability,
        deadline_s=cfg.deadline_s,
        skipped=skipped,
    )


def sample_sizes(sizes: Ints, *, fraction: float) -> Ints:
    """How many to draw of classes of these sizes: round(fraction * all) in proportion, 1 at least of each."""
    total = int(sizes.sum())
    takes = apportion(sizes.astype(np.float64), max(1, round(fraction * total)))
    return np.maximum(takes, np.minimum(sizes, 1))
