"""ClientActor: a Worker in a process of its own."""

import os
import time
from collections.abc import Sequence

import ray

from harness.exchange.client import Receipt, Reply, Request
from harness.exchange.payloads import Payload
from harness.exchange.worker import Job, Worker
from harness.learning.aggregation import Accumulator
from harness.types import SubmodelId


@ray.remote
class ClientActor:
    """Hosts clients, one at a time; holds no state that a committed round needs."""

    def __init__(self) -> None:
        self.worker: Worker | None = None

    def setup(self, job: Job) -> None:
        """Take up a run."""
        self.worker = Worker(job)

    def process_id(self) -> int:
        """Of this actor."""
        return os.getpid()

    def invoke(self, request: Request, down: Payload) -> list[Reply]:
        """One exchange, its reply sent back."""
        return [self._worker.invoke(request, down)]

    def cpu_s(self) -> float:
        """CPU seconds of this process so far."""
        return time.process_time()

    def open_sum(self, empty: Accumulator) -> None:
        """Begin a partial sum."""
        self._worker.open_sum(empty)

    def add(self, requests: Sequence[Request], names: Sequence[SubmodelId], *down: Payload) -> list[Receipt]:
        """Exchanges, one after another, whose replies go into the partial sum; `down` by submodel name."""
        of = dict(zip(names, down, strict=True))
        return [self._worker.add(request, of[request.wants]) for request in requests]

    def close_sum(self) -> Accumulator:
        """The partial sum."""
        return self._worker.close_sum()

    def flush(self) -> None:
        """Write states of stateful clients."""
        self._worker.flush()

    def reset(self) -> None:
        """Forget the round."""
        self._worker.reset()

    @property
    def _worker(self) -> Worker:
        assert self.worker is not None, "setup comes first"
        return self.worker
