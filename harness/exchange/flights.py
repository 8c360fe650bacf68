"""Exchanges without a barrier: under way over the ends of rounds, and taken up again after a crash."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harness.cost.devices import OperatingPoint, Work
from harness.exchange.booking import finish_of
from harness.exchange.client import Receipt, Reply, Request
from harness.exchange.payloads import Payload, pack, unpack
from harness.exchange.transport import Ticket, Transport
from harness.scheduling.fleet import Fleet
from harness.types import ClientId, Phase, SubmodelId


@dataclass(slots=True)
class Flight:
    """One exchange whose reply was not received yet."""

    request: Request
    down: Payload
    round_began_s: float
    """Simulated second at which the round began in which it was sent."""
    predicted: Work | None = None
    """What an equal exchange took, where the client's work is `steady`."""
    ticket: Ticket | None = None
    """None until it is submitted."""
    receipt: Receipt | None = None
    """Once it was waited for; the reply itself stays where it is until it is received."""

    @property
    def work(self) -> Work | None:
        """What it took, as far as it is known."""
        return self.predicted if self.receipt is None else self.receipt.work

    @property
    def key(self) -> tuple[Any, ...]:
        """Steady exchanges with one key do equal work."""
        shapes = tuple((tuple(t.shape), t.dtype) for t in self.down.tensors())
        return self.request.client, self.request.endpoint, self.request.submodel, shapes

    def start(self, now: float) -> float:
        """When it began, in seconds from a round that began at `now`; negative for an earlier round's."""
        return self.round_began_s - now + self.request.elapsed_s

    def finish(self, now: float) -> float:
        """When its reply arrives, in seconds from a round that began at `now`; its work must be known."""
        assert self.work is not None
        return finish_of(self.request, self.work, start=self.start(now))

    def land(self, transport: Transport) -> Reply:
        """Wait for the reply. Raises RuntimeError where a prediction was wrong: the order would be, too."""
        (reply,) = transport.collect([self.ticket])
        work = reply.receipt.work
        if self.predicted is not None and work != self.predicted:
            raise RuntimeError(
                f"client {self.request.client}, {self.request.endpoint}: foresaw {self.predicted}, "
                f"took {work}; a class whose work varies must not be `steady`"
            )
        self.receipt = reply.receipt
        return reply

    def state_dict(self) -> dict[str, Any]:
        """Enough to run it again from the client's last committed state."""
        r = self.request
        return {
            "client": int(r.client),
            "endpoint": r.endpoint,
            "submodel": str(r.submodel),
            "round": r.round,
            "sequence": r.sequence,
            "point": asdict(r.point),
            "fails": r.fails,
            "elapsed_s": r.elapsed_s,
            "deadline_s": r.deadline_s,
            "commit": r.commit,
            "round_began_s": self.round_began_s,
            "down": pack(self.down),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], *, fleet: Fleet, version: str | None) -> "Flight":
        """The exchange of `state_dict`, to be submitted again; `version` is the client's state before it."""
        client = ClientId(state["client"])
        request = Request(
            client=client,
            endpoint=state["endpoint"],
            submodel=SubmodelId(state["submodel"]),
            round=state["round"],
            sequence=state["sequence"],
            phase=Phase.TRAIN,
            device=fleet[client],
            point=OperatingPoint(**state["point"]),
            fails=state["fails"],
            elapsed_s=state["elapsed_s"],
            deadline_s=state["deadline_s"],
            version=version,
            commit=state["commit"],
        )
        return cls(request, unpack(state["down"]), round_began_s=state["round_began_s"])


def foresee(flights: Iterable[Flight], transport: Transport) -> None:
    """Submit what a crash took away, and wait for those whose end is not known."""
    flights = list(flights)
    for flight in flights:
        if flight.ticket is None:
            flight.ticket = transport.submit(flight.request, flight.down)
    for flight in flights:
        if flight.work is None:
            flight.land(transport)
