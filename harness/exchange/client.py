"""A client, and `invoke`: the one door through which anything reaches it and leaves it."""

import time
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import torch

from harness.cost.devices import DeviceProfile, OperatingPoint, Work, price
from harness.data.task import Shard
from harness.exchange.compression import Compressor, compress
from harness.exchange.payloads import Payload, Weights
from harness.learning.seeding import derive, seed_torch, torch_generator
from harness.learning.workplace import Workplace
from harness.types import ClientId, Phase, Status, SubmodelId

CfgT = TypeVar("CfgT")


@dataclass(frozen=True, slots=True)
class Request:
    """One call of one endpoint at one client, with all that decides its outcome and its price."""

    client: ClientId
    endpoint: str
    """Name of the method called."""
    submodel: SubmodelId
    round: int
    sequence: int
    """How many exchanges this client had before in this round."""
    phase: Phase
    device: DeviceProfile
    point: OperatingPoint
    fails: bool
    """The reply gets lost (planned)."""
    elapsed_s: float
    """Simulated seconds from the round's start at which this exchange begins."""
    deadline_s: float | None
    """Seconds from the round's start (without a barrier: its own) after which the reply is dropped."""
    version: str | None
    """Name of the state this client goes on from; None if it has none."""
    commit: str | None = None
    """Of an exchange without a barrier: name under which the state after it is kept, at once."""
    instance: SubmodelId | None = None
    """Which block of the weights its submodel is this time; None where it has but one."""

    @property
    def wants(self) -> SubmodelId:
        """Name of the payload that a reduce sends it."""
        return self.instance or self.submodel


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an exchange took, measured at the door, and what became of the reply."""

    request: Request
    work: Work
    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the client logged; diagnostics, uncharged."""
    wall_s: float = 0.0
    """Real seconds (never compared)."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A client's answer and its receipt."""

    receipt: Receipt
    payload: Payload

    def copied(self) -> "Reply":
        """A reply that shares no memory with this one."""
        return Reply(self.receipt, self.payload.copied())


class Client(ABC, Generic[CfgT]):
    """One participant. Every public method taking and returning a Payload is an endpoint.

    A client object may be dropped after any exchange and built anew for the next one, in another process:
    what must survive goes through `state_dict` and `load_state_dict` (tensors and plain values only), and
    `stateful` must then be True.
    """

    stateful: ClassVar[bool] = False
    attached: ClassVar[bool] = False
    """A worker keeps it in memory while it serves others: for few clients that are called batch by batch."""
    steady: ClassVar[bool] = False
    """An endpoint's work follows from its payload's shapes: the end of what is sent can be foreseen."""

    def __init__(self, client_id: ClientId, cfg: CfgT, shard: Shard, place: Workplace) -> None:
        self.client_id = client_id
        self.cfg = cfg
        self.shard = shard
        self.place = place
        self.round = -1
        self.metrics: dict[str, float] = {}
        self.memories: dict[str, dict[str, torch.Tensor]] = {}
        """What compression left unsent, by endpoint and network: kept like the client's own state."""

    def state_dict(self) -> dict[str, Any]:
        """What the client keeps between exchanges."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that `state_dict` gave."""

    def log(self, name: str, value: float) -> None:
        """Report a diagnostic; the round's record holds its mean over clients, weighted by examples."""
        self.metrics[name] = value

    def generator(self, purpose: str) -> torch.Generator:
        """Randomness of this client, this round, for this purpose."""
        return torch_generator(self.place.seed, round=self.round, client=self.client_id, purpose=purpose)


MEMORIES = "compression/memories"
"""Key of what compression left unsent, beside a client's own state."""


def keep(client: Client[Any]) -> dict[str, Any]:
    """All that a client keeps between exchanges."""
    return {**client.state_dict(), **({MEMORIES: client.memories} if client.memories else {})}


def take_up(client: Client[Any], state: Mapping[str, Any]) -> None:
    """Give a new client what `keep` gave."""
    client.memories = {name: dict(left) for name, left in state.get(MEMORIES, {}).items()}
    client.load_state_dict({key: value for key, value in state.items() if key != MEMORIES})


def invoke(
    client: Client[Any], request: Request, down: Payload, compressor: Compressor | None = None
) -> Reply:
    """Let `client` answer one request: copied in, metered, compressed, checked.

    Raises TypeError where the endpoint does not return a Payload.
    """
    started = time.perf_counter()
    client.round, client.metrics = request.round, {}
    place = client.place
    place.meter.take()
    word = f"{request.endpoint}/{request.sequence}"
    seed_torch(derive(place.seed, round=request.round, client=request.client, purpose=word))
    endpoint: Callable[[Payload], object] = getattr(client, request.endpoint)
    up = endpoint(down.copied())
    if not isinstance(up, Payload):
        where = f"{type(client).__name__}.{request.endpoint}"
        raise TypeError(f"{where} must return a Payload, got {type(up).__name__}")
    network = f"{request.endpoint}/{down.submodel}" if isinstance(down, Weights) else ""
    moved = compress(
        compressor if request.phase is Phase.TRAIN else None,
        down,
        up,
        network=network,
        generator=lambda: client.generator(f"compression/{word}"),
        memory=client.memories.get(network),
    )
    if moved.memory is not None:
        client.memories[network] = moved.memory
    work = Work(flops=place.meter.take(), tx_bytes=moved.tx_bytes, rx_bytes=moved.rx_bytes)
    receipt = Receipt(
        request=request,
        work=work,
        status=judge(request, work, moved.up),
        metrics=client.metrics,
        wall_s=time.perf_counter() - started,
    )
    return Reply(receipt=receipt, payload=moved.up)


def judge(request: Request, work: Work, up: Payload) -> Status:
    """Whether the reply counts: lost (planned), too late, not finite, or fine."""
    if request.fails:
        return Status.FAILED
    if request.deadline_s is not None:
        cost = price(work, request.device, request.point)
        start = request.elapsed_s if request.commit is None else 0.0
        # Where nothing comes back, nothing can come too late.
        if up.num_bytes and start + cost.busy_s > request.deadline_s:
            return Status.LATE
    # In an evaluation a value that is not finite is the finding; leaving it out would flatter the rest.
    if request.phase is not Phase.EVAL and not all(is_finite(tensor) for tensor in up.tensors()):
        return Status.REFUSED
    return Status.OK


def is_finite(tensor: torch.Tensor) -> bool:
    """No NaN and no infinity. One pass: the sum of extremes is not finite where any value is not."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))
