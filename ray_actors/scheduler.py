"""SchedulerActor: a Scheduler in a process of its own, and the handle the engine plans with.

Nothing here imports Lightning, which takes a process seconds to import; so the configuration of the method,
whose module does, stays behind.
"""

import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from harness.config import Config, MethodConfig
from harness.cost.submodel import SubmodelProfile
from harness.cost.work import LocalWork
from harness.scheduling.plan import RoundPlan
from harness.scheduling.scheduler import Scheduler
from harness.types import SubmodelId, WorkerLost
from ray_actors.hire import hire_one


@ray.remote
class SchedulerActor:
    """Hosts the policy and the device states."""

    def setup(self, cfg: Config, sizes: NDArray[np.int64]) -> None:
        """Take up a run whose clients hold so many examples."""
        self.scheduler = Scheduler(cfg, sizes)

    def process_id(self) -> int:
        """Of this actor."""
        return os.getpid()

    def cpu_s(self) -> float:
        """CPU seconds of this process so far."""
        return time.process_time()

    def plan(self, round: int, submodels: Mapping[SubmodelId, SubmodelProfile]) -> RoundPlan:
        """See Scheduler.plan."""
        return self.scheduler.plan(round, submodels)

    def observe(self, clients: NDArray[np.int64], joules: NDArray[np.float64], *, seconds: float) -> None:
        """See Scheduler.observe."""
        self.scheduler.observe(clients, joules, seconds=seconds)

    def state_dict(self) -> dict[str, Any]:
        """See Scheduler.state_dict."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See Scheduler.load_state_dict."""
        self.scheduler.load_state_dict(state)


def planned(cfg: Config) -> Config:
    """What a scheduler has to know of a run."""
    method = cfg.method
    if not isinstance(method, LocalWork):
        return dataclasses.replace(cfg, method=MethodConfig(method.name))
    work = LocalWork(method.name, method.batch_size, method.local_epochs, method.local_steps)
    return dataclasses.replace(cfg, method=work)


class RemoteScheduler:
    """The engine's handle: a dead scheduler is started anew and takes up the round's first state."""

    def __init__(self, actor: ActorHandle[Any], cfg: Config, sizes: NDArray[np.int64]) -> None:
        self.actor = actor
        self.cfg = cfg
        self.sizes = sizes

    def plan(self, round: int, submodels: Mapping[SubmodelId, SubmodelProfile]) -> RoundPlan:
        """Raises WorkerLost where the actor died."""
        plan: RoundPlan = self._ask("plan", round, submodels)
        return plan

    def observe(self, clients: NDArray[np.int64], joules: NDArray[np.float64], *, seconds: float) -> None:
        """Raises WorkerLost where the actor died."""
        self._ask("observe", clients, joules, seconds=seconds)

    def cpu_s(self) -> Mapping[str, float]:
        """Of the actor's process. Raises WorkerLost where it died."""
        return {f"scheduler/{self.actor._actor_id.hex()}": self._ask("cpu_s")}

    def state_dict(self) -> dict[str, Any]:
        """Raises WorkerLost where the actor died."""
        state: dict[str, Any] = self._ask("state_dict")
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore, in a new actor if need be."""
        try:
            ray.get(self.actor.load_state_dict.remote(state))
        except RayActorError:
            self.actor = hire_one(SchedulerActor)
            ray.get(self.actor.setup.remote(planned(self.cfg), self.sizes))
            ray.get(self.actor.load_state_dict.remote(state))

    def _ask(self, name: str, *words: Any, **named: Any) -> Any:
        try:
            return ray.get(getattr(self.actor, name).remote(*words, **named))
        except RayActorError as error:
            raise WorkerLost(f"the scheduler died ({type(error).__name__})") from None
