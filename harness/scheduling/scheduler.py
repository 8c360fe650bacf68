"""The scheduler: a policy and the device states it plans with. The plain class inside the Ray actor."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.config import Config
from harness.cost.submodel import SubmodelProfile
from harness.learning.seeding import numpy_generator
from harness.scheduling.fleet import build_fleet
from harness.scheduling.plan import RoundPlan
from harness.scheduling.policies import DeviceStates, load_policy
from harness.types import SubmodelId


class Scheduler:
    """Plans a round, then learns what it really cost."""

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.policy = load_policy(cfg.scheduler.policy)
        self.fleet = build_fleet(cfg.fleet, num_clients=cfg.partition.num_clients, seed=cfg.run.seed)
        full = np.asarray(self.fleet.devices.battery_j, dtype=np.float64)
        self.battery_j = np.broadcast_to(full, (len(self.fleet),)).copy()

    def plan(self, round: int, submodels: Mapping[SubmodelId, SubmodelProfile]) -> RoundPlan:
        """Who takes part in `round`, with what, at which operating point."""
        rng = numpy_generator(self.cfg.run.seed, round=round, purpose="schedule")
        states = DeviceStates(self.fleet, self.battery_j)
        return self.policy(round, states, submodels, self.cfg.scheduler, rng)

    def observe(self, clients: NDArray[np.int64], joules: NDArray[np.float64]) -> None:
        """Draw what the round cost each client (J) from its battery."""
        np.subtract.at(self.battery_j, clients, joules)

    def state_dict(self) -> dict[str, Any]:
        """Everything that changed since the start."""
        return {"battery_j": torch.from_numpy(self.battery_j.copy())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that `state_dict` gave."""
        self.battery_j = state["battery_j"].numpy().copy()
