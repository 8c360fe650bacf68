"""The scheduler: a policy and the device states it plans with. The plain class inside the Ray actor."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.config import Config
from harness.cost.submodel import SubmodelProfile
from harness.cost.work import LocalWork, examples_seen
from harness.learning.seeding import numpy_generator
from harness.scheduling.fleet import build_fleet
from harness.scheduling.plan import RoundPlan
from harness.scheduling.policies import load_policy
from harness.scheduling.rotation import Rotation
from harness.scheduling.states import DeviceStates
from harness.types import SubmodelId


class Scheduler:
    """Plans a round, then learns what it really cost."""

    def __init__(self, cfg: Config, num_examples: NDArray[np.int64] | None = None) -> None:
        """`num_examples` [num_clients] is what each client holds, for policies that weigh its work."""
        self.cfg = cfg
        self.policy = load_policy(cfg.scheduler.policy)
        self.fleet = build_fleet(cfg.fleet, num_clients=cfg.partition.num_clients, seed=cfg.run.seed)
        full = np.asarray(self.fleet.devices.battery_j, dtype=np.float64)
        self.battery_j = np.broadcast_to(full, (len(self.fleet),)).copy()
        self.num_examples = num_examples
        self.rotation = Rotation(len(self.fleet))
        self.now = 0.0
        """Simulated seconds since the run began, as the engine counts them."""
        self._planned: RoundPlan | None = None

    def plan(self, round: int, submodels: Mapping[SubmodelId, SubmodelProfile]) -> RoundPlan:
        """Who takes part in `round`, with what, at which operating point. Waits until anyone is available."""
        rng = numpy_generator(self.cfg.run.seed, round=round, purpose="schedule")
        windows = self.fleet.windows
        wait_s = windows.wait_s(self.now) if windows else 0.0
        plan = self.policy(round, self.states(wait_s), submodels, self.cfg.scheduler, rng)
        self._planned = replace(self.rotation.apply(plan, submodels), wait_s=wait_s)
        return self._planned

    def states(self, wait_s: float) -> DeviceStates:
        """What a policy sees so many seconds from now."""
        windows = self.fleet.windows
        return DeviceStates(
            fleet=self.fleet,
            battery_j=self.battery_j,
            num_examples=self.num_examples,
            examples_seen=self._examples_seen(),
            available=windows.available(self.now + wait_s) if windows else None,
            seed=self.cfg.run.seed,
        )

    def cpu_s(self) -> Mapping[str, float]:
        """CPU seconds of other processes: it has none."""
        return {}

    def observe(
        self, clients: NDArray[np.int64], joules: NDArray[np.float64], *, seconds: float = 0.0
    ) -> None:
        """What the planned round cost: joules of each client, drawn from its battery, and its duration."""
        np.subtract.at(self.battery_j, clients, joules)
        if self._planned is not None:
            self.rotation.advance(self._planned)
            self.now += self._planned.wait_s
        self.now += seconds
        self._planned = None

    def state_dict(self) -> dict[str, Any]:
        """Everything that changed since the start."""
        return {
            "battery_j": torch.from_numpy(self.battery_j.copy()),
            "now": self.now,
            "turns": self.rotation.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that `state_dict` gave."""
        self.battery_j = state["battery_j"].numpy().copy()
        self.now = state["now"]
        self.rotation.load_state_dict(state["turns"])
        self._planned = None

    def _examples_seen(self) -> NDArray[np.int64] | None:
        method = self.cfg.method
        if self.num_examples is None or not isinstance(method, LocalWork):
            return self.num_examples
        return examples_seen(self.num_examples, method)
