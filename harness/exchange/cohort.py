"""A method's view of the clients of one round. Every exchange passes here, is priced, and is charged."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from harness.cost.devices import DeviceProfile, Work
from harness.cost.ledger import Ledger
from harness.cost.pipeline import Split
from harness.data.partition import Partition
from harness.exchange.booking import Booking
from harness.exchange.client import Client, Receipt, Request
from harness.exchange.flights import Flight, foresee
from harness.exchange.payloads import Payload
from harness.exchange.transport import Transport, stream
from harness.learning.aggregation import Accumulator
from harness.learning.workplace import Workplace
from harness.scheduling.fleet import Fleet
from harness.scheduling.plan import RoundPlan
from harness.types import ClientId, Phase, Status, SubmodelId

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
    versions: dict[ClientId, str] = field(default_factory=dict)
    """Name of each stateful client's last committed state."""
    flights: dict[ClientId, Flight] = field(default_factory=dict)
    """Exchanges under way, by client."""
    known_work: dict[tuple[Any, ...], Work] = field(default_factory=dict)
    """What steady exchanges took, by Flight.key; only saves waiting."""
    remembers: bool = False
    """Compression keeps what clients did not send: a state, whatever their class."""

    @property
    def stateful(self) -> bool:
        """Clients have a state that outlives an exchange."""
        return self.client_class.stateful or self.remembers


class Cohort(Generic[C]):
    """The clients planned for a round, reached through typed endpoints, on a simulated clock."""

    def __init__(self, plan: RoundPlan, party: Party, *, now: float, last: bool = False) -> None:
        self.plan = plan
        self.last = last
        """The last round there may be: what is in flight at its end has nobody to receive it."""
        self.replaced: list[tuple[ClientId, str]] = []
        """States that no later exchange starts from."""
        self.parts: Mapping[ClientId, SubmodelId] = {}
        """What clients hold where it is not what the plan says; set by a method."""
        self._party = party
        self._started = now
        self._books = Booking(plan.round, ledger=party.ledger, meter=party.place.meter, server=party.server)
        self._sequence: dict[ClientId, int] = {}
        self._unkept: set[ClientId] = set()

    @property
    def now(self) -> float:
        """Simulated seconds since the run began."""
        return self._started + self._books.elapsed

    @property
    def clients(self) -> list[ClientId]:
        """Ids in ascending order."""
        return list(self.plan)

    @property
    def in_flight(self) -> set[ClientId]:
        """Clients whose reply was not received yet, of this round or an earlier one."""
        return set(self._party.flights)

    @property
    def num_examples(self) -> int:
        """Training examples of the whole cohort: what bounds the weights of a sum over it."""
        return int(self._party.partition.sizes[self.plan.clients].sum())

    @property
    def receipts(self) -> list[Receipt]:
        """Of the train phase so far."""
        return self._books.receipts

    def submodel(self, client: ClientId) -> SubmodelId:
        """What the scheduler assigned to a client."""
        return self.plan[client].submodel

    def phase(self, phase: Phase) -> AbstractContextManager[None]:
        """Book what happens inside under another phase."""
        return self._books.under(phase)

    def call(
        self, endpoint: Callable[[C, Down], Up], down: Mapping[ClientId, Down], *, split: Split | None = None
    ) -> dict[ClientId, Up]:
        """Ask each, wait for all (parts by `split` overlap). Late, lost and refused replies are left out."""
        self._books.settle_server()
        requests = [self._request(client, endpoint) for client in sorted(down)]
        replies = self._party.transport.call(requests, [down[r.client] for r in requests])
        self._settle([reply.receipt for reply in replies], split=split)
        accepted = (r for r in replies if r.receipt.status is Status.OK)
        return {r.receipt.request.client: r.payload for r in accepted}  # type: ignore[misc]

    def each(
        self,
        endpoint: Callable[[C, Down], Up],
        down: Mapping[ClientId, Down],
        *,
        take: Callable[[ClientId, Up], None],
    ) -> None:
        """Like `call`, but hands over each reply, in order of client, and forgets it. O(actors) memory."""
        self._books.settle_server()
        requests = [self._request(client, endpoint) for client in sorted(down)]
        receipts = []
        for reply in stream(self._party.transport, requests, [down[r.client] for r in requests]):
            receipts.append(reply.receipt)
            if reply.receipt.status is Status.OK:
                take(reply.receipt.request.client, reply.payload)  # type: ignore[arg-type]
        self._settle(receipts)

    def broadcast(self, endpoint: Callable[[C, Down], Up], down: Down) -> dict[ClientId, Up]:
        """Send everyone the same payload and wait for all."""
        return self.call(endpoint, dict.fromkeys(self.clients, down))

    def reduce(
        self,
        endpoint: Callable[[C, Down], Up],
        down: Mapping[SubmodelId, Down],
        *,
        into: AccT,
        parts: Mapping[ClientId, SubmodelId] | None = None,
    ) -> AccT:
        """Sum accepted replies in the actors: O(actors). `parts`: whom to ask as what, else the plan's."""
        self._books.settle_server()
        asked = dict.fromkeys(self.clients) if parts is None else parts
        requests = [self._request(client, endpoint, part=asked[client]) for client in sorted(asked)]
        self._settle(self._party.transport.reduce(requests, down, into))
        return into

    def send(self, client: ClientId, endpoint: Callable[[C, Down], Up], down: Down) -> None:
        """Start an exchange without waiting. Raises ValueError where one is in flight already."""
        self._books.settle_server()
        request = self._request(client, endpoint, barrier=False)
        flight = Flight(request, down, round_began_s=self._started)
        if self._party.client_class.steady:
            flight.predicted = self._party.known_work.get(flight.key)
        flight.ticket = self._party.transport.submit(request, down)
        self._party.flights[client] = flight

    def receive(self) -> tuple[ClientId, Any]:
        """The reply that comes first in SIMULATED time, ties by id; None for a lost, late or refused one.

        Waits for that one alone where the ends of all others are foreseen (Client.steady).
        """
        self._books.settle_server()
        flights = self._party.flights
        if not flights:
            raise ValueError("nothing is in flight; send first")
        foresee(self._party.flights.values(), self._party.transport)
        finish, client = min((flight.finish(self._started), client) for client, flight in flights.items())
        flight = flights.pop(client)
        reply = flight.land(self._party.transport)
        receipt = reply.receipt
        self._books.charge(receipt, start=flight.start(self._started))
        self._books.advance(finish)
        self._sequence.setdefault(client, 0)
        self._keep(client, str(receipt.request.commit))
        self._party.known_work[flight.key] = receipt.work
        return client, reply.payload if receipt.status is Status.OK else None

    def close(self) -> float:
        """End the round: whoever took part pays for waiting. Returns the round's simulated seconds.

        What is still in flight goes on in the next round and is charged where its reply arrives.
        """
        self._books.settle_server()
        foresee(self._party.flights.values(), self._party.transport)
        for client, flight in self._party.flights.items():
            start = flight.start(self._started)
            until = min(flight.finish(self._started), self._books.elapsed)
            self._books.occupy(client, start=start, seconds=max(until - start, 0.0))
        present = sorted({*self._sequence, *self._party.flights})
        self._books.charge_waits({client: self._party.fleet[client] for client in present})
        return self._books.elapsed

    def commit(self) -> None:
        """Take the states that clients keep at the round's end for their last ones."""
        for client in sorted(self._unkept):
            self._keep(client, str(self.plan.round))

    def _request(
        self,
        client: ClientId,
        endpoint: Callable[..., Payload],
        *,
        barrier: bool = True,
        part: SubmodelId | None = None,
    ) -> Request:
        name = endpoint.__name__
        if not callable(getattr(self._party.client_class, name, None)):
            raise TypeError(f"{self._party.client_class.__name__} has no endpoint {name}")
        training = self._books.phase is Phase.TRAIN
        # An evaluation reads the state before, which the exchange under way does not change.
        if client in self._party.flights and training:
            raise ValueError(f"client {client} has an exchange in flight; receive it first")
        assignment = self.plan[client]
        part = part or self.parts.get(client)
        sequence = self._sequence.get(client, 0)
        self._sequence[client] = sequence + 1
        kept = self._party.versions.get(client)
        version = str(self.plan.round) if client in self._unkept else kept
        return Request(
            client=client,
            endpoint=name,
            submodel=part or assignment.submodel,
            round=self.plan.round,
            sequence=sequence,
            phase=self._books.phase,
            device=self._party.fleet[client],
            point=assignment.point,
            fails=assignment.fails and training,
            elapsed_s=self._books.free_at(client),
            deadline_s=self.plan.deadline_s if training else None,
            version=version,
            commit=None if barrier else f"{self.plan.round}.{sequence}",
            instance=part or assignment.instance,
        )

    def _settle(self, receipts: Sequence[Receipt], *, split: Split | None = None) -> None:
        self._books.barrier(receipts, split)
        if self._party.stateful:
            self._unkept.update(receipt.request.client for receipt in receipts)

    def _keep(self, client: ClientId, version: str) -> None:
        if not self._party.stateful:
            return
        self._unkept.discard(client)
        before = self._party.versions.get(client)
        if before is not None and before != version:
            self.replaced.append((client, before))
        self._party.versions[client] = version
