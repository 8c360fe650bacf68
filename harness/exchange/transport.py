"""How requests reach workers. `LocalTransport` does it in this process; ray_actors has the other one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from harness.exchange.client import Receipt, Reply, Request
from harness.exchange.payloads import Payload
from harness.exchange.worker import Worker
from harness.learning.aggregation import Accumulator
from harness.types import SubmodelId


class WorkerLost(RuntimeError):
    """A process that hosted clients died; the round has to be played again."""


class Transport(Protocol):
    """Carries requests to clients and brings replies back, in the order asked."""

    def begin_round(self, num_clients: int) -> None:
        """Get ready for a cohort of so many clients; may start or stop workers."""

    def call(self, requests: Sequence[Request], down: Sequence[Payload]) -> list[Reply]:
        """Payload i goes to request i; the same object given several times travels once."""

    def reduce(
        self, requests: Sequence[Request], down: Mapping[SubmodelId, Payload], into: Accumulator
    ) -> list[Receipt]:
        """Every client gets its submodel's payload; accepted replies are summed into `into`."""

    def flush(self) -> None:
        """Let every worker write its clients' states."""

    def reset(self) -> None:
        """Make the workers forget this round; replace those that died."""


class LocalTransport:
    """One worker in this process: the same bits as Ray, a debugger's breakpoint away."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    @contextmanager
    def as_worker(self) -> Iterator[None]:
        """Torch threads and random draws of the worker's own, as if this were its process."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.worker.place.threads)
        try:
            with torch.random.fork_rng():
                yield
        finally:
            torch.set_num_threads(threads)

    def begin_round(self, num_clients: int) -> None:
        pass

    def call(self, requests: Sequence[Request], down: Sequence[Payload]) -> list[Reply]:
        # The worker's network is reused by the next client: what leaves it is a copy.
        with self.as_worker():
            return [self.worker.invoke(r, d).copied() for r, d in zip(requests, down, strict=True)]

    def reduce(
        self, requests: Sequence[Request], down: Mapping[SubmodelId, Payload], into: Accumulator
    ) -> list[Receipt]:
        self.worker.open_sum(into)
        with self.as_worker():
            receipts = [self.worker.add(request, down[request.submodel]) for request in requests]
        into.merge(self.worker.close_sum())
        return receipts

    def flush(self) -> None:
        self.worker.flush()

    def reset(self) -> None:
        self.worker.reset()
