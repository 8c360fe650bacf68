"""FedGKT: whose soft labels are whose, what travels, and what happens without a barrier."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from local_run import Forgetful, Play, Played, assert_same, make_config, make_job, play_job, start
from torch import nn

from harness.data.task import Batch
from harness.exchange.payloads import Knowledge, Logits
from harness.exchange.transport import LocalTransport
from harness.exchange.worker import Job, Worker
from harness.learning.evaluation import evaluate
from harness.learning.training import training_batches
from harness.learning.weights import load_state, state_of
from harness.methods.fedgkt import FedGKT, FedGKTClient, named
from harness.types import SERVER, ClientId, ConfigError, WorkerLost

SMALL = (
    "method=fedgkt",
    "method.server=odd_methods:small_trunk",
    "method.edge=resnet4",
    "method.server_epochs=1",
    "method.batch_size=16",
    "method.eval_clients=1",
    "method.optimizer=sgd",
    "method.lr=0.05",
)
FEATURES = 16 * 8 * 8
"""Numbers at the cut for images of 8x8."""


def client_of(job: Job, client: int = 0) -> FedGKTClient:
    built = Worker(job)._build(ClientId(client))
    assert isinstance(built, FedGKTClient)
    return built


# --- soft labels belong to samples


def test_under_a_shuffling_loader_every_image_meets_its_own_soft_labels(tmp_path: Path) -> None:
    client = client_of(make_job(make_config(SMALL), tmp_path))
    ids = torch.from_numpy(client.shard.indices)
    mixed = torch.randperm(len(ids), generator=torch.Generator().manual_seed(3))
    # Column 0 of a sample's soft labels is its id.
    client.learn(Logits(values=ids[mixed].float()[:, None].repeat(1, 4), ids=ids[mixed]))
    met = []
    generator = torch.Generator().manual_seed(1)
    for batch in training_batches(client.shard, cfg=client.cfg, place=client.place, generator=generator):
        _, _, teacher = client.taught(batch)
        assert teacher is not None
        assert teacher[:, 0].tolist() == batch.ids.tolist()
        met += batch.ids.tolist()
    assert sorted(met) == ids.tolist() != met


def test_the_server_answers_with_what_it_said_of_each_sample(tmp_path: Path) -> None:
    """Recomputed soft labels are the network's own of the features with that id."""
    engine = start(make_job(make_config([*SMALL, "method.recompute_logits=true"]), tmp_path))
    method = engine.method
    assert isinstance(method, FedGKT)
    teacher = method.teacher
    generator = torch.Generator().manual_seed(0)
    sent = {
        client: Knowledge(
            features=torch.randn(size, 16, 8, 8, generator=generator),
            logits=torch.randn(size, 4, generator=generator),
            labels=torch.zeros(size, dtype=torch.int64),
            ids=torch.arange(10 * client, 10 * client + size),
        )
        for client, size in ((ClientId(1), 7), (ClientId(3), 9))
    }
    teacher.reserve(16)
    for client, knowledge in sent.items():
        method.take(client, knowledge)
    replies, loss = teacher.train(factor=1.0)
    assert math.isfinite(loss)
    teacher.module.eval()
    for client, knowledge in sent.items():
        values, ids = replies[client]
        assert torch.equal(ids, knowledge.ids)
        torch.testing.assert_close(values, teacher.module(knowledge.features), rtol=1e-4, atol=1e-5)


def test_soft_labels_from_within_the_last_epoch_are_those_before_each_step(tmp_path: Path) -> None:
    """One batch, one epoch: the train-mode logits of the initial network."""
    engine = start(make_job(make_config(SMALL), tmp_path))
    method = engine.method
    assert isinstance(method, FedGKT)
    features = torch.randn(16, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    before = method.teacher.module.train()(features).detach()
    method.teacher.reserve(16)
    ids = torch.arange(16)
    method.take(ClientId(0), Knowledge(features=features, logits=None, labels=ids % 4, ids=ids))
    replies, _ = method.teacher.train(factor=1.0)
    # Batch norm sums in the order of the batch, which was shuffled.
    torch.testing.assert_close(replies[ClientId(0)][0], before, rtol=1e-4, atol=1e-5)


def test_absent_clients_keep_their_edge_and_their_last_soft_labels(tmp_path: Path) -> None:
    words = [*SMALL, "scheduler.cohort_size=2", "run.num_rounds=3"]
    job = make_job(make_config(words), tmp_path)
    engine = start(job)
    kept: dict[ClientId, dict[str, Any]] = {}
    absences = 0
    for round in range(3):
        engine.run_round(round)
        for client, version in engine.party.versions.items():
            state = engine.store.load(client, version)
            if client in kept and int(version) < round:
                absences += 1
                assert state["laps"] == kept[client]["laps"]
                assert torch.equal(state["teacher"], kept[client]["teacher"])
            kept[client] = state
    assert absences
    assert all(state["teacher"].isfinite().all() for state in kept.values())


# --- what travels, and what it costs


def bytes_of(played: Played, endpoint: str, column: str) -> int:
    train = played.ledger.query(f"phase == 'train' and endpoint == '{endpoint}' and round == 0")
    return int(train[column].sum())


@pytest.mark.parametrize(("dtype", "size"), [("fp32", 4), ("bf16", 2), ("fp16", 2)])
@pytest.mark.parametrize("distill", ["none", "server_to_edge", "both"])
def test_only_what_is_used_travels(distill: str, dtype: str, size: int, play: Play) -> None:
    if distill != "both" and dtype == "fp16":
        pytest.skip("the same path as bf16")
    words = [f"method.distill={distill}", f"method.feature_dtype={dtype}", "run.num_rounds=1"]
    played = play(*SMALL, *words)
    logits, envelope = 4 * 4, 2 * 8
    up = size * FEATURES + envelope + (logits if distill == "both" else 0)
    assert bytes_of(played, "fit", "tx_bytes") == 90 * up
    assert bytes_of(played, "fit", "rx_bytes") == 0
    assert bytes_of(played, "learn", "rx_bytes") == (0 if distill == "none" else 90 * (logits + 8))
    assert "learn" not in set(played.ledger["endpoint"]) or distill != "none"
    assert bytes_of(played, "learn", "tx_bytes") == 0


def test_an_edge_pays_for_training_and_for_the_extraction_pass(play: Play) -> None:
    played = play(*SMALL, "run.num_rounds=1")
    edge, server = (
        played.engine.method.profile(n, played.engine.method.models()[n]) for n in ("edge", "server")
    )
    work = played.ledger.query("phase == 'train'").groupby("client")["flops"].sum()
    clients = int(work.drop(index=SERVER).sum())
    assert clients == 90 * (edge.flops_train + 2 * edge.macs_forward)
    # The features need no gradient: the first layers' backward pass to their inputs falls away.
    assert work[SERVER] == 90 * server.flops_train


def test_evaluation_is_booked_as_such_and_reads_everything(play: Play) -> None:
    played = play(*SMALL, "run.num_rounds=1", "method.eval_clients=2")
    evaluation = played.ledger.query("phase == 'eval'")
    asked = evaluation[evaluation["endpoint"] == "extractor"]
    assert asked["client"].tolist() == [0, 1]
    assert set(asked["tx_bytes"]) == {
        4 * (9 * 16 + 4 * 16)
    }  # one input channel; batch norm's statistics, too
    deployed = played.engine.method.profile("deployed", played.engine.method.models()["deployed"])
    assert evaluation["flops"].sum() == 2 * (10 + 30) * 2 * deployed.macs_forward


def test_the_score_is_that_of_the_clients_extractor_below_the_servers_network(play: Play) -> None:
    played = play(*SMALL, "run.num_rounds=2", "method.eval_clients=2")
    engine = played.engine
    method = engine.method
    assert isinstance(method, FedGKT)
    found = []
    for client in (ClientId(0), ClientId(1)):
        state = engine.store.load(client, engine.party.versions[client])["weights"]
        stem = {
            name.removeprefix("extractor."): t for name, t in state.items() if name.startswith("extractor.")
        }
        module = method.networks.deployed()
        load_state(
            module,
            {**named("network.0", stem), **named("network.1", state_of(method.teacher.module.network))},
        )
        found.append(evaluate(module, engine.place.split("test"), place=engine.place)["accuracy"])
    assert played.records[-1]["eval/accuracy"] == pytest.approx(np.mean(found))


def test_extracted_images_are_augmented_where_asked(tmp_path: Path) -> None:
    words = [*SMALL, "task.augment=[crop]"]
    found = {}
    for flag in ("true", "false"):
        job = make_job(make_config([*words, f"method.extract_augmented={flag}"]), tmp_path / flag)
        found[flag] = client_of(job).extract().features
    inputs = job.task.to_inputs(job.splits.train.inputs[job.partition[ClientId(0)]])
    plain = client_of(job).module.eval().extractor(inputs).detach()
    torch.testing.assert_close(found["false"], plain, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found["true"], plain)


def test_features_beyond_the_budget_lie_in_a_file_and_change_no_bit(play: Play) -> None:
    inside = play(*SMALL, "run.num_rounds=2")
    with pytest.warns(UserWarning, match=r"features at the server \(method.memory_budget_mb\): 0 MB exceed"):
        outside = play(*SMALL, "run.num_rounds=2", "method.memory_budget_mb=0")
    assert_same(inside, outside)


# --- degenerate equalities


def test_without_weight_distillation_is_none(play: Play) -> None:
    """alpha = 0 learns what `none` learns; only the bytes differ."""
    none = play(*SMALL, "method.distill=none", "run.num_rounds=2")
    weightless = play(*SMALL, "method.distill=both", "method.alpha=0", "run.num_rounds=2")
    for key in ("train/loss", "train/server_loss", "eval/loss", "val/accuracy"):
        assert none.records[-1][key] == weightless.records[-1][key]
    both = play(*SMALL, "run.num_rounds=2")
    assert both.records[-1]["train/loss"] != none.records[-1]["train/loss"]


EQUAL = [
    *SMALL,
    "fleet.profiles={phone: 1}",
    "fleet.server=ideal",
    "partition=iid",
    "partition.num_clients=3",
]


def test_without_a_barrier_on_equal_devices_nothing_changes(play: Play) -> None:
    """Ties go by id: the server hears client after client, once a round, as it does with a barrier."""
    words = [*EQUAL, "method.shuffle_clients=false", "run.num_rounds=3"]
    sync, free = play(*words), play(*words, "method.mode=async")
    for one, other in zip(sync.records, free.records, strict=True):
        for key in ("train/loss", "eval/loss", "val/loss", "eval/accuracy", "cost/client_flops"):
            assert one[key] == other[key]
    weights = [p.engine.method.state_dict()["weights"] for p in (sync, free)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# --- without a barrier

UNEQUAL = [
    *SMALL,
    "method.mode=async",
    "fleet.profiles={phone: 1, laptop: 1}",
    "partition=iid",
    "run.num_rounds=3",
]


def order(played: Played) -> list[list[int]]:
    fits = played.ledger.query("endpoint == 'fit'")
    return [fits[fits["round"] == round]["client"].tolist() for round in range(len(played.commits))]


def test_arrivals_follow_the_simulated_clock(play: Play) -> None:
    played = play(*UNEQUAL)
    slow = [c for c in range(4) if played.engine.party.fleet.profile(ClientId(c)) == "phone"]
    assert order(played) == [[2, 3, 2, 3], [2, 3, 0, 1], [2, 3, 0, 1]]
    assert slow == [0, 1]
    # What the server learned between a client's start and its arrival: client 1 left before the first of 7.
    assert [r["train/staleness"] for r in played.records] == [(0 + 1 + 1 + 1) / 4, (1 + 1 + 6 + 7) / 4, 3.0]
    assert [r["train/staleness_max"] for r in played.records] == [1.0, 7.0, 3.0]
    assert not played.engine.party.flights  # the last round waits for everyone
    starts = played.ledger.query("endpoint == 'fit'").groupby("client").size()
    assert starts.to_dict() == {0: 2, 1: 2, 2: 4, 3: 4}


def test_exchanges_in_flight_survive_a_restart(play: Play, tmp_path: Path) -> None:
    job = make_job(make_config(UNEQUAL), tmp_path)
    whole = play_job(job)
    for done in (1, 2):
        rest = play_job(job, restored=whole.commits[done - 1].checkpoint, first=done)
        assert rest.records == whole.records[done:]
        assert [c.checkpoint for c in rest.commits] == [c.checkpoint for c in whole.commits[done:]]


def test_a_run_that_reaches_its_target_pays_for_what_is_still_in_flight(play: Play) -> None:
    played = play(*UNEQUAL, "run.target=0.01")
    assert len(played.commits) == 1
    assert not played.engine.party.flights
    fits = played.ledger.query("endpoint == 'fit'")
    # Four arrivals in the round, and the four that were under way.
    assert fits["client"].value_counts().to_dict() == {0: 1, 1: 1, 2: 3, 3: 3}
    assert set(fits["phase"]) == {"train"}


def test_a_deadline_without_a_barrier_is_each_exchanges_own(play: Play) -> None:
    """Phones take 122 ms an exchange, laptops 37: every laptop's counts, however late in the run."""
    played = play(*UNEQUAL, "scheduler.deadline_s=0.05")
    fits = played.ledger.query("endpoint == 'fit'")
    assert set(fits[fits["client"].isin([2, 3])]["status"]) == {"ok"}
    assert set(fits[fits["client"].isin([0, 1])]["status"]) == {"late"}
    assert all(r["time/sim_s"] > 0 for r in played.records)
    assert all("train/server_loss" in r for r in played.records)


def test_replies_of_the_server_are_not_late_for_its_own_training(play: Play) -> None:
    slowest = play(*SMALL, "run.num_rounds=1").ledger.query("endpoint == 'fit'")
    deadline = float((slowest["compute_s"] + slowest["link_s"]).max()) * 1.0001
    played = play(*SMALL, "run.num_rounds=1", f"scheduler.deadline_s={deadline}")
    assert set(played.ledger.query("phase == 'train'")["status"]) == {"ok"}


class Mortal(LocalTransport):
    """Loses its worker once, in the middle of a round with exchanges under way."""

    def __init__(self, job: Job) -> None:
        super().__init__(Worker(job))
        self.left = 7

    def collect(self, tickets: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise WorkerLost("died")
        return super().collect(tickets)


def test_a_lost_worker_changes_no_bit(play: Play) -> None:
    with pytest.warns(UserWarning, match="replayed from its start"):
        disturbed = play(*UNEQUAL, transport=Mortal)
    assert_same(play(*UNEQUAL), disturbed)


def test_any_worker_may_take_up_what_another_left(play: Play) -> None:
    assert_same(play(*UNEQUAL), play(*UNEQUAL, transport=Forgetful))


def test_a_client_outside_the_next_cohort_lands_and_stays(play: Play) -> None:
    played = play(*UNEQUAL, "scheduler.cohort_size=2", "run.num_rounds=5")
    heard = played.ledger.query("endpoint == 'fit'")["client"]
    assert set(heard) == {0, 1, 2, 3}
    assert not played.engine.party.flights


# --- learning


@pytest.mark.parametrize(
    ("distill", "server"),
    [
        ("none", "odd_methods:small_trunk"),
        ("server_to_edge", "odd_methods:small_trunk"),
        ("both", "resnet19"),
    ],
)
def test_it_can_overfit(distill: str, server: str, tmp_path: Path) -> None:
    words = [
        *("method=fedgkt", f"method.server={server}", "method.edge=resnet4", f"method.distill={distill}"),
        *("method.server_epochs=4", "method.batch_size=16", "method.lr=0.01", "method.weight_decay=0"),
        *("partition=iid", "partition.num_clients=2", "run.num_rounds=7", "run.eval_every=7"),
        *(
            "task.options={num_train: 40, num_test: 8, num_classes: 4, image_size: 8}",
            "method.eval_clients=1",
        ),
    ]
    played = play_job(make_job(make_config(words), tmp_path))
    module = played.engine.place.module("deployed", lambda: nn.Identity())  # type: ignore[arg-type, return-value]
    found = evaluate(module, played.engine.place.split("train"), place=played.engine.place)
    assert found["accuracy"] >= 0.95


def test_personal_networks_are_scored_after_the_last_round(play: Play) -> None:
    played = play(*SMALL, "method.personalize_epochs=1", "run.num_rounds=2")
    assert "eval/accuracy_personal" not in played.records[0]
    assert 0 <= played.records[1]["eval/accuracy_personal"] <= 1
    asked = played.ledger.query("endpoint == 'personalize'")
    assert set(asked["phase"]) == {"eval"}
    deployed = played.engine.method.profile("deployed", played.engine.method.models()["deployed"])
    shard = int(played.job.partition.sizes[0])
    assert asked["flops"].sum() == shard * deployed.flops_train + (10 + 30) * 2 * deployed.macs_forward
    assert played.records[1]["eval/loss_personal"] != played.records[1]["eval/loss"]


def test_extractors_may_start_from_a_checkpoint(tmp_path: Path) -> None:
    words = ["method=centralized", "model=resnet4", "run.num_rounds=1"]
    whole = play_job(make_job(make_config(words), tmp_path / "a")).engine.method.state_dict()["weights"]
    torch.save(whole, tmp_path / "weights.pt")
    job = make_job(make_config([*SMALL, f"method.init_extractor={tmp_path}/weights.pt"]), tmp_path / "b")
    edge = client_of(job).module
    assert torch.equal(edge.extractor.state_dict()["stem.conv.weight"], whole["network.stem.conv.weight"])
    other = make_config([*SMALL, "task.options.channels=3", f"method.init_extractor={tmp_path}/weights.pt"])
    with pytest.raises(ConfigError, match=r"method.init_extractor=.*stem.conv.weight: shape"):
        client_of(make_job(other, tmp_path / "c"))


# --- what cannot be


class NaNClient(FedGKTClient):
    """Client 1 sends NaN after its first training."""

    def fit(self, down: Logits) -> Knowledge:
        up = super().fit(down)
        if self.client_id == 1 and self.laps == 1:
            up.features[0, 0, 0, 0] = torch.nan
        return up


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_features_that_are_not_finite_are_refused(mode: str, dtype: str, tmp_path: Path) -> None:
    words = [*SMALL, f"method.mode={mode}", f"method.feature_dtype={dtype}", "run.num_rounds=2"]
    job = make_job(make_config([*words, "partition=iid", "fleet.profiles={phone: 1}"]), tmp_path)
    object.__setattr__(job, "client_class", NaNClient)
    with pytest.warns(UserWarning, match=r"round 0: replies of clients \[1\] refused"):
        played = play_job(job)
    assert [r["scheduler/refused"] for r in played.records] == [1, 0]
    assert all(t.isfinite().all() for t in played.engine.method.state_dict()["weights"].values())
    assert "learn" not in set(played.ledger.query("client == 1 and round == 0")["endpoint"])


def narrow_server(*, feature_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Reads 8 channels."""
    return nn.Sequential(nn.Conv2d(8, 4, 1), nn.Flatten(), nn.LazyLinear(num_classes))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.temperature=0"], r"method.temperature must be > 0, got 0"),
        (["method.edge=resnet5"], r"method.edge: unknown network 'resnet5'; did you mean resnet"),
        (["method.server=resnet56"], r"method.server: unknown network 'resnet56'; did you mean resnet55"),
        (["method.distill=all"], r"method.distill: unknown value 'all'"),
        (["method.feature_dtype=fp8"], r"method.feature_dtype: unknown value 'fp8'"),
        (["method.server_epochs=0"], r"method.server_epochs must be >= 1, got 0"),
        (["method.eval_clients=0"], r"method.eval_clients must be >= 1, got 0"),
        (["task.options.image_size=4"], r"task.name=synthetic does not fit method.edge: .* at least 8x8"),
        (
            ["method.server=test_fedgkt:narrow_server"],
            r"narrow_server: must lead from the edge's features \(16, 8, 8\) to 4 classes; ",
        ),
    ],
)
def test_bad_input_is_a_readable_error(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        start(make_job(make_config([*SMALL, *words]), tmp_path))


def test_a_shard_smaller_than_a_batch_is_one_batch(play: Play) -> None:
    assert_same(
        play(*SMALL, "method.batch_size=1000", "run.num_rounds=1"),
        play(*SMALL, "method.batch_size=90", "run.num_rounds=1"),
    )


def test_before_the_first_reply_there_is_nothing_to_distil(tmp_path: Path) -> None:
    client = client_of(make_job(make_config(SMALL), tmp_path))
    batch = client.shard.take(np.arange(3))
    assert client.taught(Batch(*batch))[2] is None
