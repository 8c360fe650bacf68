"""A sum of weight blocks: clients hold different parts of a network, and every scalar has its own mean.

The mean of a scalar runs over the clients that hold it, weighted by their examples. Terms lie on the grid of
`WeightSum`, so the sum does not depend on its grouping; where all hold everything, it equals WeightSum's mean
to the last bit.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.learning.aggregation import WeightSum, add_on_grid
from harness.types import SubmodelId

Blocks = Mapping[SubmodelId, Mapping[str, tuple[slice, ...]]]
"""Instance -> parameter -> its slices of the whole."""


class BlockSum(WeightSum):
    """Per scalar sum_k n_k x_k over the replies that cover it; the n_k are kept per instance."""

    def __init__(
        self, shapes: Mapping[str, torch.Size], *, blocks: Blocks, magnitude: float, max_examples: int
    ) -> None:
        """`blocks` holds every instance that may reply; see WeightSum for the rest."""
        super().__init__(shapes, magnitude=magnitude, max_examples=max_examples)
        self.blocks = {name: dict(block) for name, block in blocks.items()}
        self.examples = dict.fromkeys(self.blocks, 0)
        """Instance -> examples of its replies."""

    @classmethod
    def over(cls, weights: Mapping[str, Tensor], *, blocks: Blocks, max_examples: int) -> "BlockSum":
        """A sum for blocks of `weights`."""
        whole = WeightSum.like(weights, max_examples=max_examples)
        return cls(whole.shapes, blocks=blocks, magnitude=whole.magnitude, max_examples=max_examples)

    def fresh(self) -> "BlockSum":
        return BlockSum(
            self.shapes, blocks=self.blocks, magnitude=self.magnitude, max_examples=self.max_examples
        )

    def add(self, payload: Any) -> bool:
        """Raises ValueError for weights that are not the named instance's."""
        params: Mapping[str, Tensor] = payload.params
        block = self.blocks.get(payload.submodel)
        if block is None or params.keys() != block.keys():
            raise ValueError(f"the reply is not a block {payload.submodel!r} of the sum's network")
        flats = {name: params[name].detach().reshape(-1).cpu() for name in block}
        if not 1 <= payload.num_examples <= self.max_examples:
            return False
        if not all(self.accepts(flat) for flat in flats.values()):
            return False
        if self.sum is None:
            self.sum = torch.zeros(sum(shape.numel() for shape in self.shapes.values()), dtype=torch.float64)
        for name, total in self._views(self.sum).items():
            if name in flats:
                target = total[block[name]]
                if target.shape != params[name].shape:
                    raise ValueError(f"{name}: {tuple(params[name].shape)} is not {tuple(target.shape)}")
                term = torch.zeros(flats[name].numel(), dtype=torch.float64)
                add_on_grid(term, flats[name], payload.num_examples, self.anchor)
                target.add_(term.view(target.shape))
        self.examples[payload.submodel] += payload.num_examples
        self.num_examples += payload.num_examples
        self.num_terms += 1
        return True

    def merge(self, other: WeightSum) -> None:
        assert isinstance(other, BlockSum)
        super().merge(other)
        for name, count in other.examples.items():
            self.examples[name] += count

    def mean_over(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """float32 means; scalars that no reply covers stay as they are in `weights`."""
        if self.num_examples > self.max_examples:
            raise ValueError(f"{self.num_examples} examples were added to a sum made for {self.max_examples}")
        if self.sum is None:
            return dict(weights)
        covered = self._views(torch.zeros_like(self.sum))
        for instance, count in self.examples.items():
            for name, slices in self.blocks[instance].items():
                covered[name][slices] += count
        sums = self._views(self.sum)
        return {
            name: torch.where(covered[name] > 0, (sums[name] / covered[name]).float(), old)
            for name, old in weights.items()
        }

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split([shape.numel() for shape in self.shapes.values()])
        pairs = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in pairs}
