"""Sums over replies that hold different tensors: each tensor's mean runs over those who sent it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from harness.learning.aggregation import Accumulator, WeightSum


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of a reply, in the form that a WeightSum takes."""

    params: Mapping[str, Tensor]
    num_examples: int


class PartialSum(Accumulator):
    """A WeightSum for every submodel and tensor. A reply names its submodel and may leave tensors out."""

    def __init__(self, sums: Mapping[str, Mapping[str, WeightSum]]) -> None:
        self.sums = {submodel: dict(parts) for submodel, parts in sums.items()}

    @classmethod
    def like(cls, states: Mapping[str, Mapping[str, Tensor]], *, max_examples: int) -> "PartialSum":
        """For replies shaped like these states, or parts of them; one grid for a whole state."""
        sums = {}
        for submodel, state in states.items():
            magnitude = WeightSum.like(state, max_examples=max_examples).magnitude
            sums[submodel] = {
                name: WeightSum({name: t.shape}, magnitude=magnitude, max_examples=max_examples)
                for name, t in state.items()
            }
        return cls(sums)

    def fresh(self) -> "PartialSum":
        return PartialSum(
            {
                submodel: {name: s.fresh() for name, s in parts.items()}
                for submodel, parts in self.sums.items()
            }
        )

    def add(self, payload: Any) -> bool:
        """All tensors of the reply or none. Raises ValueError for one that belongs to another network."""
        parts = self.sums[payload.submodel]
        odd = sorted(set(payload.params) - set(parts))
        if odd:
            raise ValueError(f"{odd[0]} of the reply is not in the sum of {payload.submodel}")
        if not all(parts[name].accepts(tensor) for name, tensor in payload.params.items()):
            return False
        pieces = {name: Piece({name: t}, payload.num_examples) for name, t in payload.params.items()}
        added = [parts[name].add(piece) for name, piece in pieces.items()]
        return all(added)

    def merge(self, other: "PartialSum") -> None:
        for submodel, parts in other.sums.items():
            for name, part in parts.items():
                self.sums[submodel][name].merge(part)

    def means(self, submodel: str) -> dict[str, Tensor]:
        """The mean of every tensor that somebody sent, over those who did."""
        found: dict[str, Tensor] = {}
        for part in self.sums[submodel].values():
            if part.num_examples:
                found |= part.mean()
        return found
