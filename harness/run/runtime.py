"""Where an engine lives. `LocalRuntime` keeps it in this process; ray_actors has the other one."""

from typing import Protocol

from harness.exchange.transport import LocalTransport
from harness.exchange.worker import Job, Worker
from harness.run.engine import Engine
from harness.run.records import Commit
from harness.scheduling.scheduler import Scheduler


class EngineLost(RuntimeError):
    """The process that hosted the engine died; the run continues from its last checkpoint."""


class Running(Protocol):
    """A started engine."""

    def run_round(self, round: int) -> Commit:
        """Play one round. Raises EngineLost."""


class Runtime(Protocol):
    """Starts engines."""

    def start(self, job: Job, *, restored: bytes | None) -> Running:
        """Set up a run, from a checkpoint's bytes where given."""

    def close(self) -> None:
        """Give everything back."""


class LocalRuntime:
    """Everything in this process, no Ray."""

    def start(self, job: Job, *, restored: bytes | None) -> Running:
        return Engine(
            job,
            transport=LocalTransport(Worker(job)),
            scheduler=Scheduler(job.cfg, job.partition.sizes),
            restored=restored,
        )

    def close(self) -> None:
        pass
