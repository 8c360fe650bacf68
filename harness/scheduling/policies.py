"""Policies: pure functions from device states and submodel profiles to a round's plan."""

from collections.abc import Mapping

import numpy as np

from harness.config import SchedulerConfig, nearest, require
from harness.cost.submodel import SubmodelProfile
from harness.scheduling.classes import by_memory, by_share
from harness.scheduling.energy_budget import energy_budget, fixed_mix, random_mix
from harness.scheduling.mixes import check_mix
from harness.scheduling.plan import RoundPlan
from harness.scheduling.states import DeviceStates as DeviceStates
from harness.scheduling.states import Policy
from harness.types import ConfigError, SubmodelId


def uniform(
    round: int,
    states: DeviceStates,
    submodels: Mapping[SubmodelId, SubmodelProfile],
    cfg: SchedulerConfig,
    rng: np.random.Generator,
) -> RoundPlan:
    """A cohort drawn uniformly without replacement; everyone gets the first submodel, at full speed."""
    present = states.present()
    size = min(cfg.cohort_size or len(present), len(present))
    clients = np.sort(present[rng.choice(len(present), size=size, replace=False)])
    return RoundPlan(
        round=round,
        clients=clients,
        submodels=tuple(submodels),
        submodel_index=np.zeros(size, dtype=np.int64),
        points=states.fleet.take(clients).full_speed(),
        fails=rng.random(size) < cfg.failure_probability,
        deadline_s=cfg.deadline_s,
        skipped=states.absent(),
    )


POLICIES: dict[str, Policy] = {
    "uniform": uniform,
    "by_memory": by_memory,
    "by_share": by_share,
    "energy_budget": energy_budget,
    "fixed_mix": fixed_mix,
    "random_mix": random_mix,
}


def check_policy(
    cfg: SchedulerConfig, submodels: Mapping[SubmodelId, SubmodelProfile], *, total: int
) -> None:
    """Raise ConfigError where a policy cannot plan for these submodels and `total` clients; needs no data."""
    if cfg.policy == "energy_budget":
        require(
            cfg.power_budget_w is not None, "scheduler.policy=energy_budget needs scheduler.power_budget_w"
        )
    if cfg.policy == "fixed_mix" or (cfg.policy == "random_mix" and cfg.mix):
        check_mix(cfg.mix, list(submodels), cohort=cfg.cohort_size or total)


def load_policy(name: str) -> Policy:
    """Raises ConfigError for an unknown name."""
    if name not in POLICIES:
        raise ConfigError(f"scheduler.policy: unknown policy {name!r}{nearest(name, list(POLICIES))}")
    return POLICIES[name]
