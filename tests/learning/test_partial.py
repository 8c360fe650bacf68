"""Means over those who sent a tensor, by hand and in any grouping."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from harness.learning.aggregation import WeightSum
from harness.learning.partial import PartialSum


@dataclass
class Reply:
    params: dict[str, Tensor]
    num_examples: int = 1
    submodel: str = "small"


LIKE = {"small": {"a": torch.zeros(2), "b": torch.zeros(3)}, "big": {"w": torch.ones(1)}}


def empty() -> PartialSum:
    return PartialSum.like(LIKE, max_examples=100)


def test_each_mean_runs_over_its_senders() -> None:
    total = empty()
    assert total.add(Reply({"a": torch.tensor([1.0, 2.0]), "b": torch.ones(3)}))
    assert total.add(Reply({"a": torch.tensor([3.0, 6.0])}, num_examples=3))
    assert total.add(Reply({"w": torch.tensor([5.0])}, submodel="big"))
    assert {n: t.tolist() for n, t in total.means("small").items()} == {"a": [2.5, 5.0], "b": [1.0, 1.0, 1.0]}
    assert total.means("big")["w"].tolist() == [5.0]


def test_what_nobody_sent_is_not_there() -> None:
    total = empty()
    assert total.means("small") == {}
    total.add(Reply({"b": torch.ones(3)}))
    assert set(total.means("small")) == {"b"}


def test_a_reply_counts_whole_or_not_at_all() -> None:
    total = empty()
    bad = Reply({"a": torch.ones(2), "b": torch.tensor([1.0, torch.inf, 1.0])})
    assert not total.add(bad)
    assert not total.add(Reply({"a": torch.ones(2)}, num_examples=0))
    assert total.means("small") == {}


def test_tensors_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^w of the reply is not in the sum of small$"):
        empty().add(Reply({"w": torch.ones(1)}))


def test_grouping_changes_no_bit() -> None:
    torch.manual_seed(0)
    replies = [
        Reply({"a": torch.randn(2)} | ({"b": torch.randn(3)} if k % 2 else {}), k + 1) for k in range(9)
    ]
    results = []
    for cuts in ((9,), (4, 9), (1, 2, 8, 9)):
        whole, start = empty(), 0
        for cut in reversed(cuts):
            part, start = whole.fresh(), cuts[cuts.index(cut) - 1] if cuts.index(cut) else 0
            for reply in replies[start:cut]:
                part.add(reply)
            whole.merge(part)
        results.append(whole.means("small"))
    for other in results[1:]:
        assert all(torch.equal(other[name], results[0][name]) for name in ("a", "b"))


def test_with_all_tensors_from_all_it_is_the_weight_sum_to_the_bit() -> None:
    torch.manual_seed(0)
    like = {"a": torch.randn(2), "b": 40 * torch.randn(3)}
    plain = WeightSum.like(like, max_examples=100)
    parts = PartialSum.like({"small": like}, max_examples=100)
    for k in range(5):
        reply = Reply({"a": torch.randn(2), "b": torch.randn(3)}, num_examples=k + 1)
        plain.add(reply)
        parts.add(reply)
    assert all(torch.equal(parts.means("small")[name], t) for name, t in plain.mean().items())
