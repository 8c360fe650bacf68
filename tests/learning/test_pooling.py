"""Pooling is a projection; what was added to M0 has the same bits whoever adds it; counts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.learning.pooling import (
    Added,
    PooledSum,
    Pooling,
    Selection,
    count_rows,
    scatter,
    spatial_share,
)
from harness.learning.weights import state_of
from lightning_modules.networks import build_network, network_names


def kernels(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def project(kernel: Tensor) -> Tensor:
    """The whole way: pooled, sent, added to every element."""
    pooling = Pooling.of_shapes({"k": kernel})
    return pooling.spread(pooling.pool({"k": kernel}))["k"].expand(kernel.shape)


shapes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
seeds = st.integers(0, 2**32)


# --- the projection


def test_by_hand() -> None:
    kernel = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]], [[[0.0, 0.0], [0.0, -4.0]]]])
    pooling = Pooling.of_shapes({"k": kernel, "bias": torch.ones(2)})
    assert pooling.pool({"k": kernel}).tolist() == [3.0, -1.0]
    assert pooling.areas().tolist() == [4.0, 4.0]
    assert pooling.sizes == [2]
    assert list(pooling.rest({"k": kernel, "bias": torch.ones(2)})) == ["bias"]


@given(seeds, shapes)
def test_sums_are_kept_and_the_second_time_changes_no_bit(seed: int, shape: tuple[int, ...]) -> None:
    kernel = kernels(seed, *shape)
    once = project(kernel)
    torch.testing.assert_close(once.sum(dim=(2, 3)), kernel.sum(dim=(2, 3)), rtol=1e-5, atol=1e-5)
    assert torch.equal(project(once), once)


@given(seeds, seeds, shapes)
def test_it_is_the_orthogonal_projection_onto_constant_kernels(
    seed: int, other: int, shape: tuple[int, ...]
) -> None:
    kernel, constant = kernels(seed, *shape).double(), project(kernels(other, *shape)).double()
    dropped = kernel - project(kernel.float())
    assert float((dropped * constant).sum()) == pytest.approx(0, abs=1e-4)  # orthogonal to all constants
    nearest = float((kernel - constant).square().sum())
    assert float(dropped.square().sum()) <= nearest + 1e-6  # none of which lies nearer


@given(seeds, seeds, shapes)
def test_it_lengthens_nothing_and_moves_nothing_apart(seed: int, other: int, shape: tuple[int, ...]) -> None:
    a, b = kernels(seed, *shape), kernels(other, *shape)
    assert float(project(a).norm()) <= float(a.norm()) * (1 + 1e-6)
    assert float((project(a) - project(b)).norm()) <= float((a - b).norm()) * (1 + 1e-5) + 1e-6


@given(seeds, shapes)
def test_feeding_back_what_pooling_dropped_sends_nothing(seed: int, shape: tuple[int, ...]) -> None:
    """pool(R - pool R) = 0: error feedback on pooling itself is a no-op."""
    kernel = kernels(seed, *shape)
    assert float(project(kernel - project(kernel)).abs().max()) < 1e-6


def test_lemma_1_is_wrong_element_by_element() -> None:
    """Residuals whose expectation has a pattern: their pooled mean converges, but to another kernel."""
    pattern = torch.tensor([[1.0, -1.0], [0.0, 4.0]]).expand(1, 1, 2, 2)
    draws = [pattern + 0.5 * kernels(seed, 1, 1, 2, 2) for seed in range(4000)]
    mean, pooled = torch.stack(draws).mean(dim=0), torch.stack([project(d) for d in draws]).mean(dim=0)
    torch.testing.assert_close(mean, pattern, atol=0.05, rtol=0)
    torch.testing.assert_close(pooled, torch.ones(1, 1, 2, 2), atol=0.05, rtol=0)  # 1, -1, 0, 4 -> 1, 1, 1, 1
    assert float((mean - pooled).abs().max()) > 2.9
    pooling = Pooling.of_shapes({"k": mean})
    assert spatial_share({"k": pattern}, pooling=pooling) == pytest.approx(14 / 18)
    assert spatial_share({"k": pooled}, pooling=pooling) < 1e-12
    assert spatial_share({"k": torch.zeros(1, 1, 2, 2)}, pooling=pooling) == 0


# --- which tensors


@pytest.mark.parametrize("name", [n for n in network_names() if not n.startswith(("yolo", "fcn", "alex"))])
def test_kernels_of_a_module_are_its_four_dimensional_weights(name: str) -> None:
    """So the compressor, which sees shapes alone, pools what the method does."""
    with torch.device("meta"):
        module = build_network(name, input_shape=(3, 32, 32), num_classes=10)
    assert Pooling.of(module) == Pooling.of_shapes(state_of(module))


def test_transposed_convolutions_are_pooled_and_shared_weights_counted_once() -> None:
    up = nn.ConvTranspose2d(3, 2, 4)
    module = nn.Sequential(up, nn.Linear(2, 2), up)
    assert dict(Pooling.of(module).kernels) == {"0.weight": torch.Size([3, 2, 4, 4])}


# --- selection


def test_by_the_magnitude_of_the_sum_of_the_elements() -> None:
    """Means 1, -2, 3 over areas 9, 9, 1: sums 9, 18, 3."""
    state = {
        "a": torch.tensor([1.0, -2.0]).view(2, 1, 1, 1).expand(2, 1, 3, 3),
        "b": torch.full((1, 1, 1, 1), 3.0),
    }
    pooling = Pooling.of_shapes(state)
    filters = pooling.pool(state)

    def picked(**keys: float) -> list[int] | None:
        places = Selection(**keys).pick(filters, pooling)
        assert places is None or places.dtype is torch.int32
        return None if places is None else places.tolist()

    assert picked() is picked(top_fraction=1.0) is None
    assert picked(threshold=3.0) == [0, 1]  # above it
    assert picked(threshold=100.0) == []
    assert picked(top_fraction=0.3) == [1]
    assert picked(top_fraction=0.34) == [0, 1]  # rounded up
    assert scatter(filters[:1], torch.tensor([2]), size=3).tolist() == [0, 0, 1]


# --- adding up


NET = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(2, 2))
POOLING = Pooling.of(NET)


def residual(seed: int, *, whole: bool) -> tuple[dict[str, Tensor], Tensor | None]:
    change = {n: kernels(seed + i, *t.shape) for i, (n, t) in enumerate(state_of(NET).items())}
    return (change, None) if whole else (POOLING.rest(change), POOLING.pool(change))


@settings(max_examples=20)
@given(st.lists(st.booleans(), min_size=1, max_size=6), seeds)
def test_the_sum_since_m0_is_the_sum_of_all_updates_to_the_last_bit(wholes: list[bool], seed: int) -> None:
    m0 = {name: t.clone() for name, t in state_of(NET).items()}
    present, plain = Added.nothing(), dict(m0)
    for round, whole in enumerate(wholes):
        change, filters = residual(seed + 10 * round, whole=whole)
        present = present.plus(change, filters, pooling=POOLING)
        spread = {} if filters is None else POOLING.spread(filters)
        plain = {n: t + change[n] if n in change else t + spread[n] for n, t in plain.items()}
    late = Added(dict(present.whole), present.filters)  # what catch_up sends
    for name, tensor in present.onto(m0, pooling=POOLING).items():
        assert torch.equal(tensor, late.onto(m0, pooling=POOLING)[name])
        torch.testing.assert_close(tensor, plain[name], atol=1e-5, rtol=1e-5)
    again = Added.restored(present.state_dict())
    assert all(torch.equal(t, again.whole[n]) for n, t in present.whole.items())


def test_the_mean_is_plain_and_what_is_not_sent_counts_zero() -> None:
    class Reply:
        num_examples = 1000  # of no importance
        whole = {"b": torch.tensor([3.0])}  # noqa: RUF012

        def __init__(self, filters: list[float], places: list[int] | None) -> None:
            self.filters = torch.tensor(filters)
            self.places = None if places is None else torch.tensor(places, dtype=torch.int32)

    state = {"k": torch.zeros(3, 1, 2, 2), "b": torch.zeros(1)}
    pooling = Pooling.of_shapes(state)
    one, two = (PooledSum.over(state, pooling=pooling, max_terms=3) for _ in range(2))
    assert one.add(Reply([1.0, 2.0, 4.0], None))
    assert two.add(Reply([7.0], [1]))
    one.merge(two)
    assert one.num_terms == 2
    whole, filters = one.means()
    assert filters is not None
    assert filters.tolist() == [0.5, 4.5, 2.0]
    assert whole["b"].tolist() == [3.0]


# --- counts


def test_every_convention_has_its_row() -> None:
    """3x3 kernels of 2 x 1 and a 1x1 of 2 x 2, biases of 2 and 2, norm 2 + 2 and 2 + 2, linear 4 + 2."""
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(2, 2)
    )
    rows = {row["name"]: (row["full"], row["pooled"]) for row in count_rows(module, Pooling.of(module))}
    assert rows == {
        "conv_weights": (18 + 4, 2 + 4),
        "weights_and_biases": (18 + 4 + 4 + 6, 2 + 4 + 4 + 6),
        "with_bn_scale_and_shift": (18 + 4 + 4 + 6 + 4, 2 + 4 + 4 + 6 + 4),
        "bn_statistics": (4, 4),
    }
    assert math.isclose(count_rows(module, Pooling.of(module))[0]["saved_percent"], 72.727)
