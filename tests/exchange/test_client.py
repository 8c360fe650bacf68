"""The door: copied in, metered, judged."""

import math

import pytest
import torch
from local_run import Points, make_place, points
from parrots import C0, C1, Cargo, Parrot, ParrotConfig, cargo, request
from torch import Tensor

from harness.cost.devices import Work
from harness.data.task import Shard
from harness.exchange.client import invoke, is_finite, judge
from harness.exchange.payloads import Empty, Weights
from harness.learning.workplace import Workplace
from harness.types import ClientId, Phase, Status

EXAMPLES = points([[0, 0]], [0])


def parrot(place: Workplace | None = None, client: ClientId = C0) -> Parrot:
    shard = Shard(Points(), EXAMPLES, EXAMPLES.targets)
    return Parrot(client, ParrotConfig(), shard, place or make_place())


def test_work_is_what_was_measured() -> None:
    place = make_place()
    place.meter._pending = 100  # left over by somebody else
    reply = invoke(parrot(place), request(), cargo(5))
    assert reply.receipt.work == Work(flops=2, tx_bytes=1, rx_bytes=5)
    assert reply.receipt.status is Status.OK
    assert reply.receipt.metrics == {"asked": 1}
    assert place.meter.take() == 0


def test_what_the_client_does_to_its_copy_stays_there() -> None:
    down = cargo(3)
    reply = invoke(parrot(), request("echo"), down)
    assert down.values.tolist() == [0, 0, 0]
    assert reply.payload == Cargo(reply.payload.values)  # type: ignore[union-attr]
    assert reply.payload.values.tolist() == [1, 1, 1]  # type: ignore[union-attr]


def test_a_reply_that_is_no_payload_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"^Parrot\.fail must return a Payload, got dict$"):
        invoke(parrot(), request("fail"), Empty())


def test_logged_values_belong_to_one_exchange() -> None:
    client = parrot()
    assert invoke(client, request(), cargo(1)).receipt.metrics == {"asked": 1}
    assert invoke(client, request("echo"), cargo(1)).receipt.metrics == {}


class Gambler(Parrot):
    """Draws from torch's own generator and from its own."""

    def answer(self, down: Cargo) -> Cargo:
        own = torch.rand(1, generator=self.generator("dice"))
        return Cargo(torch.cat([torch.rand(1), own]))


def draws(**changes: object) -> list[float]:
    torch.manual_seed(len(changes))  # whatever happened before
    shard = Shard(Points(), EXAMPLES, EXAMPLES.targets)
    asked = request(**changes)  # type: ignore[arg-type]
    reply = invoke(Gambler(asked.client, ParrotConfig(), shard, make_place()), asked, cargo(1))
    assert isinstance(reply.payload, Cargo)
    values: list[float] = reply.payload.values.tolist()
    return values


def test_randomness_depends_on_round_client_and_exchange_alone() -> None:
    assert draws() == draws()
    assert draws(elapsed_s=3.0) == draws()  # not on the clock
    for changes in ({"round": 5}, {"client": C1}):
        assert all(a != b for a, b in zip(draws(**changes), draws(), strict=True))
    again = draws(sequence=1)
    assert again[0] != draws()[0]  # torch's generator: anew for every exchange
    assert again[1] == draws()[1]  # the client's own: by purpose


# --- judging


def weights(*values: float) -> Weights:
    return Weights(params={"w": torch.tensor(values)})


WORK = Work(flops=2, tx_bytes=3, rx_bytes=5)  # 10 s on a unit device
GOOD, BAD = weights(1.0), weights(1.0, math.nan)


@pytest.mark.parametrize(
    ("changes", "up", "status"),
    [
        ({}, GOOD, Status.OK),
        ({"deadline_s": 10.0}, GOOD, Status.OK),
        ({"deadline_s": 9.9}, GOOD, Status.LATE),
        ({"deadline_s": 12.0, "elapsed_s": 2.0}, GOOD, Status.OK),
        ({"deadline_s": 12.0, "elapsed_s": 2.5}, GOOD, Status.LATE),
        ({"fails": True}, GOOD, Status.FAILED),
        ({"fails": True, "deadline_s": 1.0}, BAD, Status.FAILED),
        ({"deadline_s": 1.0}, BAD, Status.LATE),
        ({}, BAD, Status.REFUSED),
        ({"phase": Phase.SETUP}, BAD, Status.REFUSED),
        ({"phase": Phase.EVAL}, BAD, Status.OK),
    ],
)
def test_lost_comes_before_late_comes_before_refused(
    changes: dict[str, object], up: Weights, status: Status
) -> None:
    assert judge(request(**changes), WORK, up) is status  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tensor", "finite"),
    [
        (torch.tensor([1.0, -2.0]), True),
        (torch.tensor([1.0, math.nan]), False),
        (torch.tensor([math.inf, 0.0]), False),
        (torch.tensor([0.0, -math.inf]), False),
        (torch.tensor([math.inf, -math.inf]), False),
        (torch.tensor([3.4e38, -3.4e38]), True),
        (torch.tensor([1.0, math.nan]).bfloat16(), False),
        (torch.tensor(math.nan), False),
        (torch.zeros(0), True),
        (torch.tensor([2**62]), True),
        (torch.tensor([True]), True),
    ],
    ids=str,
)
def test_finiteness(tensor: Tensor, finite: bool) -> None:
    assert is_finite(tensor) is finite
