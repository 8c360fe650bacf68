"""Exact sums: by hand, and equal to the last bit for any grouping and order."""

import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.exchange.payloads import Weights
from harness.learning.aggregation import CHUNK, HEADROOM, WeightSum


def reply(*values: float, n: int) -> Weights:
    return Weights(params={"w": torch.tensor(values)}, num_examples=n)


def empty(width: int = 3, *, magnitude: float = 1.0, max_examples: int = 1000) -> WeightSum:
    return WeightSum({"w": torch.Size([width])}, magnitude=magnitude, max_examples=max_examples)


def test_three_clients_by_hand() -> None:
    # (1 * [1, 2, 3] + 2 * [4, 5, 6] + 5 * [-1, 0.5, 0]) / 8 = [4, 14.5, 15] / 8
    total = empty()
    for payload in (reply(1, 2, 3, n=1), reply(4, 5, 6, n=2), reply(-1, 0.5, 0, n=5)):
        assert total.add(payload)
    assert total.mean()["w"].tolist() == [0.5, 1.8125, 1.875]
    assert (total.num_examples, total.num_terms) == (8, 3)


def test_names_and_shapes_come_back() -> None:
    weights = {"a": torch.ones(2, 3), "b": torch.tensor(5.0), "c": torch.zeros(0)}
    total = WeightSum.like(weights, max_examples=10)
    assert total.magnitude == 5.0
    assert total.add(Weights(params=dict(reversed(weights.items())), num_examples=3))
    mean = total.mean()
    assert list(mean) == ["a", "b", "c"]
    assert all(torch.equal(mean[name], weights[name]) for name in weights)


def test_layout_of_a_reply_does_not_matter() -> None:
    image = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    total = WeightSum.like({"w": image}, max_examples=1)
    assert total.add(Weights(params={"w": image.to(memory_format=torch.channels_last)}, num_examples=1))
    assert torch.equal(total.mean()["w"], image)


def test_nothing_added_has_no_mean() -> None:
    total = empty()
    total.merge(total.fresh())
    with pytest.raises(ValueError, match="no reply was accepted"):
        total.mean()


def test_more_examples_than_the_sum_was_made_for_is_an_error() -> None:
    total = empty(max_examples=5)
    assert total.add(reply(1, 1, 1, n=3))
    assert total.add(reply(1, 1, 1, n=3))
    with pytest.raises(ValueError, match="6 examples were added to a sum made for 5"):
        total.mean()


@pytest.mark.parametrize(
    "bad",
    [
        reply(math.nan, 0, 0, n=1),
        reply(0, math.inf, 0, n=1),
        reply(0, 0, -math.inf, n=1),
        reply(0, 2 * HEADROOM, 0, n=1),
        reply(0, -2 * HEADROOM, 0, n=1),
        reply(0, 0, 0, n=0),
        reply(0, 0, 0, n=-1),
        reply(0, 0, 0, n=1001),
    ],
)
def test_a_refused_reply_changes_nothing(bad: Weights) -> None:
    total = empty()
    assert not total.add(bad)
    assert total.add(reply(1, 2, 3, n=2))
    before = total.sum.clone() if total.sum is not None else None
    assert before is not None
    assert not total.add(bad)
    assert total.sum is not None
    assert torch.equal(total.sum, before)
    assert (total.num_examples, total.num_terms) == (2, 1)


def test_what_is_in_range_follows_the_broadcast() -> None:
    assert empty(magnitude=1e-3).add(reply(HEADROOM, 0, 0, n=1))  # small weights may grow to 1024
    assert not empty(magnitude=1e-3).add(reply(1.01 * HEADROOM, 0, 0, n=1))
    assert empty(magnitude=10.0).add(reply(10 * HEADROOM, 0, 0, n=1))


def test_weights_of_another_network_are_an_error() -> None:
    with pytest.raises(ValueError, match="names or shapes"):
        empty().add(reply(1, 2, n=1))
    with pytest.raises(ValueError, match="names or shapes"):
        empty().add(Weights(params={"v": torch.zeros(3)}, num_examples=1))
    extra = {"w": torch.zeros(3), "v": torch.zeros(1)}
    with pytest.raises(ValueError, match="names or shapes"):
        empty().add(Weights(params=extra, num_examples=1))


@pytest.mark.parametrize("terms", [0, 1, 2])
def test_a_partial_sum_travels(terms: int) -> None:
    sent = empty()
    for n in range(1, terms + 1):
        assert sent.add(reply(0.1, n, -1 / 3, n=n))
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(sent, protocol=5, buffer_callback=buffers.append)
    got = pickle.loads(stream, buffers=[b.raw().tobytes() for b in buffers])  # read-only, as on Ray
    for total in (sent, got):
        assert total.add(reply(1, 2, 3, n=5))
    assert torch.equal(got.mean()["w"], sent.mean()["w"])
    assert vars(got).keys() == vars(sent).keys()
    assert (got.num_examples, got.num_terms, got.limit) == (sent.num_examples, sent.num_terms, sent.limit)


def test_vectors_longer_than_a_chunk() -> None:
    width = 2 * CHUNK + 7
    total = empty(width)
    rows = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
    for n, row in zip((1, 2, 3), rows, strict=True):
        assert total.add(Weights(params={"w": row}, num_examples=n))
    exact = (rows.double() * torch.tensor([[1.0], [2.0], [3.0]])).sum(0) / 6
    torch.testing.assert_close(total.mean()["w"].double(), exact, rtol=2**-23, atol=1e-9)


numbers = st.floats(-HEADROOM, HEADROOM, width=32)
replies = st.lists(
    st.tuples(st.lists(numbers, min_size=3, max_size=3), st.integers(1, 60)), min_size=1, max_size=12
)


@given(terms=replies, data=st.data())
def test_any_order_and_grouping_gives_the_same_bits(
    terms: Sequence[tuple[list[float], int]], data: st.DataObject
) -> None:
    straight = empty()
    for values, n in terms:
        assert straight.add(reply(*values, n=n))
    order = data.draw(st.permutations(range(len(terms))))
    actor_of = data.draw(st.lists(st.integers(0, 3), min_size=len(terms), max_size=len(terms)))
    parts = [empty() for _ in range(4)]
    for index in order:
        values, n = terms[index]
        assert parts[actor_of[index]].add(reply(*values, n=n))
    total = empty()
    for part in data.draw(st.permutations(parts)):
        total.merge(part)
    assert torch.equal(total.mean()["w"], straight.mean()["w"])
    assert (total.num_examples, total.num_terms) == (straight.num_examples, straight.num_terms)


@pytest.mark.parametrize("seed", range(10))
def test_sums_that_fill_the_grid_are_exact_too(seed: int) -> None:
    """One heavy client near the limit, many light ones of all magnitudes, and not an example to spare."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 2**16, 40)
    sizes[0] = 2**25 - sizes[1:].sum()
    rows = HEADROOM * 2.0 ** -rng.uniform(0, 40, (40, 50)) * rng.choice([-1, 1], (40, 50))
    rows[0] = 0.999 * HEADROOM
    rows = rows.astype(np.float32)
    payloads = [
        Weights(params={"w": torch.from_numpy(row)}, num_examples=int(n))
        for n, row in zip(sizes, rows, strict=True)
    ]
    means = []
    for order in (np.arange(40), np.arange(40)[::-1], rng.permutation(40)):
        parts = [empty(50, max_examples=int(sizes.sum())) for _ in range(3)]
        for place, index in enumerate(order):
            assert parts[place % 3].add(payloads[index])
        parts[0].merge(parts[1])
        parts[0].merge(parts[2])
        assert parts[0].sum is not None
        means.append(parts[0].sum)
    assert torch.equal(means[0], means[1])
    assert torch.equal(means[0], means[2])


def test_merging_leaves_the_other_sum_alone() -> None:
    total, one, two = empty(), empty(), empty()
    assert one.add(reply(1, 2, 3, n=1))
    assert two.add(reply(1, 2, 3, n=1))
    total.merge(one)
    total.merge(two)
    assert one.mean()["w"].tolist() == two.mean()["w"].tolist() == [1, 2, 3]


@given(terms=replies)
def test_it_is_the_weighted_mean_to_rounding(terms: Sequence[tuple[list[float], int]]) -> None:
    total = empty()
    for values, n in terms:
        assert total.add(reply(*values, n=n))
    exact = weighted_mean(terms)
    # Half a unit of the grid per term before the division, half a float32 step after it.
    grid = len(terms) * 2.0**-30 / total.num_examples
    assert bool(((total.mean()["w"].double() - exact).abs() <= grid + exact.abs() * 2.0**-24).all())


def weighted_mean(terms: Sequence[tuple[list[float], int]]) -> Tensor:
    """In float64, with sums that math.fsum rounds once."""
    count = sum(n for _, n in terms)
    return torch.tensor(
        [math.fsum(n * values[i] for values, n in terms) / count for i in range(3)], dtype=torch.float64
    )
