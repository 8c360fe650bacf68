"""How requests reach workers. `LocalTransport` does it in this process; ray_actors has the other one."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol, TypeAlias

import torch

from harness.exchange.client import Receipt, Reply, Request
from harness.exchange.payloads import Payload
from harness.exchange.worker import Worker
from harness.learning.aggregation import Accumulator
from harness.types import SubmodelId

Ticket: TypeAlias = Any
"""What a transport gives for a request that it carries in the background."""


class Transport(Protocol):
    """Carries requests to clients and brings replies back, in the order asked."""

    @property
    def num_workers(self) -> int:
        """Exchanges that can run at one time."""

    def begin_round(self, num_clients: int) -> None:
        """Get ready for a cohort of so many clients; may start or stop workers."""

    def call(self, requests: Sequence[Request], down: Sequence[Payload]) -> list[Reply]:
        """Payload i goes to request i; the same object given several times travels once."""

    def submit(self, request: Request, down: Payload) -> Ticket:
        """Start one exchange in the background."""

    def collect(self, tickets: Sequence[Ticket]) -> list[Reply]:
        """Wait for exchanges that were submitted."""

    def reduce(
        self, requests: Sequence[Request], down: Mapping[SubmodelId, Payload], into: Accumulator
    ) -> list[Receipt]:
        """Every client gets its submodel's payload; accepted replies are summed into `into`."""

    def flush(self) -> None:
        """Let every worker write its clients' states."""

    def cpu_s(self) -> Mapping[str, float]:
        """CPU seconds so far of each worker's process, by its name; none for this process."""

    def reset(self) -> None:
        """Make the workers forget this round; replace those that died."""


def stream(transport: Transport, requests: Sequence[Request], down: Sequence[Payload]) -> Iterator[Reply]:
    """Replies in the order of `requests`, of which few are under way at a time."""
    left = iter(zip(requests, down, strict=True))
    waiting = deque(transport.submit(*each) for each in islice(left, 2 * transport.num_workers))
    while waiting:
        (reply,) = transport.collect([waiting.popleft()])
        yield reply
        waiting.extend(transport.submit(*each) for each in islice(left, 1))


class LocalTransport:
    """One worker in this process: the same bits as Ray, a debugger's breakpoint away."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    @property
    def num_workers(self) -> int:
        return 1

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

    def submit(self, request: Request, down: Payload) -> Ticket:
        (reply,) = self.call([request], [down])
        return reply

    def collect(self, tickets: Sequence[Ticket]) -> list[Reply]:
        return list(tickets)

    def reduce(
        self, requests: Sequence[Request], down: Mapping[SubmodelId, Payload], into: Accumulator
    ) -> list[Receipt]:
        self.worker.open_sum(into)
        with self.as_worker():
            receipts = [self.worker.add(request, down[request.wants]) for request in requests]
        into.merge(self.worker.close_sum())
        return receipts

    def flush(self) -> None:
        self.worker.flush()

    def cpu_s(self) -> Mapping[str, float]:
        return {}

    def reset(self) -> None:
        self.worker.reset()
