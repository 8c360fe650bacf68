"""Compressed updates: what arrives, what it costs, what is remembered; the same bits wherever they run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from local_run import Forgetful, Play, assert_same, make_config, make_job, play_job
from torch import Tensor

from harness.config import CompressionConfig, as_dict
from harness.exchange.compression import (
    COMPRESSORS,
    Compressor,
    Pooled,
    Quantized,
    Sparse,
    build_compressor,
    compress,
)
from harness.exchange.payloads import Empty, Payload, Weights
from harness.learning.pooling import Pooling
from harness.learning.weights import meta
from harness.run import checkpoint
from harness.run.describe import describe, exchange_rows
from harness.run.driver import preflight
from harness.run.traffic import compressor_for
from harness.types import ConfigError, SubmodelId


def build(**keys: Any) -> Compressor:
    found = build_compressor(CompressionConfig(**keys))
    assert found is not None
    return found


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=dice(seed))


# --- quantize


def test_quantized_by_hand() -> None:
    """Of 127 steps of 0.5: -63.5 is -127 of them, 1 is 2, and 0 stays 0."""
    update = {"w": torch.tensor([-63.5, 1.0, 0.0]), "zero": torch.zeros(2)}
    sent = build(name="quantize").encode(update, generator=dice())
    assert isinstance(sent, Quantized)
    assert sent.codes["w"].dtype is torch.int8
    assert sent.codes["w"].tolist() == [-127, 2, 0]
    assert (float(sent.scales["w"]), float(sent.scales["zero"])) == (0.5, 0)
    assert sent.num_bytes == 3 + 4 + 2 + 4  # int8, and a scale each
    arrived = build(name="quantize").decode(sent, like=update)
    assert all(torch.equal(arrived[name], update[name]) for name in update)


def test_rounding_is_right_on_average_and_off_by_less_than_a_step() -> None:
    update = {"w": torch.tensor([1.27, 0.003, -0.0071, 0.5])}
    quantize = build(name="quantize")
    draws = [
        quantize.decode(quantize.encode(update, generator=dice(seed)), like=update)["w"]
        for seed in range(500)
    ]
    together = torch.stack(draws)
    assert float((together - update["w"]).abs().max()) < 0.01 + 1e-7
    # Steps of 0.01 spread by 0.005 at most: the mean of 500 by 2.2e-4.
    torch.testing.assert_close(together.mean(dim=0), update["w"], atol=1e-3, rtol=0)


# --- topk


def test_the_largest_magnitudes_of_each_tensor() -> None:
    update = {"a": torch.tensor([[1.0, -5.0], [0.5, 3.0]]), "b": torch.tensor([0.1])}
    topk = build(name="topk", fraction=0.5)
    sent = topk.encode(update, generator=dice())
    assert isinstance(sent, Sparse)
    assert (sent.places["a"].tolist(), sent.values["a"].tolist()) == ([1, 3], [-5, 3])
    assert sent.places["b"].dtype is torch.int32
    assert sent.num_bytes == 2 * (4 + 4) + 1 * (4 + 4)  # values and places
    arrived = topk.decode(sent, like=update)
    assert arrived["a"].tolist() == [[0, -5], [0, 3]]
    left = topk.left(update, arrived)
    assert (left["a"].tolist(), left["b"].tolist()) == ([[1, 0], [0.5, 0]], [0])


# --- rpn


def test_pooled_by_hand() -> None:
    update = {"k": torch.tensor([[[[1.0, 3.0]]], [[[0.0, 10.0]]]]), "b": torch.tensor([7.0])}
    pool = build(name="rpn", top_fraction=0.5)
    sent = pool.encode(update, generator=dice())
    assert isinstance(sent, Pooled)
    assert sent.filters is not None
    assert sent.places is not None
    assert (sent.filters.tolist(), sent.places.tolist()) == ([5], [1])
    assert sent.num_bytes == 4 + 4 + 4  # b, a filter, its place
    arrived = pool.decode(sent, like=update)
    assert (arrived["k"].tolist(), arrived["b"].tolist()) == ([[[[0, 0]]], [[[5, 5]]]], [7])
    # Only what the selection left at home is worth keeping: one mean a filter.
    assert {n: t.tolist() for n, t in pool.left(update, arrived).items()} == {"k": [[[[2]]], [[[0]]]]}
    assert pool.encode_down(meta(update)).num_bytes == 4 + 2 * 4


# --- at the door


CONFIGS: list[dict[str, Any]] = [
    {"name": "quantize"},
    {"name": "topk", "fraction": 0.1},
    {"name": "topk", "fraction": 1.0},
    {"name": "rpn"},
    {"name": "rpn", "top_fraction": 0.3},
]


@settings(max_examples=15)
@given(
    st.sampled_from(CONFIGS),
    st.lists(st.lists(st.integers(1, 4), min_size=0, max_size=4), min_size=1, max_size=4),
    st.integers(0, 99),
)
def test_predicted_bytes_are_those_of_real_updates(
    keys: dict[str, Any], shapes: list[list[int]], seed: int
) -> None:
    state = {f"w{i}": draw(*shape, seed=seed + i) for i, shape in enumerate(shapes)}
    down, up = Weights(state), Weights({n: t + 0.1 * draw(*t.shape, seed=7) for n, t in state.items()})
    real = compress(build(**keys), down, up)
    said = compress(build(**keys), Weights(meta(down.params)), Weights(meta(up.params)))
    assert (real.tx_bytes, real.rx_bytes) == (said.tx_bytes, said.rx_bytes)
    assert isinstance(real.up, Weights)
    assert {n: t.shape for n, t in real.up.params.items()} == {n: t.shape for n, t in state.items()}


def test_what_arrives_is_what_went_down_plus_the_decoded_update() -> None:
    down = Weights({"w": torch.tensor([10.0, 20.0])})
    up = Weights({"w": torch.tensor([10.5, 23.0])}, num_examples=7, submodel=SubmodelId("half"))
    moved = compress(build(name="topk", fraction=0.5), down, up)
    assert isinstance(moved.up, Weights)
    assert moved.up.params["w"].tolist() == [10, 23]
    assert (moved.up.num_examples, moved.up.submodel) == (7, "half")
    assert moved.memory is not None
    assert moved.memory["w"].tolist() == [0.5, 0]
    # 0.5 is left over; the next update of 0.4 makes 0.9 of it, more than 0.8.
    up = Weights({"w": torch.tensor([10.4, 20.8])})
    again = compress(build(name="topk", fraction=0.5), down, up, memory=moved.memory)
    assert isinstance(again.up, Weights)
    torch.testing.assert_close(again.up.params["w"], torch.tensor([10.9, 20.0]))


def test_a_part_of_the_weights_may_come_back() -> None:
    down = Weights({"a": torch.ones(4), "b": torch.ones(2)})
    moved = compress(build(name="quantize"), down, Weights({"b": torch.tensor([2.0, 1.0])}))
    assert (moved.tx_bytes, moved.rx_bytes) == (2 + 4, 24)


@pytest.mark.parametrize(
    ("down", "up"),
    [
        (Empty(), Weights({"w": torch.ones(3)})),
        (Weights({"w": torch.ones(3)}), Empty()),
        (Weights({"w": torch.ones(3)}), Weights({"v": torch.ones(3)})),
        (Weights({"w": torch.ones(3)}), Weights({"w": torch.ones(4)})),
        (Weights({"w": torch.ones(3)}), Weights({})),
    ],
)
def test_what_is_no_update_travels_as_it_is(down: Payload, up: Payload) -> None:
    moved = compress(build(name="topk", fraction=0.1), down, up)
    assert moved.up is up
    assert (moved.tx_bytes, moved.rx_bytes) == (up.num_bytes, down.num_bytes)


@pytest.mark.parametrize("keys", CONFIGS)
def test_an_update_that_is_not_finite_arrives_as_it_is_and_is_not_remembered(keys: dict[str, Any]) -> None:
    down, bad = Weights({"w": torch.zeros(2, 2, 3, 3)}), Weights({"w": torch.full((2, 2, 3, 3), math.nan)})
    moved = compress(build(**keys), down, bad, memory={"w": torch.zeros(2, 2, 3, 3)})
    assert moved.up is bad
    assert moved.memory is None


# --- composed with methods


LOW = (
    *("scheduler.policy=by_share", "scheduler.mix={big: 0.5, small: 0.5}", "method.rank=2"),
    *("method.lr=0.1", "method.batch_size=10", "method.local_steps=null", "model=cnn"),
)
MIX = ("scheduler=fixed_mix", "scheduler.mix={L: 0.25, M: 0.25, S: 0.25, T: 0.25}", "model=cnn")
METHODS: Mapping[str, Sequence[str]] = {
    "fedavg": ("model=cnn",),
    "fedprox": ("model=cnn",),
    "mfl": MIX,
    "heterofl": MIX,
    "fdnnc": (*LOW, "method.upload=half"),
}
"""Every method that compressors fit, and what it needs."""
FEW = ("task.limit_train=40", "task.limit_test=20", "run.eval_every=9")
WAYS = {
    "quantize": ("compression=quantize",),
    "topk": ("compression=topk", "compression.fraction=0.1"),
    "rpn": ("compression=rpn",),
    "rpn_top": ("compression=rpn", "compression.top_fraction=0.3"),
}


@pytest.mark.parametrize(
    ("method", "way"),
    [
        *(("fedavg", way) for way in WAYS),
        *(
            ("fedprox", "rpn_top"),
            ("mfl", "topk"),
            ("heterofl", "rpn"),
            ("fdnnc", "quantize"),
            ("fdnnc", "rpn"),
        ),
    ],
)
def test_ledgers_hold_what_was_predicted_for_every_client_and_round(
    method: str, way: str, play: Play
) -> None:
    played = play(f"method={method}", *METHODS[method], *WAYS[way], *FEW, "run.num_rounds=2")
    cfg = played.job.cfg
    said = exchange_rows(
        played.engine.method.exchanges(10), compressor_for(played.engine.method, cfg.compression)
    )
    plain = exchange_rows(played.engine.method.exchanges(10))
    train = played.ledger.query("phase == 'train' and endpoint == 'fit'")
    assert len(train) == 8
    for row in train.to_dict("records"):
        mine = next(s for s in said if s["submodel"] == row["submodel"])
        before = next(s for s in plain if s["submodel"] == row["submodel"])
        assert (row["rx_bytes"], row["tx_bytes"]) == (mine["rx_bytes"], mine["tx_bytes"])
        assert row["tx_bytes"] < before["tx_bytes"]
        assert (row["rx_bytes"] < before["rx_bytes"]) is way.startswith("rpn")
    assert describe(cfg)["exchanges"] == said


@pytest.mark.parametrize(("method", "way"), [("fedavg", "topk"), ("mfl", "rpn_top")])
def test_what_was_not_sent_outlives_checkpoints_and_lost_workers(
    method: str, way: str, tmp_path: Path, play: Play
) -> None:
    words = [f"method={method}", *METHODS[method], *WAYS[way], *FEW, "run.num_rounds=3"]
    words += ["scheduler.failure_probability=0.2", "scheduler.cohort_size=3"]
    job = make_job(make_config(words), tmp_path)
    whole = play_job(job)
    rest = play_job(job, restored=whole.commits[0].checkpoint, first=1)
    assert rest.records == whole.records[1:]
    assert rest.state == whole.state
    assert_same(whole, play(*words, transport=Forgetful))
    memoryless = play(*words, "compression.error_feedback=false")
    assert memoryless.state != whole.state
    assert not memoryless.engine.party.versions  # nobody has a state
    assert whole.engine.party.versions


def test_everything_sent_is_no_compression_but_for_rounding(play: Play) -> None:
    words = ["method=fedavg", "model=cnn", "run.num_rounds=2", *FEW]
    plain, all_of_it = play(*words), play(*words, "compression=topk", "compression.fraction=1")
    weights = [checkpoint.load_bytes(p.state)["method"]["weights"] for p in (plain, all_of_it)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("server", ["none", "momentum", "adam"])
def test_under_rpn_kernels_stay_m0_plus_numbers_so_the_pooled_downlink_is_exact(
    server: str, play: Play
) -> None:
    played = play("method=fedavg", "model=cnn", f"method.server_optimizer={server}", "compression=rpn", *FEW)
    after = checkpoint.load_bytes(played.state)["method"]["weights"]
    played.engine.method.start()
    moved = {name: after[name] - t for name, t in played.engine.method.weights.items()}  # type: ignore[attr-defined]
    pooling = Pooling.of_shapes(moved)
    for name, mean in pooling.spread(pooling.pool(moved)).items():
        assert float(moved[name].abs().max()) > 1e-3
        torch.testing.assert_close(moved[name], mean.expand_as(moved[name]), atol=1e-5, rtol=0)


def test_a_server_that_changes_patterns_cannot_send_them_pooled() -> None:
    pool, kernel = build(name="rpn"), draw(2, 2, 3, 3)
    up = Weights({"k": kernel})
    compress(pool, Weights({"k": kernel}), up, network="fit/full")
    compress(pool, Weights({"k": kernel + torch.tensor([[[[3.0]]]])}), up, network="fit/full")
    compress(pool, Weights({"k": draw(2, 2, 3, 3, seed=1)}), up, network="fit/other")
    with pytest.raises(RuntimeError, match="changed the spatial pattern of kernels in fit/full"):
        compress(pool, Weights({"k": draw(2, 2, 3, 3, seed=1)}), up, network="fit/full")


# --- configuration


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["compression=topkk"], r"compression.name: unknown compressor 'topkk'; did you mean topk\?"),
        (
            ["compression=topk", "compression.fraction=0"],
            r"compression.fraction must be in \(0, 1\], got 0.0",
        ),
        (
            ["compression=topk", "compression.fraction=1.5"],
            r"compression.fraction must be in \(0, 1\], got 1.5",
        ),
        (["compression=rpn", "compression.threshold=-1"], r"compression.threshold must be >= 0, got -1.0"),
        (["compression=rpn", "compression.top_fraction=0"], r"compression.top_fraction must be in \(0, 1\]"),
        (
            ["compression=rpn", "compression.top_fraction=0.5", "compression.threshold=1"],
            "compression.threshold and compression.top_fraction both select filters; set one of them",
        ),
        (
            ["compression=topk", "method=local_only"],
            "compression.name=topk: method local_only sends no weights both ways, so nothing can be",
        ),
        (["compression=rpn", "method=split_learning", "model=mlp"], "method split_learning sends no weights"),
        (["compression=topk", "method=rpn"], "method rpn sends no weights both ways"),
    ],
)
def test_mistakes_are_one_line(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        preflight(make_config(words))
    assert "\n" not in str(caught.value)


def test_runs_without_compression_are_called_as_before_there_was_any() -> None:
    cfg = make_config(["method=fedavg", "task=mnist", "model=fedavg_cnn"], base=())
    assert cfg.run_id == "fedavg-mnist-19b0a3a1-0"  # of a run that finished before the section existed
    other = make_config(["method=mfl", "task=digits", "partition=dirichlet", "seed=3"], base=())
    assert other.run_id == "mfl-digits-853a009d-3"
    ids = {
        make_config(["compression=topk", f"compression.{word}"], base=()).digest
        for word in ("fraction=0.1", "fraction=0.2", "error_feedback=false", "threshold=1", "top_fraction=1")
    }
    assert len({*ids, make_config([], base=()).digest}) == 6
    assert set(as_dict(CompressionConfig())) == set(as_dict(cfg)["compression"])


def test_every_compressor_can_be_named() -> None:
    assert sorted(COMPRESSORS) == ["quantize", "rpn", "topk"]
    assert make_config(["compression=topk"]).compression.name == "topk"


@dataclass(frozen=True, slots=True)
class Odd(Weights):
    """A payload of a user's own that extends weights."""

    extra: int = 0


def test_fields_of_a_payload_survive() -> None:
    down = Weights({"w": torch.ones(3)})
    moved = compress(build(name="quantize"), down, Odd({"w": torch.zeros(3)}, num_examples=2, extra=5))
    assert isinstance(moved.up, Odd)
    assert (moved.up.num_examples, moved.up.extra) == (2, 5)
