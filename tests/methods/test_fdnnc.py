"""FDNNC: rounds rebuilt by hand, degenerate equalities, bytes, and devices that change class."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from local_run import Play, Played, make_config, make_job, make_place, play_job, start
from torch import Tensor

from harness.cost.formulas import product_flops
from harness.data.tasks import load_task
from harness.exchange.payloads import Weights
from harness.learning.lowrank import to_dense, to_factors, translation_flops
from harness.learning.seeding import torch_generator
from harness.methods.fdnnc import BIG, SMALL, SMALL_A, SMALL_B, Fdnnc, FdnncClient, halves, sent_as
from harness.run import checkpoint
from harness.run.describe import describe
from harness.run.driver import preflight
from harness.types import ClientId, ConfigError, SubmodelId

HALF_AND_HALF = ("scheduler.policy=by_share", "scheduler.mix={big: 0.5, small: 0.5}")
ALL_SMALL = ("scheduler.policy=by_share", "scheduler.mix={small: 1}")
FDNNC = ("method=fdnnc", "method.rank=2", "method.lr=0.1", "method.batch_size=10")


def state(played: Played) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = checkpoint.load_bytes(played.state)["method"]
    return found


def replies(played: Played, down: dict[str, Tensor], parts: dict[ClientId, SubmodelId]) -> dict[int, Weights]:
    """What these clients answer in round 0."""
    found = {}
    for client, part in parts.items():
        one = played.engine.transport.worker._build(client)  # type: ignore[attr-defined]
        assert isinstance(one, FdnncClient)
        one.round = 0
        found[client] = one.fit(Weights(params=down, submodel=part)).copied()
    return found


def weighted(up: dict[int, Weights], name: str) -> Tensor:
    """The mean of a tensor over those who sent it."""
    senders = [reply for reply in up.values() if name in reply.params]
    total = sum(reply.num_examples * reply.params[name].double() for reply in senders)
    assert isinstance(total, Tensor)
    return total / sum(reply.num_examples for reply in senders)


def classes(played: Played) -> dict[str, list[ClientId]]:
    plan = played.engine.scheduler.plan(0, played.engine.submodels)
    return {kind: [c for c in plan if plan[c].submodel == kind] for kind in (BIG, SMALL)}


def assert_near(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name].double(), tensor.double(), rtol=1e-4, atol=1e-6)


# --- degenerate equalities


@pytest.mark.parametrize("model", ["logistic", "cnn"])
def test_only_big_devices_are_fedavg_to_the_last_bit(model: str, play: Play) -> None:
    words = ["method.lr=0.1", "method.batch_size=10", "method.local_steps=2", f"model={model}"]
    words += ["scheduler.cohort_size=3", "scheduler.failure_probability=0.2"]
    ours, theirs = play(*FDNNC, *words), play("method=fedavg", *words)
    for mine, other in zip(ours.records, theirs.records, strict=True):
        assert {key: mine.get(key) for key in other if "share" not in key} == {
            key: value for key, value in other.items() if "share" not in key
        }
    assert state(theirs)["weights"].keys() == state(ours)["weights"].keys()
    assert all(torch.equal(t, state(ours)["weights"][name]) for name, t in state(theirs)["weights"].items())


def test_bfirst_opens_as_fedavg_among_the_big(play: Play) -> None:
    """BFIRST before R0 asks the same devices the same as BOTH where the small ones' replies are left out."""
    early = play(*FDNNC, *HALF_AND_HALF, "method.pattern=bfirst", "method.bfirst_rounds=2")
    asked = early.ledger.query("phase == 'train' and endpoint == 'fit'")
    assert asked.groupby("round")["submodel"].unique().map(list).tolist() == [["big"], ["big"], ["small"]]
    # Until the switch the server translates nothing; then once, and back for B-ACC outside the train phase.
    server = early.ledger.query("phase == 'train' and endpoint == 'server'")
    assert server["round"].tolist() == [2]
    assert server["flops"].sum() == sum(translation_flops(layer) for layer in early.engine.method.layers)


@pytest.mark.parametrize("pattern", ["both", "switch"])
def test_at_full_rank_big_and_small_networks_are_the_same_function(pattern: str, play: Play) -> None:
    played = play(*FDNNC, *HALF_AND_HALF, f"method.pattern={pattern}", "method.rank=4")
    for record in played.records:
        assert record["eval/loss_small"] == pytest.approx(record["eval/loss_big"], rel=1e-5)
        assert record["eval/accuracy"] == record["eval/accuracy_big"]


def test_small_devices_alone_keep_their_factors_and_big_ones_get_the_product(play: Play) -> None:
    played = play(*FDNNC, *ALL_SMALL)
    kept = state(played)
    assert kept["weights"] == {}
    assert set(kept["factors"]) == {"network.1.weight_a", "network.1.weight_b", "network.1.bias"}
    assert played.records[-1]["eval/loss_small"] == pytest.approx(
        played.records[-1]["eval/loss_big"], rel=1e-5
    )


# --- rounds by hand


@pytest.mark.parametrize("upload", ["full", "half"])
def test_a_round_of_both(upload: str, play: Play) -> None:
    words = [*FDNNC, *HALF_AND_HALF, f"method.upload={upload}", "method.local_steps=2", "model=cnn"]
    played = play(*words, "run.num_rounds=1")
    method: Fdnnc = played.engine.method  # type: ignore[assignment]
    method.start()
    sides, layers = classes(played), method.layers
    assert (len(sides[BIG]), len(sides[SMALL])) == (2, 2)
    first = to_factors(method.weights, layers, place=method.place)
    dense = replies(played, method.weights, dict.fromkeys(sides[BIG], BIG))
    low = replies(played, first, method.parts(sides[SMALL], 0))
    if upload == "half":
        assert sum("network.7.weight_a" in up.params for up in low.values()) == 1
    wide = {name: weighted(dense, name) for name in method.weights}
    narrow = {name: weighted(low, name) if any(name in up.params for up in low.values()) else first[name]
              for name in first}  # fmt: skip
    product = to_dense(narrow, layers, place=method.place)
    wanted = {name: (wide[name] + product[name]) / 2 for name in wide}
    assert_near(state(played)["weights"], wanted)
    # The next round's factors are those of W+.
    again = to_factors(state(played)["weights"], layers, place=method.place)
    assert all(torch.equal(t, again[name]) for name, t in state(played)["factors"].items())


def test_a_round_of_switch(play: Play) -> None:
    words = [*FDNNC, *HALF_AND_HALF, "method.pattern=switch", "method.local_steps=1"]
    played = play(*words, "run.num_rounds=1")
    method: Fdnnc = played.engine.method  # type: ignore[assignment]
    method.start()
    sides, layers = classes(played), method.layers
    dense = replies(played, method.weights, dict.fromkeys(sides[BIG], BIG))
    wide = {name: weighted(dense, name).float() for name in method.weights}
    factors = to_factors(wide, layers, place=method.place)
    low = replies(played, factors, dict.fromkeys(sides[SMALL], SMALL))
    narrow = {name: weighted(low, name) for name in factors}
    kept = state(played)
    assert kept["weights"] == {}
    product = to_dense(kept["factors"], layers, place=method.place)
    assert_near(product, to_dense(narrow, layers, place=method.place))
    # One after the other: the small devices start when the big ones' mean was translated.
    train = played.ledger.query("phase == 'train' and endpoint == 'fit'")
    longest = (train["compute_s"] + train["link_s"]).groupby(train["submodel"]).max()
    assert played.records[0]["time/sim_s"] >= longest.sum()


def test_the_server_pays_for_every_translation(play: Play) -> None:
    played = play(*FDNNC, *HALF_AND_HALF)
    layers = played.engine.method.layers
    down = sum(translation_flops(layer) for layer in layers)
    up = sum(product_flops(layer.shape[0], layer.rank, layer.shape[1]) for layer in layers)
    # W0 is split in the first round; then A B^T and W+ each round.
    assert [r["cost/server_flops"] for r in played.records] == [2 * down + up, down + up, down + up]
    assert all(commit.timings["time/svd_wall_s"] > 0 for commit in played.commits)


def test_the_gap_is_recorded_where_both_factors_come_up(play: Play) -> None:
    assert all(r["fdnnc/gap"] > 0 for r in play(*FDNNC, *HALF_AND_HALF).records)
    one_small = play(*FDNNC, "scheduler.policy=by_share", "scheduler.mix={big: 3, small: 1}")
    assert max(r["fdnnc/gap"] for r in one_small.records) < 1e-6
    for words in (["method.upload=half"], ["method.gap=false"]):
        assert "fdnnc/gap" not in play(*FDNNC, *HALF_AND_HALF, *words).records[0]


# --- halves


def clients(count: int) -> list[ClientId]:
    return [ClientId(10 * k) for k in range(count)]


def test_halves_are_floor_and_ceil_and_drawn_anew_each_round() -> None:
    seen = set()
    for round in range(40):
        parts = halves(clients(5), torch_generator(0, round=round, purpose="halves"))
        assert set(parts) == set(clients(5))
        assert sorted(list(parts.values()).count(part) for part in (SMALL_A, SMALL_B)) == [2, 3]
        seen.add(tuple(parts[c] for c in clients(5)))
    assert len(seen) > 10
    again = halves(clients(5), torch_generator(0, round=39, purpose="halves"))
    assert again == parts


def test_one_small_device_sends_one_factor_and_the_other_stays(play: Play) -> None:
    sent = {halves(clients(1), torch_generator(0, round=r, purpose="halves"))[ClientId(0)] for r in range(9)}
    assert sent == {SMALL_A, SMALL_B}
    played = play(*FDNNC, *ALL_SMALL, "method.upload=half", "partition.num_clients=1", "run.num_rounds=4")
    before = to_factors(initial(played), played.engine.method.layers, place=played.engine.place)
    for commit in played.commits:
        assert commit.checkpoint is not None
        after = checkpoint.load_bytes(commit.checkpoint)["method"]["factors"]
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        (part,) = set(commit.ledger.query("endpoint == 'fit'")["submodel"])
        assert moved == {f"network.1.weight_{part[-1]}", "network.1.bias"}
        before = after


def initial(played: Played) -> dict[str, Tensor]:
    method: Fdnnc = played.engine.method  # type: ignore[assignment]
    method.start()
    return method.weights


def test_lost_replies_leave_everything_as_it_was(play: Play) -> None:
    played = play(*FDNNC, *ALL_SMALL, "scheduler.failure_probability=1", "run.num_rounds=2")
    first, last = (checkpoint.load_bytes(c.checkpoint)["method"]["factors"] for c in played.commits)  # type: ignore[arg-type]
    assert all(torch.equal(t, last[name]) for name, t in first.items())
    both = play(*FDNNC, *HALF_AND_HALF, "scheduler.failure_probability=1", "run.num_rounds=1")
    product = to_dense(state(both)["factors"], both.engine.method.layers, place=both.engine.place)
    assert_near(state(both)["weights"] | {"network.1.weight": product["network.1.weight"]}, product)


# --- bytes


@pytest.mark.parametrize("rank", [1, 3])
def test_bytes_of_full_and_half_on_the_ledger(rank: int, play: Play) -> None:
    """A logistic regression of 64 inputs and 4 outputs: W 256, A 4 r, B 64 r, bias 4 numbers."""
    down = {"big": 4 * 260, "small": 4 * (68 * rank + 4)}
    for upload in ("full", "half"):
        played = play(*FDNNC, *HALF_AND_HALF, f"method.upload={upload}", f"method.rank={rank}")
        fit = played.ledger.query("endpoint == 'fit'")
        up = down | {"small_a": 4 * (4 * rank + 4), "small_b": 4 * (64 * rank + 4)}
        for _, row in fit.iterrows():
            assert row["tx_bytes"] == up[row["submodel"]]
            assert row["rx_bytes"] == down[row["submodel"].partition("_")[0]]
        small = fit[fit["submodel"] != "big"]
        assert set(small["submodel"]) == ({"small"} if upload == "full" else {"small_a", "small_b"})


@pytest.mark.parametrize(("rank", "percent"), [(8, 2.9), (16, 5.1), (32, 8.6)])
def test_half_saves_little_of_alexnets_upload(rank: int, percent: float) -> None:
    cfg = make_config(["method=fdnnc", "task=cifar10", "model=alexnet", f"method.rank={rank}",
                       "method.upload=half"], base=())  # fmt: skip
    found = describe(cfg)
    rows = {row["submodel"]: row for row in found["exchanges"]}
    mean = (rows["small_a"]["tx_bytes"] + rows["small_b"]["tx_bytes"]) / 2
    assert 100 * (1 - mean / rows["small_a"]["rx_bytes"]) == pytest.approx(percent, abs=0.05)
    assert rows["big"]["tx_bytes"] == 4 * 23_272_266
    assert found["savings"][1]["small"] == rows["small_a"]["rx_bytes"] // 4
    assert [bool(row["note"]) for row in found["layers"]] == [False, False, rank >= 10]


def test_vgg_goes_the_same_way() -> None:
    found = describe(make_config(["method=fdnnc", "task=cifar10", "model=vgg11"], base=()))
    big, small = (row["params"] for row in found["models"])
    assert [row["dense"] for row in found["layers"]] == [512 * 4096, 4096 * 4096, 4096 * 10]
    assert big - small == sum(row["dense"] - row["factored"] for row in found["layers"])
    assert big == 28_144_010


def test_what_is_sent_up() -> None:
    whole = dict.fromkeys(("fc.weight_a", "fc.weight_b", "fc.bias", "conv.weight"), torch.zeros(1))
    assert sent_as(SMALL, whole) == whole
    assert set(sent_as(SMALL_A, whole)) == {"fc.weight_a", "fc.bias", "conv.weight"}
    assert set(sent_as(SMALL_B, whole)) == {"fc.weight_b", "fc.bias", "conv.weight"}


# --- who is what


@pytest.mark.parametrize("pattern", ["both", "switch"])
def test_a_device_that_loses_memory_becomes_small_and_the_run_goes_on(pattern: str, tmp_path: Path) -> None:
    words = [*FDNNC, "scheduler.policy=by_memory", f"method.pattern={pattern}", "run.num_rounds=3"]
    engine = start(make_job(make_config(words), tmp_path))
    needs = {name: profile.train_bytes for name, profile in engine.submodels.items()}
    assert needs[BIG] > needs[SMALL] > 0

    def remember(*memory: float) -> None:
        fleet = engine.scheduler.fleet  # type: ignore[attr-defined]
        devices = replace(fleet.devices, memory_bytes=np.array(memory, dtype=np.float64))
        engine.scheduler.fleet = replace(fleet, devices=devices)  # type: ignore[attr-defined]

    def played(commit: Any) -> dict[int, str]:
        fit = commit.ledger.query("endpoint == 'fit'")
        return dict(zip(fit["client"], fit["submodel"], strict=True))

    big, small = float(needs[BIG]), float(needs[SMALL])
    remember(big, big, small, small - 1)
    commit = engine.run_round(0)
    assert played(commit) == {0: "big", 1: "big", 2: "small"}
    assert commit.record["scheduler/skipped"] == 1
    remember(big, big - 1, small, small)
    commit = engine.run_round(1)
    assert played(commit) == {0: "big", 1: "small", 2: "small", 3: "small"}
    remember(small, small, small, small)
    commit = engine.run_round(2)
    assert set(played(commit).values()) == {"small"}
    assert np.isfinite(commit.record["eval/loss"])


def test_half_with_local_epochs_learns(play: Play) -> None:
    words = [*HALF_AND_HALF, "method.upload=half", "method.local_steps=null", "method.local_epochs=2"]
    losses = [r["train/loss"] for r in play(*FDNNC, *words).records]
    assert losses[2] < losses[1] < losses[0]


def test_squared_error_learns(play: Play) -> None:
    words = [*HALF_AND_HALF, "method.loss=squared_error", "method.local_steps=null", "method.lr=0.01"]
    losses = [r["train/loss"] for r in play(*FDNNC, *words).records]
    assert losses[2] < losses[0]


def test_late_devices_are_asked_from_their_round_on(play: Play) -> None:
    words = [*HALF_AND_HALF, "partition=iid", "partition.num_clients=12", "method.late_share=0.5"]
    played = play(*FDNNC, *words, "method.join_round=2")
    asked = played.ledger.query("endpoint == 'fit'").groupby("round")["client"].apply(set)
    assert 2 <= len(asked[0]) < 12
    assert asked[0] == asked[1] < asked[2] == set(range(12))
    # Whoever is not asked pays nothing, not even for waiting.
    assert set(played.ledger.query("round == 0 and client >= 0")["client"]) == asked[0]


# --- mistakes


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("method.rank=0", "method.rank must be >= 1, got 0"),
        ("method.pattern=switchh", "method.pattern: unknown value 'switchh'; did you mean switch?"),
        ("method.upload=quarter", "method.upload: unknown value 'quarter'; choose one of full, half"),
        ("method.loss=mse", "method.loss: unknown value 'mse'; choose one of cross_entropy, squared_error"),
        ("method.bfirst_rounds=0", "method.bfirst_rounds must be >= 1, got 0"),
        ("method.late_share=1", "method.late_share must be in [0, 1), got 1.0"),
        ("method.join_round=-1", "method.join_round must be >= 0, got -1"),
        ("method.lr=0", "method.lr must be > 0, got 0.0"),
    ],
)
def test_settings_that_cannot_work(word: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Fdnnc(make_config(["method=fdnnc", word]).method, make_place())
    assert str(caught.value) == message


def test_a_rank_beyond_every_layer_is_told_to_have_no_effect() -> None:
    with pytest.warns(
        UserWarning, match=r"^method.rank=9 has no effect beyond 2: every layer has its full rank$"
    ):
        method = Fdnnc(make_config(["method=fdnnc", "method.rank=9"]).method, make_place())
    assert [layer.rank for layer in method.layers] == [2]


def test_a_network_without_linear_layers_is_refused() -> None:
    cfg = make_config(["method=fdnnc", "model=mfl_cnn", "task=mnist"], base=())
    with pytest.raises(
        ConfigError, match=r"^task.model=mfl_cnn: has no nn.Linear to factor; choose another "
    ):
        Fdnnc(cfg.method, make_place(task=load_task(cfg.task)))


@pytest.mark.parametrize("pattern", ["switch", "bfirst"])
@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ((), "small"),
        (("scheduler.policy=by_share", "scheduler.mix={big: 1}"), "small"),
        (ALL_SMALL, "big"),
    ],
)
def test_patterns_of_two_classes_need_both(pattern: str, words: tuple[str, ...], missing: str) -> None:
    cfg = make_config([*FDNNC, f"method.pattern={pattern}", *words])
    with pytest.raises(
        ConfigError, match=f"needs clients with submodel {missing}, got none; use policy by_share"
    ):
        preflight(cfg)


def test_patterns_of_two_classes_are_content_with_both() -> None:
    preflight(make_config([*FDNNC, "method.pattern=switch", *HALF_AND_HALF]))
    preflight(make_config([*FDNNC, "method.pattern=both", *ALL_SMALL]))


def test_a_mix_of_unknown_submodels_is_refused(tmp_path: Path) -> None:
    words = [*FDNNC, "scheduler.policy=by_share", "scheduler.mix={bigg: 1}"]
    with pytest.raises(ConfigError, match=r"^scheduler.mix: unknown submodel 'bigg'; did you mean big\?$"):
        play_job(make_job(make_config(words), tmp_path))


# --- real data: HARNESS_DATA_DIR=... pytest -m data


@pytest.mark.data
@pytest.mark.parametrize(
    ("words", "num_clients", "cohort_size", "largest"),
    [
        (["task=cifar10", "task.val_fraction=0.01", "partition=iid"], 200, 20, 248),
        (["task=mnist_writers", "partition=by_writer"], 539, 54, 125),
    ],
)
def test_a_round_on_real_files(
    words: list[str],
    num_clients: int,
    cohort_size: int,
    largest: int,
    play: Play,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "HARNESS_DATA_DIR" not in os.environ:
        pytest.skip("HARNESS_DATA_DIR is not set")
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    words = [*words, f"partition.num_clients={num_clients}", f"scheduler.cohort_size={cohort_size}"]
    words += ["model=cnn", "method.pattern=switch", "method.upload=half", "method.rank=8", "run.num_rounds=1"]
    played = play(
        "method=fdnnc", *HALF_AND_HALF, *words, "task.limit_test=100", base=["runtime.transport=local"]
    )
    assert played.job.partition.sizes.max() == largest
    fit = played.ledger.query("endpoint == 'fit'")
    assert len(fit) == cohort_size
    assert fit["submodel"].value_counts().to_dict() == {
        "big": cohort_size // 2,
        "small_a": pytest.approx(cohort_size / 4, abs=0.5),
        "small_b": pytest.approx(cohort_size / 4, abs=0.5),
    }
