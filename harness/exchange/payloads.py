"""Typed, frozen messages. What is sent is what is counted: the bytes of a payload are those of its tensors.

Shape letters: N examples, B batch, C classes.
"""

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from harness.types import SubmodelId

P = TypeVar("P", bound="Payload")
PLAIN = (bool, int, float, str, type(None))
FULL = SubmodelId("full")
"""The whole network, where a method has no smaller ones."""


@dataclass(frozen=True, slots=True)
class Payload:
    """Base of every message. Fields are tensors, mappings of tensors, None, or plain values.

    Plain values (an example count, a submodel's name) are envelope, not content: they count no bytes. A field
    that holds anything else would travel uncounted, so it is a TypeError.
    """

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors, on any device (meta tensors too, so `describe` needs no data)."""
        return sum(t.numel() * t.element_size() for t in self.tensors())

    def tensors(self) -> list[Tensor]:
        """Every tensor, in field order."""
        found: list[Tensor] = []
        for field in fields(self):
            value = getattr(self, field.name)
            tensors = list(value.values()) if isinstance(value, Mapping) else [value]
            if isinstance(value, Mapping) or not isinstance(value, PLAIN):
                odd = next((t for t in tensors if not isinstance(t, Tensor)), None)
                if odd is not None:
                    where = f"{type(self).__name__}.{field.name}"
                    raise TypeError(f"{where} must hold tensors or one plain value, got {type(odd).__name__}")
                found.extend(tensors)
        return found

    def copied(self: P) -> P:
        """What arrives at the other end: tensors on the CPU, contiguous, sharing no memory with these."""
        layout = torch.contiguous_format
        return self.mapped(lambda t: t.detach().to("cpu", copy=True, memory_format=layout))

    def mapped(self: P, change: Callable[[Tensor], Any]) -> P:
        """The same payload with `change` applied to every tensor."""
        return cast(P, _rebuild(type(self), [_walk(getattr(self, f.name), change) for f in fields(self)]))

    def __reduce__(self) -> tuple[Any, ...]:
        # numpy buffers travel out of band (pickle 5): Ray moves them through shared memory.
        packed = [_walk(getattr(self, f.name), _Packed.of) for f in fields(self)]
        return _unpack, (type(self), packed)


@dataclass(frozen=True, slots=True)
class Empty(Payload):
    """Nothing but the call itself."""


@dataclass(frozen=True, slots=True)
class Weights(Payload):
    """Parameters and floating-point buffers of a (sub)model, absolute values."""

    params: Mapping[str, Tensor]
    """Name -> tensor of any shape."""
    num_examples: int = 0
    """Examples they were trained on: the weight in the mean."""
    submodel: SubmodelId = FULL
    """Which submodel the names belong to."""


@dataclass(frozen=True, slots=True)
class Scores(Payload):
    """A client's own evaluation."""

    values: Mapping[str, Tensor]
    """Metric key -> [] float."""


@dataclass(frozen=True, slots=True)
class Activations(Payload):
    """What the layers below a cut make of a batch."""

    values: Tensor
    """[B, ...] at the cut."""


@dataclass(frozen=True, slots=True)
class Gradients(Payload):
    """What the layers below a cut need for their backward pass."""

    values: Tensor
    """[B, ...] dLoss / dActivations."""


@dataclass(frozen=True, slots=True)
class Knowledge(Payload):
    """What a client knows of its examples, without a weight of its network."""

    features: Tensor
    """[N, ...] at the cut."""
    logits: Tensor | None
    """[N, C] of the client's own classifier; None where nobody learns from them."""
    labels: Tensor
    """[N] int64."""
    ids: Tensor
    """[N] int64, sample ids."""


@dataclass(frozen=True, slots=True)
class Logits(Payload):
    """Soft labels by sample id; nothing where there are none yet."""

    values: Tensor | None = None
    """[N, C]"""
    ids: Tensor | None = None
    """[N] int64."""


def pack(payload: Payload) -> dict[str, Any]:
    """A payload as a tree of tensors and plain values, for a checkpoint."""
    cls = type(payload)
    values = {f.name: _walk(getattr(payload, f.name), torch.clone) for f in fields(payload)}
    return {"class": f"{cls.__module__}:{cls.__qualname__}", "fields": values}


def unpack(packed: Mapping[str, Any]) -> Payload:
    """The payload that `pack` was given. Raises TypeError where no loaded module has such a Payload."""
    module, _, name = packed["class"].partition(":")
    cls = getattr(sys.modules.get(module), name, None)
    if not (isinstance(cls, type) and issubclass(cls, Payload)):
        raise TypeError(f"{packed['class']} is no Payload")
    return cls(**packed["fields"])


class _Packed:
    """A tensor on its way through pickle: a numpy view of its bytes, its dtype and shape."""

    __slots__ = ("array", "dtype")

    def __init__(self, array: "np.ndarray[Any, Any]", dtype: torch.dtype) -> None:
        self.array, self.dtype = array, dtype

    @classmethod
    def of(cls, tensor: Tensor) -> "_Packed":
        plain = tensor.detach().cpu().contiguous()
        # numpy knows no bfloat16: such tensors travel as the integers that share their bits.
        bits = plain.view(torch.int16) if plain.dtype == torch.bfloat16 else plain
        return cls(bits.numpy(), plain.dtype)

    def tensor(self) -> Tensor:
        return torch.from_numpy(self.array).view(self.dtype)


def _walk(value: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: change(tensor) for name, tensor in value.items()}
    return value


def _unpack(cls: type[Payload], packed: list[Any]) -> Payload:
    def unpack(value: Any) -> Any:
        if isinstance(value, _Packed):
            return value.tensor()
        if isinstance(value, dict):
            return {name: item.tensor() for name, item in value.items()}
        return value

    with warnings.catch_warnings():
        # Ray hands out read-only views of shared memory, which torch cannot mark as such. Both ends copy
        # before anyone may write: `invoke` what goes down, the transport what comes up.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return _rebuild(cls, [unpack(value) for value in packed])


def _rebuild(cls: type[Payload], values: list[Any]) -> Payload:
    return cls(**{field.name: value for field, value in zip(fields(cls), values, strict=True)})
