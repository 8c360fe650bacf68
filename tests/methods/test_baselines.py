"""Centralized and local-only training."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from local_run import Play, assert_same, make_config, make_job, play_job

from harness.exchange.client import Receipt, Reply, Request
from harness.exchange.payloads import Payload, Scores
from harness.exchange.transport import LocalTransport
from harness.exchange.worker import Job, Worker
from harness.learning.aggregation import Accumulator
from harness.methods.local_only import mean_scores
from harness.types import SERVER, ClientId, SubmodelId

LEARNERS = [["method.momentum=0.9"], ["method.optimizer=adam", "method.lr=0.01"], ["method.lr_decay=0.5"]]


@pytest.mark.parametrize("words", LEARNERS)
@pytest.mark.parametrize("method", ["centralized", "local_only"])
def test_optimizers_outlive_rounds_and_checkpoints(method: str, words: list[str], tmp_path: Path) -> None:
    job = make_job(make_config([f"method={method}", *words]), tmp_path)
    whole = play_job(job)
    for done in (1, 2):
        rest = play_job(job, restored=whole.commits[done - 1].checkpoint, first=done)
        assert rest.records == whole.records[done:]
        assert rest.state == whole.state


@pytest.mark.parametrize("method", ["centralized", "local_only"])
def test_momentum_is_not_lost_between_rounds(method: str, play: Play) -> None:
    """Two rounds of one epoch are one round of two but for the order of batches: with full ones, equal."""
    words = [f"method={method}", "method.batch_size=0", "method.momentum=0.9"]
    two, one = play(*words, "run.num_rounds=2"), play(*words, "run.num_rounds=1", "method.local_epochs=2")
    assert two.records[-1]["eval/loss"] == pytest.approx(one.records[-1]["eval/loss"], rel=1e-5)


@pytest.mark.parametrize("method", ["centralized", "local_only", "fedavg"])
def test_a_learning_rate_that_decayed_to_nothing_moves_nothing(method: str, play: Play) -> None:
    first, second, _ = play(f"method={method}", "method.lr_decay=1e-9").records
    assert second["eval/loss"] == pytest.approx(first["eval/loss"], rel=1e-6)


# --- centralized


def test_centralized_training_exchanges_nothing_and_is_charged_to_the_server(play: Play) -> None:
    played = play("method=centralized")
    assert set(played.ledger["client"]) == {SERVER}
    assert played.ledger[["rx_bytes", "tx_bytes"]].to_numpy().sum() == 0
    assert [r["cost/server_flops"] for r in played.records] == [90 * 4 * 64 * 4] * 3
    assert played.records[-1]["cost/client_flops_total"] == 0
    train = played.ledger.query("phase == 'train' and endpoint == 'server'")
    assert [r["time/sim_s"] for r in played.records] == train["compute_s"].tolist()
    assert [r["cost/server_j"] for r in played.records] == train["compute_j"].tolist()


# --- local only


class Nomads(LocalTransport):
    """Every client moves to another worker each round, and no worker keeps what it need not."""

    def __init__(self, job: Job, *, num_workers: int = 2) -> None:
        self.workers = [Worker(job) for _ in range(num_workers)]
        super().__init__(self.workers[0])

    def call(self, requests: Sequence[Request], down: Sequence[Payload]) -> list[Reply]:
        replies = []
        for request, payload in zip(requests, down, strict=True):
            self.worker = self.workers[(request.client + request.round) % len(self.workers)]
            replies += super().call([request], [payload])
        return replies

    def reduce(
        self, requests: Sequence[Request], down: Mapping[SubmodelId, Payload], into: Accumulator
    ) -> list[Receipt]:
        raise NotImplementedError

    def flush(self) -> None:
        for worker in self.workers:
            worker.flush()


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_states_survive_being_served_by_other_workers(num_workers: int, play: Play) -> None:
    words = ["method=local_only", "method.momentum=0.9", "scheduler.cohort_size=3", "run.num_rounds=4"]
    assert_same(play(*words), play(*words, transport=lambda job: Nomads(job, num_workers=num_workers)))


def test_clients_learn_on_from_where_they_were_and_know_only_their_own(play: Play) -> None:
    played = play("method=local_only", "run.num_rounds=4")
    losses = [float(r["train/loss"]) for r in played.records]
    assert losses == sorted(losses, reverse=True)
    worker = played.engine.transport.worker
    weights = [worker.store.load(ClientId(c), 3)["weights"]["network.1.weight"] for c in range(4)]
    assert not any(torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def test_a_lonely_client_with_all_the_data_is_centralized_training(play: Play) -> None:
    words = ["partition.num_clients=1", "method.momentum=0.9"]
    alone, central = play(*words, "method=local_only"), play(*words, "method=centralized")
    keys = ("train/loss", "val/loss", "eval/loss", "eval/accuracy")
    for ours, theirs in zip(alone.records, central.records, strict=True):
        assert [ours[k] for k in keys] == pytest.approx([theirs[k] for k in keys], rel=1e-6)


def test_nothing_travels_while_training_and_scores_travel_in_the_evaluation(play: Play) -> None:
    played = play("method=local_only", "method.eval_clients=3")
    train, evaluated = (played.ledger[played.ledger["phase"] == phase] for phase in ("train", "eval"))
    assert train[["rx_bytes", "tx_bytes"]].to_numpy().sum() == 0
    assert evaluated["client"].tolist() == [0, 1, 2] * 3
    assert set(evaluated["endpoint"]) == {"score"}
    assert set(evaluated["tx_bytes"]) == {4 * 4}  # accuracy and loss of two splits


def test_the_score_is_the_plain_mean_over_clients() -> None:
    scores = {
        ClientId(3): Scores(values={"eval/accuracy": torch.tensor(0.25), "eval/loss": torch.tensor(1.0)}),
        ClientId(1): Scores(values={"eval/accuracy": torch.tensor(0.75), "eval/loss": torch.tensor(4.0)}),
    }
    assert mean_scores(scores) == {"eval/accuracy": 0.5, "eval/loss": 2.5}


def test_a_client_that_diverged_is_not_left_out_of_the_mean(play: Play) -> None:
    played = play("method=local_only", "method.lr=1e38", "run.num_rounds=2")
    assert math.isnan(played.records[-1]["eval/loss"])
    assert played.records[-1]["eval/accuracy"] < 0.5


def test_a_lost_reply_does_not_undo_the_training(play: Play) -> None:
    words = ["method=local_only", "run.num_rounds=2"]
    calm, rough = play(*words), play(*words, "scheduler.failure_probability=1")
    assert rough.records[-1]["scheduler/failed"] == 4
    assert rough.records[-1]["eval/loss"] == calm.records[-1]["eval/loss"]
