"""Everything is charged, on a clock that can be followed by hand.

Client c computes 2, 4, 6 FLOPs and answers with 1, 2, 3 bytes; where 4 bytes go down it is busy for
4 + 2 + 1 = 7, 4 + 4 + 2 = 10, 4 + 6 + 3 = 13 seconds, and burns as many joules.
"""

from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parrots import C0, C1, C2, CLIENTS, SIZES, Aviary, Cargo, Parrot, aviary, cargo, spend

from harness.cost.devices import Work, find_profile
from harness.exchange.client import Client
from harness.exchange.cohort import Cohort
from harness.exchange.payloads import Empty, Payload
from harness.types import SERVER, Phase, SubmodelId

BUSY = {C0: 7.0, C1: 10.0, C2: 13.0}


@pytest.fixture
def birds(tmp_path: Path) -> Aviary:
    return aviary(tmp_path)


def lines(birds: Aviary) -> pd.DataFrame:
    frame, _ = birds.party.ledger.close_round()
    return frame


def idle(frame: pd.DataFrame) -> dict[int, float]:
    waits = frame[frame["endpoint"] == "wait"]
    assert (waits["idle_s"] == waits["idle_j"]).all()  # 1 W
    assert (waits["phase"] == "train").all()
    return dict(zip(waits["client"], waits["idle_s"], strict=True))


# --- barriers


def test_a_barrier_by_hand(birds: Aviary) -> None:
    cohort = birds.cohort(round=3, now=100.0)
    replies = cohort.broadcast(Parrot.answer, cargo(4))
    assert {client: reply.values.numel() for client, reply in replies.items()} == {C0: 1, C1: 2, C2: 3}
    assert cohort.now == 113.0
    assert cohort.close() == 13.0
    frame = lines(birds)
    work = frame[frame["endpoint"] == "answer"]
    assert work["client"].tolist() == [0, 1, 2]
    assert set(work["round"]) == {3}
    assert set(work["submodel"]) == {"full"}
    assert set(work["status"]) == {"ok"}
    assert work["flops"].tolist() == work["compute_s"].tolist() == work["compute_j"].tolist() == [2, 4, 6]
    assert work["rx_bytes"].tolist() == [4, 4, 4]
    assert work["tx_bytes"].tolist() == [1, 2, 3]
    assert work["link_s"].tolist() == work["link_j"].tolist() == [5, 6, 7]
    assert idle(frame) == {0: 6.0, 1: 3.0, SERVER: 13.0}


def test_exchanges_add_up_on_each_clients_own_clock(birds: Aviary) -> None:
    cohort = birds.cohort()
    cohort.call(Parrot.answer, {C0: cargo(4)})  # 0 to 7
    cohort.call(Parrot.answer, {C2: cargo(4)})  # 7 to 20
    cohort.broadcast(Parrot.answer, cargo(4))  # 20 to 33
    assert cohort.now == 33.0
    assert sorted(cohort._sequence) == CLIENTS
    cohort.close()
    assert idle(lines(birds)) == {0: 33 - 14, 1: 33 - 10, 2: 33 - 26, SERVER: 33}


def test_the_server_computes_while_clients_wait(birds: Aviary) -> None:
    cohort = birds.cohort()
    spend(birds.party.place, 8)
    cohort.broadcast(Parrot.answer, cargo(4))
    spend(birds.party.place, 2)
    assert cohort.close() == 8 + 13 + 2
    frame = lines(birds)
    server = frame[frame["endpoint"] == "server"]
    assert set(server["client"]) == {SERVER}
    assert server["flops"].tolist() == server["compute_j"].tolist() == [8, 2]
    assert idle(frame) == {0: 16.0, 1: 13.0, 2: 10.0, SERVER: 13.0}


def test_other_phases_are_charged_apart_and_stop_the_clock(birds: Aviary) -> None:
    cohort = birds.cohort()
    spend(birds.party.place, 2)
    with cohort.phase(Phase.SETUP):
        cohort.call(Parrot.answer, {C0: cargo(4)})
    cohort.broadcast(Parrot.answer, cargo(4))
    assert cohort.close() == 2 + 13
    with cohort.phase(Phase.EVAL):
        cohort.call(Parrot.answer, {C1: cargo(4)})
        spend(birds.party.place, 4)
    assert cohort.now == 15.0
    assert len(cohort.receipts) == 3
    frame = lines(birds)
    flops = frame.groupby(["phase", "client"], observed=True)["flops"].sum().to_dict()
    assert flops == {
        ("train", SERVER): 2,
        ("setup", 0): 2,
        ("train", 0): 2,
        ("train", 1): 4,
        ("train", 2): 6,
        ("eval", 1): 4,
        ("eval", SERVER): 4,
    }
    assert idle(frame) == {0: 8.0, 1: 5.0, 2: 2.0, SERVER: 13.0}


# --- replies that do not count


def test_a_late_reply_is_paid_for_and_dropped(birds: Aviary) -> None:
    cohort = birds.cohort(deadline_s=10.0, now=100.0)
    assert list(cohort.broadcast(Parrot.answer, cargo(4))) == [C0, C1]
    assert cohort.close() == 10.0  # the server waits no longer
    frame = lines(birds)
    work = frame[frame["endpoint"] == "answer"]
    assert work["status"].tolist() == ["ok", "ok", "late"]
    assert work["compute_j"].tolist() == [2, 4, 6]
    assert work["link_j"].tolist() == [5, 6, 7]
    assert idle(frame) == {0: 3.0, SERVER: 10.0}


def test_the_deadline_counts_from_the_rounds_start(birds: Aviary) -> None:
    cohort = birds.cohort(deadline_s=15.0, now=1000.0)
    assert list(cohort.call(Parrot.answer, {C0: cargo(4)})) == [C0]  # until 7
    assert list(cohort.call(Parrot.answer, {C0: cargo(4), C1: cargo(4)})) == [C0]  # until 14, and 17
    assert cohort.call(Parrot.answer, {C0: cargo(4)}) == {}
    assert cohort.close() == 15.0


def test_a_late_client_is_busy_beyond_the_deadline(birds: Aviary) -> None:
    cohort = birds.cohort(deadline_s=10.0)
    cohort.broadcast(Parrot.answer, cargo(4))
    cohort.broadcast(Parrot.answer, cargo(4))
    assert [r.request.elapsed_s for r in cohort.receipts[3:]] == [10.0, 10.0, 13.0]


def test_what_brings_nothing_back_is_never_late(birds: Aviary) -> None:
    cohort = birds.cohort(deadline_s=6.0)
    assert list(cohort.broadcast(Parrot.hear, cargo(7))) == CLIENTS
    assert cohort.now == 7.0


def test_without_a_barrier_a_deadline_counts_from_the_exchanges_own_start(birds: Aviary) -> None:
    cohort = birds.cohort(deadline_s=8.0)
    for _ in range(3):
        cohort.send(C0, Parrot.answer, cargo(4))
        assert cohort.receive()[1] is not None
    assert cohort.now == 21.0


def test_a_lost_reply_is_paid_for_and_waited_for(birds: Aviary) -> None:
    cohort = birds.cohort(fails=(2,))
    assert list(cohort.broadcast(Parrot.answer, cargo(4))) == [C0, C1]
    assert cohort.close() == 13.0
    frame = lines(birds)
    assert frame[frame["client"] == 2]["status"].tolist() == ["failed"]
    assert frame[frame["client"] == 2]["compute_j"].tolist() == [6]


def test_evaluation_knows_neither_deadlines_nor_failures(birds: Aviary) -> None:
    cohort = birds.cohort(fails=(0,), deadline_s=0.5)
    with cohort.phase(Phase.EVAL):
        assert list(cohort.broadcast(Parrot.answer, cargo(4))) == CLIENTS


def test_who_was_not_asked_does_not_pay_for_waiting(birds: Aviary) -> None:
    cohort = birds.cohort()
    cohort.call(Parrot.answer, {C0: cargo(4), C2: cargo(4)})
    cohort.close()
    assert idle(lines(birds)) == {0: 6.0, SERVER: 13.0}


# --- no barrier


def test_replies_arrive_in_simulated_time(birds: Aviary) -> None:
    cohort = birds.cohort()
    for client in reversed(CLIENTS):
        cohort.send(client, Parrot.answer, cargo(4))
    assert cohort.in_flight == set(CLIENTS)
    seen = []
    for again in (C0, None, None, None):  # client 0 goes again: 7 to 14, after the others' 10 and 13
        client, reply = cohort.receive()
        seen.append((client, cohort.now, reply.asked))
        if again is not None:
            cohort.send(again, Parrot.answer, cargo(4))
    assert seen == [(C0, 7.0, 1), (C1, 10.0, 1), (C2, 13.0, 1), (C0, 14.0, 2)]
    assert not cohort.in_flight
    assert cohort.close() == 14.0
    assert idle(lines(birds)) == {1: 4.0, 2: 1.0, SERVER: 14.0}


def test_ties_go_to_the_lower_id(tmp_path: Path) -> None:
    birds = aviary(tmp_path, flops=(4, 2, 2), up=(1, 3, 3))  # 9 s each
    cohort = birds.cohort()
    for client in (C2, C0, C1):
        cohort.send(client, Parrot.answer, cargo(4))
    assert [cohort.receive()[0] for _ in range(3)] == CLIENTS
    assert cohort.now == 9.0


def test_a_reply_that_does_not_count_arrives_as_nothing(birds: Aviary) -> None:
    cohort = birds.cohort(fails=(0,), deadline_s=11.0)
    for client in CLIENTS:
        cohort.send(client, Parrot.answer, cargo(4))
    arrived = [(*cohort.receive(), cohort.now) for _ in CLIENTS]
    assert [(client, reply is None, now) for client, reply, now in arrived] == [
        (C0, True, 7.0),
        (C1, False, 10.0),
        (C2, True, 13.0),  # of no use, but the device was busy until then
    ]
    assert cohort.close() == 13.0


def test_the_server_may_work_between_arrivals(birds: Aviary) -> None:
    cohort = birds.cohort()
    for client in CLIENTS:
        cohort.send(client, Parrot.answer, cargo(4))
    assert cohort.receive()[0] == C0
    spend(birds.party.place, 4)  # 7 to 11: client 1 has arrived meanwhile
    assert cohort.receive()[0] == C1
    assert cohort.now == 11.0
    cohort.send(C0, Parrot.answer, cargo(4))  # 11 to 18
    assert [cohort.receive()[0] for _ in range(2)] == [C2, C0]
    assert cohort.now == 18.0
    cohort.close()
    assert idle(lines(birds)) == {0: 4.0, 1: 8.0, 2: 5.0, SERVER: 14.0}


@settings(max_examples=40)
@given(
    flops=st.tuples(*[st.integers(1, 4).map(lambda n: 2 * n)] * 3),
    up=st.tuples(*[st.integers(1, 6)] * 3),
    turns=st.lists(st.integers(0, 2), min_size=1, max_size=8),
)
def test_the_clock_never_runs_backwards_and_time_is_spent_once(
    flops: tuple[int, ...], up: tuple[int, ...], turns: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    birds = aviary(tmp_path_factory.mktemp("states"), flops=flops, up=up)
    cohort = birds.cohort()
    clock = [0.0]
    for turn in turns:
        client = CLIENTS[turn]
        while client in cohort.in_flight:
            cohort.receive()
            clock.append(cohort.now)
        cohort.send(client, Parrot.answer, cargo(1))
    while cohort.in_flight:
        cohort.receive()
        clock.append(cohort.now)
    assert clock == sorted(clock)
    assert len(clock) == 1 + len(turns)
    duration = cohort.close()
    frame = lines(birds)
    spent = frame.assign(all_s=frame["compute_s"] + frame["link_s"] + frame["idle_s"]).groupby("client")[
        "all_s"
    ]
    assert spent.sum().to_dict() == dict.fromkeys([SERVER, *sorted(set(turns))], duration)


def test_an_exchange_may_outlast_its_round(birds: Aviary) -> None:
    """Client 2 is busy from 0 to 13; round 0 ends at 7, round 1 at 14."""
    first = birds.cohort(round=0)
    for client in (C0, C2):
        first.send(client, Parrot.answer, cargo(4))
    assert first.receive()[0] == C0
    first.send(C0, Parrot.answer, cargo(4))
    assert first.close() == 7.0
    frame = lines(birds)
    assert frame[frame["endpoint"] == "answer"]["client"].tolist() == [0]
    assert idle(frame) == {SERVER: 7.0}
    second = birds.cohort(round=1, now=7.0, clients=(1,))
    assert second.in_flight == {C0, C2}
    assert [(second.receive()[0], second.now) for _ in range(2)] == [(C2, 13.0), (C0, 14.0)]
    assert second.close() == 7.0
    frame = lines(birds)
    work = frame[frame["endpoint"] == "answer"]
    assert (work["client"].tolist(), set(work["round"])) == ([2, 0], {1})
    assert idle(frame) == {2: 1.0, SERVER: 7.0}


def test_an_evaluation_reads_the_state_before_what_is_in_flight(birds: Aviary) -> None:
    cohort = birds.cohort()
    cohort.send(C0, Parrot.answer, cargo(4))
    with cohort.phase(Phase.EVAL):
        assert cohort.call(Parrot.answer, {C0: cargo(4)})[C0].asked == 1
    assert cohort.receive()[1].asked == 1  # and neither sees the other
    cohort.send(C0, Parrot.answer, cargo(4))
    assert cohort.receive()[1].asked == 2


def test_a_steady_client_keeps_its_word(birds: Aviary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Parrot, "steady", True)
    cohort = birds.cohort()
    for size in (4, 5, 4):
        cohort.send(C0, Parrot.answer, cargo(size))
        assert (birds.party.flights[C0].work is None) == (cohort.now in (0.0, 7.0))
        cohort.receive()
    assert cohort.now == 7 + 8 + 7
    cohort.send(C0, Parrot.answer, cargo(4))
    birds.party.flights[C0].predicted = Work(flops=3, tx_bytes=1, rx_bytes=4)
    with pytest.raises(RuntimeError, match="client 0, answer: foresaw"):
        cohort.receive()


# --- mistakes of a method


def test_one_exchange_in_flight_per_client(birds: Aviary) -> None:
    cohort = birds.cohort()
    cohort.send(C1, Parrot.answer, cargo(1))
    for again in (
        lambda: cohort.send(C1, Parrot.answer, cargo(1)),
        lambda: cohort.call(Parrot.answer, {C1: cargo(1)}),
        lambda: cohort.broadcast(Parrot.answer, cargo(1)),
    ):
        with pytest.raises(ValueError, match="client 1 has an exchange in flight; receive it first"):
            again()
    cohort.call(Parrot.answer, {C0: cargo(1)})  # others are free
    assert cohort.receive()[0] == C1
    cohort.send(C1, Parrot.answer, cargo(1))


def test_receiving_what_nobody_sent(birds: Aviary) -> None:
    with pytest.raises(ValueError, match="nothing is in flight; send first"):
        birds.cohort().receive()


def test_a_client_outside_the_cohort(birds: Aviary) -> None:
    with pytest.raises(KeyError, match="client 1 is not in the cohort of round 0"):
        birds.cohort(clients=(0, 2)).call(Parrot.answer, {C1: cargo(1)})


def test_an_endpoint_of_somebody_elses_client(birds: Aviary) -> None:
    class Other(Client[int]):
        def sing(self, down: Empty) -> Empty:
            return down

    with pytest.raises(TypeError, match="Parrot has no endpoint sing"):
        birds.cohort().broadcast(Other.sing, Empty())  # type: ignore[arg-type]


def test_a_reply_that_is_no_payload(birds: Aviary) -> None:
    with pytest.raises(TypeError, match=r"Parrot\.fail must return a Payload, got dict"):
        birds.cohort().broadcast(Parrot.fail, Empty())


def test_server_and_clients_share_no_memory(birds: Aviary) -> None:
    cohort = birds.cohort()
    down = cargo(2)
    replies = cohort.broadcast(Parrot.echo, down)
    assert down.values.tolist() == [0, 0]
    assert all(reply.values.tolist() == [1, 1] for reply in replies.values())
    replies[C0].values.fill_(9)
    assert replies[C1].values.tolist() == [1, 1]
    cohort.send(C0, Parrot.echo, down)
    _, reply = cohort.receive()
    assert reply.values.data_ptr() != down.values.data_ptr()


def test_replies_of_clients_that_share_a_network_are_their_own(birds: Aviary) -> None:
    replies = birds.cohort().broadcast(Parrot.lend, Empty())
    assert {client: reply.values.tolist() for client, reply in replies.items()} == {
        C0: [0, 0],
        C1: [1, 1],
        C2: [2, 2],
    }


def test_what_a_cohort_says_of_itself(birds: Aviary) -> None:
    cohort: Cohort[Parrot] = birds.cohort(clients=(0, 2))
    assert cohort.clients == [C0, C2]
    assert cohort.num_examples == SIZES[0] + SIZES[2]
    assert cohort.submodel(C2) == "full"
    assert sorted(cohort._sequence) == []


class Sum:
    """Counts replies."""

    def __init__(self) -> None:
        self.count = 0

    def fresh(self) -> "Sum":
        return Sum()

    def add(self, payload: Payload) -> bool:
        assert isinstance(payload, Cargo)
        self.count += payload.values.numel()
        return payload.values.numel() != 2

    def merge(self, other: "Sum") -> None:
        self.count += other.count


def test_a_reduction_is_charged_like_a_call(birds: Aviary) -> None:
    cohort = birds.cohort(fails=(0,))
    total = cohort.reduce(Parrot.answer, {cohort.submodel(C0): cargo(4)}, into=Sum())  # type: ignore[arg-type,type-var]
    assert total.count == 2 + 3  # type: ignore[attr-defined]
    assert cohort.close() == 13.0
    frame = lines(birds)
    work = frame[frame["endpoint"] == "answer"]
    assert work["status"].tolist() == ["failed", "refused", "ok"]
    assert work["tx_bytes"].tolist() == [1, 2, 3]
    assert idle(frame) == {0: 6.0, 1: 3.0, SERVER: 13.0}


def test_torch_is_left_as_the_server_had_it(tmp_path: Path) -> None:
    """Threads and random numbers of server and clients are those of two processes."""
    birds = aviary(tmp_path)
    birds.transport.worker.place.threads = 2
    seen = []
    real = birds.transport.worker.invoke

    def spy(request: object, down: Payload) -> object:
        seen.append(torch.get_num_threads())
        return real(request, down)  # type: ignore[arg-type]

    birds.transport.worker.invoke = spy  # type: ignore[method-assign,assignment]
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    birds.cohort().broadcast(Parrot.answer, cargo(1))
    assert seen == [2, 2, 2]
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_round_costs_the_same_whenever_it_begins(tmp_path: Path) -> None:
    frames = []
    for now in (0.0, 1e9 + 0.1):
        birds = aviary(tmp_path, server=find_profile("phone", key="test").device)
        cohort = birds.cohort(now=now)
        spend(birds.party.place, 2)
        cohort.broadcast(Parrot.answer, cargo(4))
        spend(birds.party.place, 4)
        frames.append((cohort.close(), lines(birds)))
        assert cohort.now == now + frames[-1][0]
    (first, one), (second, other) = frames
    assert first == second
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_reduce_may_ask_some_and_say_what_they_play(birds: Aviary) -> None:
    cohort = birds.cohort()
    parts = {C2: SubmodelId("half"), C0: SubmodelId("rest")}
    down = {SubmodelId("half"): cargo(4), SubmodelId("rest"): cargo(8)}
    total = cohort.reduce(Parrot.answer, down, into=Sum(), parts=parts)  # type: ignore[arg-type,type-var]
    assert total.count == 1 + 3  # type: ignore[attr-defined]
    assert sorted(cohort._sequence) == [C0, C2]
    cohort.close()
    work = lines(birds).query("endpoint == 'answer'")
    assert work["submodel"].tolist() == ["rest", "half"]
    assert work["rx_bytes"].tolist() == [8, 4]
