"""RayRuntime: starts or joins Ray, places the actors, and keeps them warm between runs of one process."""

import importlib
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from harness.config import Config
from harness.exchange.worker import Job
from harness.run.records import Commit
from harness.run.runtime import EngineLost, Running
from harness.types import ConfigError
from ray_actors.client import ClientActor
from ray_actors.hire import hire_one
from ray_actors.scheduler import SchedulerActor, planned
from ray_actors.server import Layout, ServerActor

RESERVE = 0.1
"""Cores left for server and scheduler, which hold no core of their own: they work while clients wait."""
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray where this process is the driver of a submitted job."""
ANSWER_S = 5.0
"""Seconds that a cluster gets to answer at its address."""


@dataclass(frozen=True, slots=True)
class Crew:
    """The actors of a run."""

    layout: Layout
    server: ActorHandle[Any]
    scheduler: ActorHandle[Any]
    clients: list[ActorHandle[Any]]


class RayEngine:
    """The engine in the server actor. The next round is asked for while the last one is written."""

    def __init__(self, server: ActorHandle[Any]) -> None:
        self.server = server
        self._ahead: dict[int, Any] = {}

    def run_round(self, round: int) -> Commit:
        """Raises EngineLost where the server's process died."""
        try:
            commit: Commit = ray.get(self._ask(round))
        except RayActorError as error:
            raise EngineLost(f"the server actor died ({type(error).__name__})") from None
        except RayTaskError as error:
            raise error.cause or error from None
        if not commit.done:
            self._ahead[round + 1] = self._ask(round + 1)
        return commit

    def _ask(self, round: int) -> Any:
        return self._ahead.pop(round, None) or self.server.run_round.remote(round)


class RayRuntime:
    """One Ray connection and one crew, reused by every run with the same layout."""

    def __init__(self, layout: Layout | None = None) -> None:
        """`layout` is what a sweep's trials have in common; by default each run gets its own."""
        self._layout = layout
        self._crew: Crew | None = None
        self._started = False

    def start(self, job: Job, *, restored: bytes | None) -> Running:
        cfg = job.cfg
        self._started = connect(cfg) or self._started
        layout = self._layout or plan_layout(cfg)
        self._crew = self._hire(layout)
        try:
            self._set_up(self._crew, job, restored)
        except RayActorError:
            # Something of the old crew died between runs: a new one, once.
            self._dismiss()
            self._crew = self._hire(layout)
            self._set_up(self._crew, job, restored)
        return RayEngine(self._crew.server)

    def num_client_actors(self) -> int:
        """Client actors of the current run."""
        assert self._crew is not None, "start comes first"
        return len(ray.get(self._crew.server.actors.remote()))

    def process_ids(self) -> list[int]:
        """Of the server, the scheduler and the client actors."""
        assert self._crew is not None, "start comes first"
        crew = self._crew
        return list(ray.get([a.process_id.remote() for a in (crew.server, crew.scheduler, *crew.clients)]))

    def close(self) -> None:
        """End the actors, and Ray where this process started it."""
        self._dismiss()
        if self._started:
            ray.shutdown()
            self._started = False

    def _set_up(self, crew: Crew, job: Job, restored: bytes | None) -> None:
        # The data enter the object store once; every actor of a node reads the same copy.
        job_ref = ray.put(job)
        ray.get(
            [
                crew.scheduler.setup.remote(planned(job.cfg), job.partition.sizes),
                *(actor.setup.remote(job_ref) for actor in crew.clients),
            ]
        )
        words = (job_ref, [job_ref], crew.clients, crew.scheduler, crew.layout, restored)
        try:
            ray.get(crew.server.setup.remote(*words))
        except RayTaskError as error:
            raise error.cause or error from None

    def _hire(self, layout: Layout) -> Crew:
        """The crew of this layout: as it is, with other client actors, or all new."""
        old = self._crew
        if old is not None and old.layout == layout:
            return old
        if old is not None:
            dismiss(self._clients(old))
        return Crew(
            layout=layout,
            server=old.server if old else hire_one(ServerActor, gpus=layout.server_gpus),
            scheduler=old.scheduler if old else hire_one(SchedulerActor),
            clients=[
                hire_one(ClientActor, cpus=layout.cpus, gpus=layout.gpus) for _ in range(layout.num_actors)
            ],
        )

    def _clients(self, crew: Crew) -> list[ActorHandle[Any]]:
        """Those the crew began with and those the transport started since."""
        try:
            return [*crew.clients, *ray.get(crew.server.actors.remote())]
        except RayError:
            return crew.clients  # the server is gone, and what it had started with it

    def _dismiss(self) -> None:
        if self._crew is not None:
            dismiss([*self._clients(self._crew), self._crew.server, self._crew.scheduler])
        self._crew = None


def connect(cfg: Config, *, env: Mapping[str, str] | None = None) -> bool:
    """Join the cluster at runtime.address, or start one on this machine; False where that was done before.

    `env` goes to every worker. Raises ConfigError where no cluster answers at the address.
    """
    if ray.is_initialized():
        return False
    # Workers import the user's own methods and tasks from where this process does.
    paths = os.pathsep.join(dict.fromkeys([os.getcwd(), *filter(None, sys.path)]))
    environment: dict[str, Any] = {"env_vars": {"PYTHONPATH": paths, **(env or {})}}
    if cfg.runtime.address:
        knock(cfg.runtime.address)
        # A Ray job brought its folder along, and may not name code twice.
        shipped = {} if JOB_VARIABLE in os.environ else {"py_modules": shipped_modules(cfg)}
        environment = {**shipped, "env_vars": dict(env or {})}
    # Ray's word that it protects its ports by a token is no warning to a user of ours.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    try:
        ray.init(
            address=cfg.runtime.address or "local",
            include_dashboard=False if not cfg.runtime.address else None,
            log_to_driver=True,
            logging_level=logging.WARNING,
            runtime_env=environment,
        )
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        if not cfg.runtime.address:
            raise
        raise no_cluster(cfg.runtime.address, " ".join(str(error).split())) from None
    return True


def knock(address: str) -> None:
    """Raise ConfigError unless something listens at `host:port`: Ray itself would ask for minutes."""
    if address.startswith("http"):
        raise no_cluster(address, "that is its dashboard; give head:6379 or ray://head:10001")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto`, which Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise no_cluster(address, str(error)) from None


def no_cluster(address: str, reason: str) -> ConfigError:
    """What a user reads where there is no cluster."""
    return ConfigError(
        f"runtime.address={address}: no Ray cluster answers ({reason}); start one (`ray start --head`), or "
        "leave runtime.address out to use this machine"
    )


def dismiss(actors: Sequence[ActorHandle[Any]]) -> None:
    """End actors, dead ones included."""
    for actor in actors:
        ray.kill(actor)


def plan_layout(cfg: Config, *, jobs: int = 1) -> Layout:
    """How many client actors a run has and what each holds, where `jobs` runs share the cluster.

    Raises ConfigError where the cluster lacks the GPUs asked for.
    """
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = total.get("CPU", 1.0) / jobs, total.get("GPU", 0.0) / jobs
    cohort = cfg.scheduler.cohort_size or cfg.partition.num_clients
    per_actor = cfg.runtime.clients_per_actor
    default = -(-cohort // per_actor) if per_actor else max(1, int(cpus) // cfg.runtime.client_threads)
    count = cfg.runtime.min_actors or min(default, cohort)
    most = max(cfg.runtime.max_actors or count, count)
    # More actors than cores share them, so that `clients_per_actor: 1` starts anywhere.
    cores = [node["Resources"].get("CPU", 0.0) / jobs for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    share = min(float(cfg.runtime.client_threads), even_share(cores, count=most))
    if cfg.runtime.gpus_per_actor * count + cfg.runtime.server_gpus > gpus:
        raise ConfigError(
            f"runtime.gpus_per_actor={cfg.runtime.gpus_per_actor} for {count} actors"
            f"{' beside runtime.server_gpus' if cfg.runtime.server_gpus else ''} needs more GPUs than "
            f"the {gpus:g} in this cluster{' for one of its jobs' if jobs > 1 else ''}; lower it or "
            "runtime.min_actors"
        )
    return Layout(
        num_actors=count,
        max_actors=most,
        cpus=share,
        gpus=cfg.runtime.gpus_per_actor,
        server_gpus=cfg.runtime.server_gpus,
    )


def even_share(nodes: Sequence[float], *, count: int) -> float:
    """The largest share of a core with which `count` actors fit `nodes` (cores of each), none across two."""
    free = [max(cores - RESERVE, cores / 2) for cores in nodes if cores > 0] or [1.0 - RESERVE]
    shares = {cores / number for cores in free for number in range(1, count + 1)}
    fitting = (share for share in shares if sum(int(cores / share + 1e-9) for cores in free) >= count)
    return int(1000 * max(fitting)) / 1000


def shipped_modules(cfg: Config) -> list[str]:
    """Packages (folders) and modules (files) that a cluster's nodes need: the harness and the user's code."""
    named = [cfg.method.name, cfg.task.name, cfg.task.model]
    users = {name.split(":")[0].split(".")[0] for name in named if ":" in name}
    packages = [
        importlib.import_module(name) for name in ("harness", "lightning_modules", "ray_actors", *users)
    ]
    files = [Path(str(package.__file__)) for package in packages if package.__file__]
    return [str(file.parent if file.name == "__init__.py" else file) for file in files]
