"""What is sent is what is counted, and it survives the trip."""

import dataclasses
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.exchange.payloads import Empty, Payload, Scores, Weights
from harness.types import SubmodelId


@dataclass(frozen=True, slots=True)
class Mixed(Payload):
    """Everything a payload may hold."""

    values: Tensor | None
    named: Mapping[str, Tensor]
    count: int = 3
    share: float = 0.5
    word: str = "x"
    flag: bool = True


@dataclass(frozen=True, slots=True)
class Loose(Payload):
    """Something a payload must not hold."""

    values: Any


def mixed() -> Mixed:
    return Mixed(torch.zeros(2, 3), {"a": torch.zeros(5, dtype=torch.int64), "b": torch.zeros(7).bfloat16()})


def test_bytes_by_hand() -> None:
    assert mixed().num_bytes == 2 * 3 * 4 + 5 * 8 + 7 * 2
    assert dataclasses.replace(mixed(), values=None).num_bytes == 5 * 8 + 7 * 2
    assert Empty().num_bytes == 0
    assert Scores(values={"accuracy": torch.tensor(0.5)}).num_bytes == 4
    assert Weights(params={"w": torch.zeros(3, 4)}, num_examples=10**6).num_bytes == 48


def test_a_view_counts_its_elements_and_not_its_storage() -> None:
    assert Loose(torch.zeros(1000)[:10]).num_bytes == 40
    assert Loose(torch.zeros(1).expand(10)).num_bytes == 40


def test_meta_tensors_count_the_same_without_data() -> None:
    assert mixed().mapped(lambda t: t.to("meta")).num_bytes == mixed().num_bytes


@pytest.mark.parametrize(
    "smuggled",
    [
        [1, 2, 3],
        (torch.zeros(2),),
        np.zeros(3),
        {"a": [torch.zeros(2)]},
        {"a": {"b": torch.zeros(2)}},
        {"a": 1},
        b"bytes",
        {1, 2},
    ],
    ids=repr,
)
def test_what_would_travel_uncounted_is_an_error(smuggled: object) -> None:
    with pytest.raises(TypeError, match=r"Loose\.values must hold tensors or one plain value, got"):
        _ = Loose(smuggled).num_bytes


def test_a_copy_shares_nothing_and_is_contiguous() -> None:
    weights = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    original = Weights(params={"w": weights}, num_examples=7, submodel=SubmodelId("half"))
    copy = original.copied()
    copy.params["w"].fill_(1)
    assert float(weights.detach().abs().sum()) == 0
    assert copy.params["w"].is_contiguous()
    assert not copy.params["w"].requires_grad
    assert (type(copy), copy.num_examples, copy.submodel) == (Weights, 7, "half")


TENSORS = {
    "scalar": torch.tensor(1.5),
    "empty": torch.zeros(0, 3),
    "float64": torch.tensor([1.0, torch.nan, -0.0], dtype=torch.float64),
    "float16": torch.tensor([1.5, -2.0]).half(),
    "bfloat16": torch.tensor([[1.5], [-3.0]]).bfloat16(),
    "int64": torch.arange(6).view(2, 3),
    "uint8": torch.arange(6, dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "strided": torch.arange(12.0).view(3, 4).t(),
    "channels_last": torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "grad": torch.ones(2, requires_grad=True),
}


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("name", TENSORS)
def test_a_payload_travels_through_pickle_out_of_band(name: str, read_only: bool) -> None:
    sent = Mixed(TENSORS[name], {"again": TENSORS[name]}, count=9)
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(sent, protocol=5, buffer_callback=buffers.append)
    flat = [b.raw().tobytes() for b in buffers] if read_only else [bytearray(b.raw()) for b in buffers]
    got = pickle.loads(stream, buffers=flat)
    arrived = sent.copied()
    assert type(got) is Mixed
    assert (got.count, got.share, got.word, got.flag) == (9, 0.5, "x", True)
    for ours, theirs in ((got.values, arrived.values), (got.named["again"], arrived.named["again"])):
        assert ours is not None
        assert theirs is not None
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.is_contiguous()
        assert theirs.is_contiguous()
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())
        assert not ours.requires_grad


def test_large_tensors_do_not_pass_through_the_stream() -> None:
    big = Weights(params={"w": torch.zeros(100_000)})
    buffers: list[pickle.PickleBuffer] = []
    assert len(pickle.dumps(big, protocol=5, buffer_callback=buffers.append)) < 2000
    assert sum(b.raw().nbytes for b in buffers) == big.num_bytes


def test_a_copy_of_what_arrives_may_be_written_to() -> None:
    buffers: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(Loose(torch.zeros(3)), protocol=5, buffer_callback=buffers.append)
    kept = [b.raw().tobytes() for b in buffers]
    got = pickle.loads(stream, buffers=kept).copied()
    got.values.fill_(1)
    assert kept[0] == bytes(12)


def test_payloads_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        mixed().count = 4  # type: ignore[misc]
