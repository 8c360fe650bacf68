"""Policies: pure functions from device states and submodel profiles to a round's plan."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.config import SchedulerConfig, nearest
from harness.cost.submodel import SubmodelProfile
from harness.scheduling.fleet import Fleet
from harness.scheduling.plan import RoundPlan
from harness.types import ConfigError, SubmodelId


@dataclass(frozen=True, slots=True)
class DeviceStates:
    """What the scheduler knows of every device now."""

    fleet: Fleet
    battery_j: NDArray[np.float64]
    """[num_clients] charge left; inf for mains."""


Policy = Callable[
    [int, DeviceStates, Mapping[SubmodelId, SubmodelProfile], SchedulerConfig, np.random.Generator], RoundPlan
]


def uniform(
    round: int,
    states: DeviceStates,
    submodels: Mapping[SubmodelId, SubmodelProfile],
    cfg: SchedulerConfig,
    rng: np.random.Generator,
) -> RoundPlan:
    """A cohort drawn uniformly without replacement; everyone gets the first submodel, at full speed."""
    total = len(states.fleet)
    size = cfg.cohort_size or total
    clients = np.sort(rng.choice(total, size=size, replace=False))
    return RoundPlan(
        round=round,
        clients=clients,
        submodels=tuple(submodels),
        submodel_index=np.zeros(size, dtype=np.int64),
        points=states.fleet.take(clients).full_speed(),
        fails=rng.random(size) < cfg.failure_probability,
        deadline_s=cfg.deadline_s,
    )


POLICIES: dict[str, Policy] = {"uniform": uniform}


def load_policy(name: str) -> Policy:
    """Raises ConfigError for an unknown name."""
    if name not in POLICIES:
        raise ConfigError(f"scheduler.policy: unknown policy {name!r}{nearest(name, list(POLICIES))}")
    return POLICIES[name]
