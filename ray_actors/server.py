"""ServerActor: an Engine in a process of its own."""

import os
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from harness.exchange.worker import Job
from harness.run.engine import Engine
from harness.run.records import Commit
from ray_actors.client import ClientActor
from ray_actors.hire import hire_one
from ray_actors.scheduler import RemoteScheduler
from ray_actors.transport import RayTransport, Spawn


@dataclass(frozen=True, slots=True)
class Layout:
    """What each client actor holds, and how many there may be."""

    num_actors: int
    """Client actors at the start."""
    max_actors: int
    cpus: float
    """Share of the cores one client actor holds."""
    gpus: float
    """Share of a GPU one client actor holds."""
    server_gpus: float = 0.0
    """Share of a GPU the server holds."""


@ray.remote
class ServerActor:
    """Hosts engine and method, and speaks to the client actors."""

    def setup(
        self,
        job: Job,
        job_ref: list[ObjectRef[Job]],
        actors: list[ActorHandle[Any]],
        scheduler: ActorHandle[Any],
        layout: Layout,
        restored: bytes | None,
    ) -> None:
        """Take up a run, from a checkpoint's bytes where given; `job_ref` holds the reference to `job`."""
        transport = RayTransport(
            actors,
            job=job_ref[0],
            spawn=spawner(layout),
            max_actors=layout.max_actors,
            sticky=job.client_class.stateful,
        )
        planner = RemoteScheduler(scheduler, job.cfg, job.partition.sizes)
        self.engine = Engine(job, transport=transport, scheduler=planner, restored=restored)

    def run_round(self, round: int) -> Commit:
        """See Engine.run_round."""
        return self.engine.run_round(round)

    def process_id(self) -> int:
        """Of this actor."""
        return os.getpid()

    def actors(self) -> list[ActorHandle[Any]]:
        """The client actors in use now."""
        transport = self.engine.transport
        assert isinstance(transport, RayTransport)
        return transport.actors


def spawner(layout: Layout) -> Spawn:
    """Starts client actors of this layout."""

    def spawn(count: int, *, if_free: bool) -> list[ActorHandle[Any]]:
        if if_free:
            free = ray.available_resources()  # type: ignore[no-untyped-call]
            count = min(count, int(free.get("CPU", 0.0) / layout.cpus + 1e-6))
            if layout.gpus:
                count = min(count, int(free.get("GPU", 0.0) / layout.gpus + 1e-6))
        # Those a run grows by are beyond what its placement group holds.
        return [
            hire_one(ClientActor, cpus=layout.cpus, gpus=layout.gpus, outside=if_free) for _ in range(count)
        ]

    return spawn
