"""A method's view of the clients of one round. Every exchange passes here, is priced, and is charged."""

import heapq
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from harness.cost.devices import Cost, DeviceProfile, Work, price, price_idle
from harness.cost.ledger import Entry, Ledger
from harness.data.partition import Partition
from harness.exchange.client import Client, Receipt, Request
from harness.exchange.payloads import Payload
from harness.exchange.transport import Transport
from harness.learning.aggregation import Accumulator
from harness.learning.workplace import Workplace
from harness.scheduling.fleet import Fleet
from harness.scheduling.plan import RoundPlan
from harness.types import SERVER, ClientId, Phase, Status, SubmodelId

C = TypeVar("C", bound=Client[Any])
Down = TypeVar("Down", bound=Payload)
Up = TypeVar("Up", bound=Payload)
AccT = TypeVar("AccT", bound=Accumulator)


@dataclass(frozen=True, slots=True)
class Party:
    """What outlives a round: who can be reached, over what, and where it is booked."""

    client_class: type[Client[Any]]
    partition: Partition
    fleet: Fleet
    server: DeviceProfile
    transport: Transport
    ledger: Ledger
    place: Workplace
    """The server's, whose meter holds the server's work."""
    versions: dict[ClientId, int] = field(default_factory=dict)
    """Round at whose end each stateful client's state was last committed."""


class Cohort(Generic[C]):
    """The clients planned for a round, reached through typed endpoints, on a simulated clock.

    Only the train phase moves the clock: setup and evaluation are charged under their own names.
    """

    def __init__(self, plan: RoundPlan, party: Party, *, now: float) -> None:
        self.plan = plan
        self.in_flight: set[ClientId] = set()
        """Clients whose reply was not received yet."""
        self.receipts: list[Receipt] = []
        self._party = party
        self._started = now
        # Seconds since the round began, so that its cost does not depend on when it began.
        self._elapsed = 0.0
        self._phase = Phase.TRAIN
        self._sequence: dict[ClientId, int] = {}
        self._free_at: dict[ClientId, float] = {}
        self._busy_s: dict[ClientId, float] = {}
        self._server_busy_s = 0.0
        self._sent: list[tuple[Request, Payload]] = []
        self._arriving: list[tuple[float, ClientId, Payload | None]] = []

    @property
    def now(self) -> float:
        """Simulated seconds since the run began."""
        return self._started + self._elapsed

    @property
    def clients(self) -> list[ClientId]:
        """Ids in ascending order."""
        return list(self.plan)

    @property
    def num_examples(self) -> int:
        """Training examples of the whole cohort: what bounds the weights of a sum over it."""
        return int(self._party.partition.sizes[self.plan.clients].sum())

    @property
    def touched(self) -> list[ClientId]:
        """Clients that took part in any exchange so far, ascending."""
        return sorted(self._sequence)

    def submodel(self, client: ClientId) -> SubmodelId:
        """What the scheduler assigned to a client."""
        return self.plan[client].submodel

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Book what happens inside under another phase."""
        self.settle_server()
        before, self._phase = self._phase, phase
        yield
        self.settle_server()
        self._phase = before

    def call(self, endpoint: Callable[[C, Down], Up], down: Mapping[ClientId, Down]) -> dict[ClientId, Up]:
        """Ask each named client, wait for all. Late, lost, refused replies are left out. O(cohort) memory."""
        self.settle_server()
        requests = [self._request(client, endpoint) for client in sorted(down)]
        replies = self._party.transport.call(requests, [down[r.client] for r in requests])
        self._barrier([reply.receipt for reply in replies])
        accepted = (r for r in replies if r.receipt.status is Status.OK)
        return {r.receipt.request.client: r.payload for r in accepted}  # type: ignore[misc]

    def broadcast(self, endpoint: Callable[[C, Down], Up], down: Down) -> dict[ClientId, Up]:
        """Send everyone the same payload and wait for all."""
        return self.call(endpoint, dict.fromkeys(self.clients, down))

    def reduce(
        self, endpoint: Callable[[C, Down], Up], down: Mapping[SubmodelId, Down], *, into: AccT
    ) -> AccT:
        """Send every client its submodel's payload; sum accepted replies in the actors. O(actors) memory."""
        self.settle_server()
        requests = [self._request(client, endpoint) for client in self.clients]
        receipts = self._party.transport.reduce(requests, down, into)
        self._barrier(receipts)
        return into

    def send(self, client: ClientId, endpoint: Callable[[C, Down], Up], down: Down) -> None:
        """Start an exchange without waiting. Raises ValueError where one is in flight already."""
        self.settle_server()
        self._sent.append((self._request(client, endpoint), down))
        self.in_flight.add(client)

    def receive(self) -> tuple[ClientId, Any]:
        """The reply that comes first in SIMULATED time, ties by id; None for a lost, late or refused one."""
        self.settle_server()
        sent, self._sent = self._sent, []
        replies = self._party.transport.call([r for r, _ in sent], [d for _, d in sent]) if sent else []
        for reply in replies:
            client = reply.receipt.request.client
            finish = self._charge(reply.receipt)
            payload = reply.payload if reply.receipt.status is Status.OK else None
            heapq.heappush(self._arriving, (finish, client, payload))
        if not self._arriving:
            raise ValueError("nothing is in flight; send first")
        finish, client, payload = heapq.heappop(self._arriving)
        self.in_flight.discard(client)
        self._advance(finish)
        return client, payload

    def settle_server(self) -> None:
        """Charge what the server computed since the last exchange, and let the clock run for it."""
        flops = self._party.place.meter.take()
        if not flops:
            return
        server = self._party.server
        cost = price(Work(flops=flops, tx_bytes=0, rx_bytes=0), server, server.full_speed())
        self._party.ledger.charge(
            Entry(
                **self._line(SERVER, "server"),
                flops=flops,
                compute_s=float(cost.compute_s),
                compute_j=float(cost.compute_j),
            )
        )
        if self._phase is Phase.TRAIN:
            self._server_busy_s += float(cost.compute_s)
            self._advance(self._elapsed + float(cost.compute_s))

    def close(self) -> float:
        """End the round: whoever took part pays for waiting. Returns the round's simulated seconds.

        Raises ValueError where a reply was not received: its work would go uncharged.
        """
        if self.in_flight:
            raise ValueError(f"the round ended with exchanges of clients {sorted(self.in_flight)} in flight")
        self.settle_server()
        for client in self.touched:
            waited = self._elapsed - self._busy_s.get(client, 0.0)
            self._charge_idle(client, self._party.fleet[client], waited)
        self._charge_idle(SERVER, self._party.server, self._elapsed - self._server_busy_s)
        return self._elapsed

    def _request(self, client: ClientId, endpoint: Callable[..., Payload]) -> Request:
        name = endpoint.__name__
        if not callable(getattr(self._party.client_class, name, None)):
            raise TypeError(f"{self._party.client_class.__name__} has no endpoint {name}")
        if client in self.in_flight:
            raise ValueError(f"client {client} has an exchange in flight; receive it first")
        assignment = self.plan[client]
        sequence = self._sequence.get(client, 0)
        self._sequence[client] = sequence + 1
        training = self._phase is Phase.TRAIN
        return Request(
            client=client,
            endpoint=name,
            submodel=assignment.submodel,
            round=self.plan.round,
            sequence=sequence,
            phase=self._phase,
            device=self._party.fleet[client],
            point=assignment.point,
            fails=assignment.fails and training,
            elapsed_s=max(self._elapsed, self._free_at.get(client, 0.0)),
            deadline_s=self.plan.deadline_s if training else None,
            version=self._party.versions.get(client),
        )

    def _barrier(self, receipts: list[Receipt]) -> None:
        finishes = [self._charge(receipt) for receipt in receipts]
        self._advance(max(finishes, default=0.0))

    def _advance(self, finish: float) -> None:
        if self._phase is Phase.TRAIN:
            self._elapsed = max(self._elapsed, finish)

    def _charge(self, receipt: Receipt) -> float:
        """Book one exchange; returns when, in this round, the server stops waiting for it."""
        request = receipt.request
        cost = price(receipt.work, request.device, request.point)
        self._party.ledger.charge(entry_of(receipt, cost))
        if request.phase is not Phase.TRAIN:
            return self._elapsed
        self.receipts.append(receipt)
        client = request.client
        finish = request.elapsed_s + float(cost.busy_s)
        self._free_at[client] = finish
        self._busy_s[client] = self._busy_s.get(client, 0.0) + float(cost.busy_s)
        deadline = request.deadline_s
        return finish if deadline is None else min(finish, deadline)

    def _charge_idle(self, client: ClientId, device: DeviceProfile, seconds: float) -> None:
        if seconds > 0:
            line = self._line(client, "wait")
            self._party.ledger.charge(
                Entry(**line, idle_s=seconds, idle_j=float(price_idle(seconds, device)))
            )

    def _line(self, client: ClientId, endpoint: str) -> dict[str, Any]:
        """What is no exchange: the server's work, and waiting."""
        return {
            "round": self.plan.round,
            "phase": str(self._phase),
            "client": int(client),
            "endpoint": endpoint,
            "submodel": "",
            "status": str(Status.OK),
        }


def entry_of(receipt: Receipt, cost: Cost) -> Entry:
    """The ledger's line of one exchange."""
    request, work = receipt.request, receipt.work
    return Entry(
        round=request.round,
        phase=str(request.phase),
        client=int(request.client),
        endpoint=request.endpoint,
        submodel=request.submodel,
        status=str(receipt.status),
        flops=int(work.flops),
        rx_bytes=int(work.rx_bytes),
        tx_bytes=int(work.tx_bytes),
        compute_s=float(cost.compute_s),
        link_s=float(cost.link_s),
        compute_j=float(cost.compute_j),
        link_j=float(cost.link_j),
    )
