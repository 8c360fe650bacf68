"""Split learning: what it must equal, what it costs, and what becomes of clients that drop out."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from local_run import TINY, Forgetful, Play, Played, assert_same, make_config, make_job, play_job

from harness.exchange.worker import Worker
from harness.learning.models import build_module, make_optimizer
from harness.learning.seeding import torch_generator
from harness.learning.training import train
from harness.learning.weights import state_of
from harness.run import checkpoint
from harness.run.describe import describe
from harness.run.method import load_method
from harness.types import ClientId, ConfigError

SPLIT = ("method=split_learning", "run.num_rounds=2")
RESNET = ("model=resnet4", "task.augment=[crop]", "method.momentum=0.9", "method.lr=0.05")
"""Batch norm, augmentation and moments: whatever a client must carry from batch to batch."""
MODES = pytest.mark.parametrize("mode", ["sequential", "parallel"])


def weights(played: Played) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = checkpoint.load_bytes(played.state)["method"]["weights"]
    return found


def trained(played: Played) -> dict[tuple[str, str], int]:
    """Sum of the train phase by (endpoint, column)."""
    train = played.ledger.query("phase == 'train' and endpoint != 'wait'")
    sums = train.groupby("endpoint")[["flops", "rx_bytes", "tx_bytes"]].sum()
    return {(str(e), str(c)): int(sums.loc[e, c]) for e in sums.index for c in sums.columns}


# --- equalities


@MODES
@pytest.mark.parametrize(
    "words",
    [
        RESNET,
        ("model=cnn", "method.cut=0", "method.optimizer=adam", "method.lr=0.01", "method.lr_decay=0.5"),
        ("model=mlp", "method.cut=3", "method.local_epochs=2"),
        ("model=mlp", "method.local_steps=5"),
    ],
)
def test_one_client_and_the_server_train_as_one_machine(mode: str, words: Sequence[str], play: Play) -> None:
    """Same batches, same gradients, same optimizer on either side of the cut: in turn, the same bits.

    Together, the average of the one lower part is rounded to the grid of the exact sum.
    """
    slack = 0.0 if mode == "sequential" else 1e-6
    alone = ("partition=iid", "partition.num_clients=1", *words)
    split = play(*SPLIT, f"method.mode={mode}", *alone)
    whole = play("method=centralized", "run.num_rounds=2", *(w for w in alone if "method.cut" not in w))
    for one, other in zip(split.records, whole.records, strict=True):
        for key in ("train/loss", "eval/loss", "eval/accuracy", "val/loss"):
            assert one[key] == pytest.approx(other[key], rel=slack, abs=0)
    assert weights(split).keys() == weights(whole).keys()
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(split)[name], tensor, rtol=0, atol=slack)


@pytest.mark.parametrize("cut", ["1", "2", "3", "4"])
@MODES
def test_both_sides_flops_add_up_to_the_whole_networks(mode: str, cut: str, play: Play) -> None:
    split = play(*SPLIT, "model=mlp", f"method.mode={mode}", f"method.cut={cut}", "run.num_rounds=1")
    whole = play("method=centralized", "model=mlp", "run.num_rounds=1")
    (found,), (wanted,) = split.records, whole.records
    assert found["cost/client_flops"] > 0
    assert found["cost/client_flops"] + found["cost/server_flops"] == wanted["cost/server_flops"]


def test_the_next_client_takes_over_what_the_last_one_learnt(play: Play) -> None:
    """Two clients in turn are one network trained on the first one's batches, then on the other's."""
    played = play(*SPLIT, "model=cnn", "partition.num_clients=2", "run.num_rounds=1")
    place, cfg = played.engine.place, played.job.cfg.method
    module = place.initial(lambda: build_module(place.task))
    worker = Worker(played.job)
    for client in (0, 1):
        train(
            module,
            worker._build(ClientId(client)).shard,
            cfg=cfg,
            optimizer=make_optimizer(module.parameters(), cfg, round=0),
            place=place,
            generator=torch_generator(place.seed, round=0, client=client, purpose="batches"),
        )
    assert all(torch.equal(t, weights(played)[name]) for name, t in state_of(module).items())


def test_clients_together_take_the_step_of_all_their_data(play: Play) -> None:
    """One full batch each: the joint gradient above the cut, and below it the average of their steps."""
    words = ("model=mlp", "method.batch_size=0", "run.num_rounds=3")
    split = play("method=split_learning", "method.mode=parallel", *words)
    whole = play("method=centralized", *words)
    sizes = split.job.partition.sizes
    assert len(set(sizes.tolist())) > 1  # so that a plain mean would not do
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(split)[name], tensor, rtol=1e-4, atol=1e-6)
    assert split.records[-1]["eval/loss"] == pytest.approx(whole.records[-1]["eval/loss"], rel=1e-5)


@MODES
def test_a_graph_that_was_lost_is_computed_again_and_not_booked(mode: str, play: Play) -> None:
    words = (*SPLIT, *RESNET, f"method.mode={mode}", "partition.num_clients=2")
    assert_same(play(*words), play(*words, transport=Forgetful))


@MODES
def test_moments_outlive_a_checkpoint(mode: str, tmp_path: Path) -> None:
    words = (*SPLIT, *RESNET, f"method.mode={mode}", "partition.num_clients=2", "run.num_rounds=3")
    job = make_job(make_config(words), tmp_path)
    whole = play_job(job)
    rest = play_job(job, restored=whole.commits[0].checkpoint, first=1)
    assert rest.records == whole.records[1:]
    assert rest.state == whole.state


# --- costs


@MODES
def test_activations_up_gradients_down_and_the_lower_layers_once(mode: str, play: Play) -> None:
    """Per example and epoch |H| up, |grad H| and nothing else down; labels, 8 bytes, go up with them."""
    played = play(*SPLIT, "model=cnn", f"method.mode={mode}", "method.local_epochs=2", "run.num_rounds=1")
    features, layer = 16 * 4 * 4 * 4, 4 * (16 * 9 + 16)
    passes = 2 * int(played.job.partition.sizes.sum())
    clients = len(played.job.partition.sizes)
    (record,) = played.records
    assert record["cost/tx_bytes"] == passes * (features + 8) + clients * layer
    assert record["cost/rx_bytes"] == passes * features + clients * layer
    found = trained(played)
    assert found["begin", "rx_bytes"] == found["finish", "tx_bytes"] == clients * layer


def test_one_exchange_per_batch_and_one_to_begin_with(play: Play) -> None:
    played = play(*SPLIT, "model=mlp", "run.num_rounds=1")
    train = played.ledger.query("phase == 'train' and client >= 0 and endpoint != 'wait'")
    for client, size in enumerate(played.job.partition.sizes):
        batches = -(-int(size) // 10)
        mine = train[train["client"] == client]["endpoint"].tolist()
        assert mine == ["begin", *["step"] * (batches - 1), "finish"]


def test_clients_together_take_less_time_than_one_after_the_other(play: Play) -> None:
    words = (*SPLIT, "model=mlp", "fleet.profiles={phone: 1}")
    turns, together = (play(*words, f"method.mode={mode}") for mode in ("sequential", "parallel"))
    assert together.records[0]["time/sim_s"] < 0.5 * turns.records[0]["time/sim_s"]
    assert together.records[0]["cost/tx_bytes"] == turns.records[0]["cost/tx_bytes"]


def test_evaluation_is_booked_as_such(play: Play) -> None:
    played = play(*SPLIT, "model=mlp", "run.num_rounds=1")
    found = played.ledger.query("phase == 'eval'")
    assert found["endpoint"].tolist() == ["server"]
    assert found["flops"].sum() == 2 * (30 + 10) * (64 * 200 + 200 * 200 + 200 * 4)


def test_describe_shows_what_a_client_holds() -> None:
    found = describe(make_config(["method=split_learning", "task=cifar10", "model=resnet56"], base=()))
    lower, upper, whole = found["models"]
    assert (lower["name"], lower["params"], lower["macs_forward"]) == ("lower", 464, 442_368)
    assert (upper["params"], upper["macs_forward"]) == (590_858, 86_772_224)
    assert (whole["name"], whole["params"], whole["macs_forward"]) == ("full", 591_322, 87_214_592)
    # 4,500 examples a client; 65,536 bytes of activations and 8 of a label each; 496 numbers of the stem.
    up = sum(row["tx_bytes"] for row in found["exchanges"])
    assert up == 4500 * (65_536 + 8) + 4 * 496
    assert sum(row["rx_bytes"] for row in found["exchanges"]) == 4500 * 65_536 + 4 * 496


# --- clients that drop out


@MODES
def test_where_every_reply_is_lost_nothing_is_learnt(mode: str, play: Play) -> None:
    played = play(*SPLIT, "model=mlp", f"method.mode={mode}", "scheduler.failure_probability=1")
    assert "train/loss" not in played.records[0]
    assert played.records[0]["eval/loss"] == played.records[1]["eval/loss"]
    assert played.records[0]["scheduler/failed"] == 4


@MODES
def test_a_late_client_is_out_for_the_rest_of_the_round(mode: str, play: Play) -> None:
    """Its batches before the deadline count above the cut; its lower layers are lost."""
    words = (*SPLIT, "model=mlp", f"method.mode={mode}", "fleet.profiles={phone: 1}", "run.num_rounds=1")
    words += ("method.local_epochs=5",)
    whole = play(*words)
    deadline = 0.5 * whole.records[0]["time/sim_s"]
    played = play(*words, f"scheduler.deadline_s={deadline}")
    train = played.ledger.query("phase == 'train' and client >= 0 and endpoint != 'wait'")
    late = train[train["status"] == "late"]
    assert len(late)
    for client in set(late["client"]):
        assert train[train["client"] == client]["status"].tolist().index("late") == (
            len(train[train["client"] == client]) - 1
        )
    assert played.records[0]["cost/server_flops"] < whole.records[0]["cost/server_flops"]
    assert played.records[0]["train/loss"] > 0


# --- refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.mode=both"], "method.mode must be sequential or parallel, got 'both'"),
        (
            ["model=cnn", "method.cut=9"],
            r"method\.cut: no cut after layer '9'; choose one of auto, 0, 1, 2, 3, 4, 5, 6, 7, 8$",
        ),
        (
            ["model=resnet8", "method.cut=conv1"],
            r"no cut after layer 'conv1'; choose one of auto, stem, stage1, pool$",
        ),
        (
            ["model=logistic"],
            r"method\.cut: task\.model=logistic cannot be cut; it needs an nn\.Sequential",
        ),
        (["method.lr=0"], "method.lr must be > 0"),
    ],
)
def test_settings_that_cannot_work(words: list[str], message: str) -> None:
    cfg = make_config(["method=split_learning", "model=mlp", *words], base=TINY)
    with pytest.raises(ConfigError, match=message):
        describe(cfg)


def test_its_clients_and_server_agree_on_the_cut(tmp_path: Path) -> None:
    job = make_job(make_config([*SPLIT, "model=cnn", "method.cut=4"]), tmp_path)
    client = Worker(job)._build(ClientId(0))
    method = load_method("split_learning")(job.cfg.method, Worker(job).place)
    method.start()
    assert set(state_of(client.lower)) == set(state_of(method.lower))
