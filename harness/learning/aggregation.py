"""Pure functions and exact sums that turn many clients' weights into one.

`WeightSum` adds in float64 on a fixed grid: every term n*x is first rounded to a multiple of a power of two
so coarse that no later sum can round again. Addition of such terms is associative, so any grouping of
clients onto any number of actors gives the same bits (the pre-rounding of Demmel and Nguyen, "Fast
reproducible floating-point summation", ARITH 2013, with one bin).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

A = TypeVar("A", bound="Accumulator")
CHUNK = 1 << 15
"""Elements worked on at a time: float64 buffers that stay in the second-level cache."""
HEADROOM = 1024.0
"""How many times larger than the broadcast's largest value a client's values may be."""


class Accumulator(ABC):
    """A sum whose parts may be added in any grouping."""

    @abstractmethod
    def fresh(self: A) -> A:
        """An empty one of the same kind."""

    @abstractmethod
    def add(self, payload: Any) -> bool:
        """Take one reply in; False, and nothing changed, where it lies outside the range."""

    @abstractmethod
    def merge(self: A, other: A) -> None:
        """Take another partial sum in."""


class WeightSum(Accumulator):
    """Example-weighted sum of equally shaped weights: sum_k n_k x_k and sum_k n_k (McMahan et al. 2017)."""

    def __init__(self, shapes: Mapping[str, torch.Size], *, magnitude: float, max_examples: int) -> None:
        """`magnitude` is the largest absolute value broadcast this round; `max_examples` bounds sum_k n_k."""
        self.shapes = dict(shapes)
        self.magnitude = magnitude
        self.max_examples = max_examples
        self.limit = max(magnitude, 1.0) * HEADROOM
        # Terms are multiples of `unit`; a sum of all of them stays below 2^51 units: exact in 53 bits.
        unit = 2.0 ** (math.ceil(math.log2(self.limit * max(max_examples, 1))) - 51)
        self.anchor = 1.5 * 2.0**52 * unit
        self.sum: Tensor | None = None
        self.num_examples = 0
        self.num_terms = 0

    @classmethod
    def like(cls, weights: Mapping[str, Tensor], *, max_examples: int) -> "WeightSum":
        """A sum for replies shaped like `weights`."""
        magnitude = max((float(t.abs().max()) for t in weights.values() if t.numel()), default=0.0)
        shapes = {name: t.shape for name, t in weights.items()}
        return cls(shapes, magnitude=magnitude, max_examples=max_examples)

    def __getstate__(self) -> dict[str, Any]:
        # As a numpy array it travels out of band, through shared memory on Ray.
        return {**vars(self), "sum": None if self.sum is None else self.sum.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.sum = None if state["sum"] is None else torch.from_numpy(state["sum"].copy())

    def fresh(self) -> "WeightSum":
        return WeightSum(self.shapes, magnitude=self.magnitude, max_examples=self.max_examples)

    def add(self, payload: Any) -> bool:
        """Raises ValueError for weights of another network: the method's mistake, not the client's."""
        params: Mapping[str, Tensor] = payload.params
        if {name: t.shape for name, t in params.items()} != self.shapes:
            raise ValueError("names or shapes of the reply differ from those of the sum")
        flats = [params[name].detach().reshape(-1).cpu() for name in self.shapes]
        if not 1 <= payload.num_examples <= self.max_examples:
            return False
        if not all(self.accepts(flat) for flat in flats):
            return False
        if self.sum is None:
            self.sum = torch.zeros(sum(flat.numel() for flat in flats), dtype=torch.float64)
        offset = 0
        for flat in flats:
            add_on_grid(self.sum[offset : offset + flat.numel()], flat, payload.num_examples, self.anchor)
            offset += flat.numel()
        self.num_examples += payload.num_examples
        self.num_terms += 1
        return True

    def merge(self, other: "WeightSum") -> None:
        if other.sum is not None:
            self.sum = other.sum.clone() if self.sum is None else self.sum.add_(other.sum)
        self.num_examples += other.num_examples
        self.num_terms += other.num_terms

    def mean(self) -> dict[str, Tensor]:
        """sum_k n_k x_k / sum_k n_k as float32. Raises ValueError where nothing was added, or too much."""
        if self.sum is None or self.num_examples == 0:
            raise ValueError("no reply was accepted, so there is no mean")
        if self.num_examples > self.max_examples:
            raise ValueError(f"{self.num_examples} examples were added to a sum made for {self.max_examples}")
        flat = (self.sum / self.num_examples).float()
        parts = flat.split([math.prod(shape) for shape in self.shapes.values()])
        pairs = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(shape) for (name, shape), part in pairs}

    def accepts(self, tensor: Tensor) -> bool:
        """Whether every value of a tensor lies within the grid's range."""
        if tensor.numel() == 0:
            return True
        low, high = torch.aminmax(tensor)
        return bool(torch.maximum(high, -low) <= self.limit)  # False for NaN too


def add_on_grid(total: Tensor, term: Tensor, weight: int, anchor: float) -> None:
    """total += weight * term, each product rounded to the grid that `anchor` sets: (y + anchor) - anchor."""
    buffer = torch.empty(min(CHUNK, term.numel()), dtype=torch.float64)
    for start in range(0, term.numel(), CHUNK):
        piece = term[start : start + CHUNK]
        scratch = buffer[: piece.numel()].copy_(piece)
        total[start : start + CHUNK].add_(scratch.mul_(weight).add_(anchor).sub_(anchor))
