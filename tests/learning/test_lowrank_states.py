"""From weights to factors and back, metered; the gap by hand."""

import math
from dataclasses import dataclass

import pytest
import torch
from local_run import make_place
from torch import Tensor, nn

from harness.cost.formulas import randomized_svd_flops, svd_flops
from harness.learning.lowrank import (
    FactorSum,
    Layer,
    halfway,
    layer_rows,
    layers_of,
    saving_rows,
    to_dense,
    to_factors,
    translation_flops,
)
from lightning_modules.networks import build_network


@dataclass
class Reply:
    params: dict[str, Tensor]
    num_examples: int = 1
    submodel: str = "small"


FC = Layer("fc", (2, 2), 1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def test_there_and_back_by_name() -> None:
    place, module = make_place(), network()
    layers = layers_of(module, 4)
    assert [(one.name, one.shape, one.rank) for one in layers] == [("0", (5, 6), 4), ("2", (3, 5), 3)]
    state = {name: p.detach() for name, p in module.named_parameters()}
    factors = to_factors(state, layers, place=place)
    assert list(factors) == ["0.weight_a", "0.weight_b", "0.bias", "2.weight_a", "2.weight_b", "2.bias"]
    dense = to_dense(factors, layers, place=place)
    assert list(dense) == list(state)
    assert torch.equal(dense["0.bias"], state["0.bias"])
    # The second layer kept its full rank.
    torch.testing.assert_close(dense["2.weight"], state["2.weight"])
    assert not torch.allclose(dense["0.weight"], state["0.weight"])


def test_both_ways_are_booked_and_timed() -> None:
    place, module = make_place(), network()
    layers = layers_of(module, 2)
    state = {name: p.detach() for name, p in module.named_parameters()}
    factors = to_factors(state, layers, place=place)
    scaling = 2 * (5 + 6) + 2 * (3 + 5)
    assert place.meter.take() == svd_flops(5, 6) + svd_flops(3, 5) + scaling
    to_dense(factors, layers, place=place)
    assert place.meter.take() == 2 * 2 * (5 * 6 + 3 * 5)
    assert place.take_walls()["time/svd_wall_s"] > 0
    assert place.take_walls() == {}


def test_large_layers_are_booked_at_what_their_solver_costs() -> None:
    large = Layer("fc", (4096, 1024), 32)
    solving = randomized_svd_flops(4096, 1024, sampled=48, num_powers=4)
    assert translation_flops(large) == solving + 32 * (4096 + 1024)
    assert translation_flops(Layer("fc", (10, 4096), 10)) == svd_flops(10, 4096) + 10 * 4106


def test_halfway() -> None:
    assert halfway({"w": torch.tensor([1.0, 4.0])}, {"w": torch.tensor([3.0, 0.0])})["w"].tolist() == [
        2.0,
        2.0,
    ]


# --- the gap


def reply(a: list[float], b: list[float]) -> Reply:
    return Reply({"fc.weight_a": torch.tensor(a)[:, None], "fc.weight_b": torch.tensor(b)[:, None]})


def watching() -> FactorSum:
    like = {"small": reply([1.0, 1.0], [1.0, 1.0]).params}
    return FactorSum.watching(like, layers=[FC], max_examples=10)


def test_the_gap_by_hand() -> None:
    total = watching().fresh()
    # A = (1, 0) and (0, 1), B = (1, 0) and (0, 1): the mean product is the identity halved,
    # the product of means is all 1/4.
    assert total.add(reply([1.0, 0.0], [1.0, 0.0]))
    assert total.add(reply([0.0, 1.0], [0.0, 1.0]))
    missed, whole = math.sqrt(4 / 16), math.sqrt(2 / 4)
    assert total.gap("small") == pytest.approx(missed / whole, rel=1e-6)


def test_equal_devices_leave_no_gap_and_a_sum_of_halves_has_none() -> None:
    total = watching()
    for _ in range(2):
        total.add(reply([2.0, 3.0], [1.0, 5.0]))
    assert total.gap("small") == 0
    half = watching()
    assert half.gap("small") is None
    half.add(Reply({"fc.weight_a": torch.ones(2, 1)}))
    assert half.gap("small") is None


# --- what describe says


def test_from_rank_ten_on_the_last_layer_of_ten_outputs_grows() -> None:
    with torch.device("meta"):
        alexnet = build_network("alexnet", input_shape=(3, 32, 32), num_classes=10)
    rows = {rank: layer_rows(layers_of(alexnet, rank))[-1] for rank in (9, 10)}
    assert [rows[rank]["note"] for rank in (9, 10)] == ["", "not smaller than dense"]
    assert rows[9]["grows_from_rank"] == 10
    assert (rows[10]["factored"], rows[10]["dense"]) == (41_060, 40_960)


@pytest.mark.parametrize(
    ("rank", "ratio", "saving"), [(8, 9.70, 0.029), (16, 9.26, 0.051), (32, 8.53, 0.086)]
)
def test_fc_weights_and_whole_network_side_by_side(rank: int, ratio: float, saving: float) -> None:
    with torch.device("meta"):
        alexnet = build_network("alexnet", input_shape=(3, 32, 32), num_classes=10)
    fc, whole = saving_rows(layers_of(alexnet, rank), num_params=23_272_266)
    assert (fc["name"], fc["big"], fc["half_saving"]) == ("fc_weights", 21_012_480, 0.5)
    assert (whole["name"], whole["big"]) == ("network", 23_272_266)
    assert whole["ratio"] == pytest.approx(ratio, abs=0.01)
    assert whole["half_saving"] == pytest.approx(saving, abs=0.0005)
    if rank == 8:
        assert fc["ratio"] == pytest.approx(150.8, abs=0.05)
