"""Sums of weight blocks: by hand, uncovered scalars, any grouping, WeightSum as the case without blocks."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.exchange.payloads import Weights
from harness.learning.aggregation import WeightSum
from harness.learning.block_sum import BlockSum
from harness.types import SubmodelId

ALL, LEFT, RIGHT = (SubmodelId(name) for name in ("all", "left", "right"))
BLOCKS = {ALL: {"w": (slice(0, 4),)}, LEFT: {"w": (slice(0, 2),)}, RIGHT: {"w": (slice(2, 4),)}}
OLD = {"w": torch.tensor([9.0, 9.0, 9.0, 9.0])}


def reply(submodel: SubmodelId, *values: float, n: int = 1) -> Weights:
    return Weights(params={"w": torch.tensor(values)}, num_examples=n, submodel=submodel)


def empty(most: int = 100) -> BlockSum:
    return BlockSum.over(OLD, blocks=BLOCKS, max_examples=most)


def test_every_scalar_has_its_own_weighted_mean() -> None:
    total = empty()
    assert total.add(reply(ALL, 1.0, 2.0, 3.0, 4.0, n=1))
    assert total.add(reply(LEFT, 5.0, 6.0, n=3))
    # (1 + 3 * 5) / 4, (2 + 3 * 6) / 4; the right half was held by the first alone
    assert total.mean_over(OLD)["w"].tolist() == [4.0, 5.0, 3.0, 4.0]


def test_uncovered_scalars_stay_to_the_bit() -> None:
    total = empty()
    total.add(reply(LEFT, 1.0, 2.0))
    old = {"w": torch.tensor([0.1, 0.2, 0.3, float("nan")])}
    found = total.mean_over(old)["w"]
    assert found[:2].tolist() == [1.0, 2.0]
    assert torch.equal(found[2:].view(torch.int32), old["w"][2:].view(torch.int32))
    assert empty().mean_over(OLD)["w"] is OLD["w"]


replies = st.lists(
    st.tuples(
        st.sampled_from([ALL, LEFT, RIGHT]), st.integers(1, 50), st.integers(0, 2**31), st.integers(0, 2)
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60)
@given(replies)
def test_any_grouping_onto_actors_gives_the_same_bits(drawn: list[tuple[SubmodelId, int, int, int]]) -> None:
    def payload(name: SubmodelId, n: int, seed: int) -> Weights:
        values = torch.randn(4 if name == ALL else 2, generator=torch.Generator().manual_seed(seed))
        return reply(name, *values.tolist(), n=n)

    one = empty(most=600)
    parts = [one.fresh() for _ in range(3)]
    for name, n, seed, actor in drawn:
        assert one.add(payload(name, n, seed))
        assert parts[actor].add(payload(name, n, seed))
    into = empty(most=600)
    for part in reversed(parts):
        into.merge(pickle.loads(pickle.dumps(part)))
    assert torch.equal(into.mean_over(OLD)["w"], one.mean_over(OLD)["w"])
    assert into.num_examples == one.num_examples


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 2**31)), min_size=1, max_size=6))
def test_whole_networks_alone_give_weight_sums_mean(drawn: list[tuple[int, int]]) -> None:
    mine, plain = empty(most=300), WeightSum.like(OLD, max_examples=300)
    for n, seed in drawn:
        values = torch.randn(4, generator=torch.Generator().manual_seed(seed)).tolist()
        assert mine.add(reply(ALL, *values, n=n))
        assert plain.add(reply(ALL, *values, n=n))
    assert torch.equal(mine.mean_over(OLD)["w"], plain.mean()["w"])


def test_values_out_of_range_are_refused_and_change_nothing() -> None:
    total = empty()
    assert not total.add(reply(LEFT, 1e9, 0.0))
    assert not total.add(reply(LEFT, float("nan"), 0.0))
    assert not total.add(reply(LEFT, 1.0, 1.0, n=101))
    assert total.mean_over(OLD)["w"] is OLD["w"]


def test_a_reply_of_another_network_is_the_methods_mistake() -> None:
    with pytest.raises(ValueError, match="not a block 'odd'"):
        empty().add(reply(SubmodelId("odd"), 1.0))
    with pytest.raises(ValueError, match=r"w: \(3,\) is not \(2,\)"):
        empty().add(reply(LEFT, 1.0, 2.0, 3.0))


def test_memory_does_not_grow_with_replies() -> None:
    total = empty(most=10_000)
    for _ in range(50):
        total.add(reply(RIGHT, 1.0, 2.0))
    tensors = [v for v in vars(total).values() if isinstance(v, Tensor)]
    assert [t.numel() for t in tensors] == [4]
