"""Any worker may serve any client at any time."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_run import make_config, make_job
from parrots import C0, C1, C2, CLIENTS, Cargo, Parrot, cargo, parrot_job, request

from harness.exchange.client import Request
from harness.exchange.payloads import Weights
from harness.exchange.worker import Worker
from harness.learning.aggregation import WeightSum
from harness.types import ClientId, Status, SubmodelId


def ask(worker: Worker, client: ClientId, *, round: int, version: str | None) -> int:
    """How often the client says it was asked."""
    reply = worker.invoke(request(client=client, round=round, version=version), cargo(1))
    assert isinstance(reply.payload, Cargo)
    return reply.payload.asked


def test_a_resident_client_keeps_its_state_and_writes_only_at_the_end(tmp_path: Path) -> None:
    worker = Worker(parrot_job(tmp_path))
    assert [ask(worker, C0, round=0, version=v) for v in (None, "0", "0")] == [1, 2, 3]
    assert not list(tmp_path.iterdir())
    worker.flush()
    assert [p.name for p in tmp_path.iterdir()] == ["0@0.pt"]
    assert ask(worker, C0, round=1, version="0") == 4


def test_clients_that_take_turns_in_one_round_find_their_state_again(tmp_path: Path) -> None:
    worker = Worker(parrot_job(tmp_path))
    turns = [(C0, None), (C1, None), (C0, "0"), (C2, None), (C1, "0"), (C0, "0")]
    assert [ask(worker, client, round=0, version=v) for client, v in turns] == [1, 1, 2, 1, 2, 3]
    worker.flush()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0@0.pt", "1@0.pt", "2@0.pt"]


def test_a_client_served_elsewhere_meanwhile_is_not_taken_from_memory(tmp_path: Path) -> None:
    here, there = Worker(parrot_job(tmp_path)), Worker(parrot_job(tmp_path))
    assert ask(here, C0, round=0, version=None) == 1
    here.flush()
    assert ask(there, C0, round=1, version="0") == 2
    there.flush()
    assert ask(here, C0, round=2, version="1") == 3  # `here` still holds the client of round 0


def test_reset_forgets_the_round_and_leaves_committed_states_alone(tmp_path: Path) -> None:
    worker = Worker(parrot_job(tmp_path))
    ask(worker, C0, round=0, version=None)
    worker.flush()
    for _ in range(2):
        turns = [(C0, "0"), (C1, None), (C0, "1")]
        assert [ask(worker, c, round=1, version=v) for c, v in turns] == [2, 1, 3]
        worker.reset()


def test_without_a_barrier_the_states_before_and_after_are_both_kept(tmp_path: Path) -> None:
    here, there = Worker(parrot_job(tmp_path)), Worker(parrot_job(tmp_path))
    ask(here, C0, round=0, version=None)
    sent = request(client=C0, round=0, sequence=1, version="0", commit="0.1")
    for worker in (here, there):  # the second runs it again from what the first left
        reply = worker.invoke(sent, cargo(1))
        assert reply.payload.asked == 2  # type: ignore[attr-defined]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0@0.1.pt", "0@0.pt"]
    assert ask(here, C0, round=1, version="0") == 2  # an evaluation of the state before
    assert ask(here, C0, round=1, version="0.1") == 3


@settings(max_examples=30)
@given(data=st.data())
def test_whoever_serves_in_whatever_order_and_after_any_reset(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("states")
    workers = [Worker(parrot_job(folder)) for _ in range(2)]
    asked: dict[ClientId, int] = dict.fromkeys(CLIENTS, 0)
    versions: dict[ClientId, str | None] = dict.fromkeys(CLIENTS)
    for round in range(3):
        turns = data.draw(st.lists(st.sampled_from(CLIENTS), max_size=5))
        host = {c: workers[data.draw(st.integers(0, 1))] for c in CLIENTS}
        for replay in range(1 + data.draw(st.booleans())):
            if replay:
                for worker in workers:
                    worker.reset()
            seen, at = dict(asked), dict(versions)
            for client in turns:
                seen[client] += 1
                assert ask(host[client], client, round=round, version=at[client]) == seen[client]
                at[client] = str(round)
        for worker in workers:
            worker.flush()
        asked, versions = seen, at


# --- sums


def fedavg_worker(tmp_path: Path) -> tuple[Worker, Weights]:
    worker = Worker(make_job(make_config(), tmp_path))
    task = worker.job.task
    width = task.input_shape[1] * task.input_shape[2]
    params = {
        "network.1.weight": torch.zeros(task.num_classes, width),
        "network.1.bias": torch.zeros(task.num_classes),
    }
    return worker, Weights(params=params)


def fit(client: int, **changes: object) -> Request:
    return request("fit", client=ClientId(client), submodel=SubmodelId("full"), **changes)


def test_a_partial_sum_is_the_sum_of_the_replies(tmp_path: Path) -> None:
    worker, down = fedavg_worker(tmp_path)
    empty = WeightSum.like(down.params, max_examples=90)
    by_hand = empty.fresh()
    worker.open_sum(empty)
    for client in range(3):
        assert worker.add(fit(client), down).status is Status.OK
        reply = worker.invoke(fit(client), down)
        assert reply.payload is not None
        assert by_hand.add(reply.payload.copied())
    total = worker.close_sum()
    assert isinstance(total, WeightSum)
    assert total.num_terms == 3
    for ours, theirs in zip(total.mean().values(), by_hand.mean().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert empty.num_terms == 0


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"fails": True}, Status.FAILED), ({"deadline_s": 1e-9}, Status.LATE)],
)
def test_what_does_not_count_is_not_summed_but_was_worked_for(
    changes: dict[str, object], status: Status, tmp_path: Path
) -> None:
    worker, down = fedavg_worker(tmp_path)
    worker.open_sum(WeightSum.like(down.params, max_examples=90))
    receipt = worker.add(fit(0, **changes), down)
    assert receipt.status is status
    assert receipt.work.flops > 0
    assert receipt.work.tx_bytes == down.num_bytes
    assert worker.close_sum().num_terms == 0  # type: ignore[attr-defined]


def test_a_reply_outside_the_sums_range_is_refused(tmp_path: Path) -> None:
    worker, down = fedavg_worker(tmp_path)
    worker.open_sum(WeightSum.like(down.params, max_examples=1))  # no client holds so few examples
    receipt = worker.add(fit(0), down)
    assert receipt.status is Status.REFUSED
    assert receipt.metrics["train/loss"] > 0
    assert worker.close_sum().num_terms == 0  # type: ignore[attr-defined]


def test_attached_clients_stay_in_memory_until_the_round_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parrot, "attached", True)
    worker = Worker(parrot_job(tmp_path))
    turns = [(C0, None), (C1, None), (C0, "0"), (C1, "0"), (C0, "0")]
    assert [ask(worker, client, round=0, version=v) for client, v in turns] == [1, 1, 2, 2, 3]
    assert not list(tmp_path.iterdir())
    worker.flush()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0@0.pt", "1@0.pt"]
    assert [ask(worker, client, round=1, version="0") for client in (C1, C0)] == [3, 4]
    worker.reset()
    assert [ask(worker, client, round=1, version="0") for client in (C1, C0)] == [3, 4]


def test_an_attached_client_served_elsewhere_is_not_taken_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Parrot, "attached", True)
    here, there = Worker(parrot_job(tmp_path)), Worker(parrot_job(tmp_path))
    assert [ask(here, client, round=0, version=None) for client in (C0, C1)] == [1, 1]
    here.flush()
    assert ask(there, C0, round=1, version="0") == 2
    there.flush()
    assert [ask(here, client, round=2, version=v) for client, v in ((C1, "0"), (C0, "1"))] == [2, 3]
