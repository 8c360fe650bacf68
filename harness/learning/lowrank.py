"""Low-rank states: between a network's weights and the factors of its fully connected layers, metered.

Shape letters: M outputs, N inputs, R rank.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.cost.formulas import product_flops, randomized_svd_flops, svd_flops
from harness.learning.aggregation import WeightSum
from harness.learning.partial import PartialSum, Piece
from harness.learning.seeding import derive
from harness.learning.workplace import Workplace
from harness.types import SubmodelId
from lightning_modules.lowrank import NUM_EXTRA, NUM_POWERS, is_large, linear_layers, split

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Layer:
    """A fully connected layer that is factored."""

    name: str
    """Of the module: its weights are `<name>.weight`, or `<name>.weight_a` and `<name>.weight_b`."""
    shape: tuple[int, int]
    """(M, N)."""
    rank: int
    """min(R, M, N)."""

    @property
    def dense(self) -> str:
        """Name of W [M, N]."""
        return f"{self.name}.weight"

    @property
    def a(self) -> str:
        """Name of A [M, R]."""
        return f"{self.name}.weight_a"

    @property
    def b(self) -> str:
        """Name of B [N, R]."""
        return f"{self.name}.weight_b"

    @property
    def dense_params(self) -> int:
        """M N."""
        return math.prod(self.shape)

    @property
    def factored_params(self) -> int:
        """R (M + N)."""
        return self.rank * sum(self.shape)


def layers_of(module: nn.Module, rank: int) -> tuple[Layer, ...]:
    """The layers of a dense network that low rank replaces, in order."""
    found = []
    for name, layer in linear_layers(module):
        shape = (layer.out_features, layer.in_features)
        found.append(Layer(name, shape, min(rank, *shape)))
    return tuple(found)


def to_factors(dense: State, layers: Sequence[Layer], *, place: Workplace) -> dict[str, Tensor]:
    """W -> A, B by truncated SVD; the rest as it is. FLOPs by formula, wall time to the timings."""
    of = {layer.dense: layer for layer in layers}
    found: dict[str, Tensor] = {}
    with place.timed("time/svd_wall_s"):
        for name, tensor in dense.items():
            if name not in of:
                found[name] = tensor
                continue
            layer = of[name]
            seed = derive(place.seed, purpose=f"svd/{layer.name}")
            a, b = split(tensor.to(place.fabric.device), layer.rank, seed=seed)
            found[layer.a], found[layer.b] = a.cpu(), b.cpu()
            place.meter.book(translation_flops(layer))
    return found


def translation_flops(layer: Layer) -> int:
    """Of the solver that `split` takes for a layer, and of scaling its singular vectors."""
    rows, columns = layer.shape
    if is_large(layer.shape, layer.rank):
        sampled = layer.rank + NUM_EXTRA
        solving = randomized_svd_flops(rows, columns, sampled=sampled, num_powers=NUM_POWERS)
    else:
        solving = svd_flops(rows, columns)
    return solving + layer.factored_params


@torch.no_grad()
def to_dense(factors: State, layers: Sequence[Layer], *, place: Workplace) -> dict[str, Tensor]:
    """A, B -> W = A B^T; the rest as it is."""
    of = {layer.a: layer for layer in layers}
    seconds = {layer.b for layer in layers}
    found: dict[str, Tensor] = {}
    for name, tensor in factors.items():
        if name in of:
            layer = of[name]
            found[layer.dense] = tensor @ factors[layer.b].T
            place.meter.book(product_flops(layer.shape[0], layer.rank, layer.shape[1]))
        elif name not in seconds:
            found[name] = tensor
    return found


PRODUCTS = "products"
"""Name under which a FactorSum keeps A B^T."""


class FactorSum(PartialSum):
    """A PartialSum that also keeps the mean of A B^T over replies that hold both factors, for `factor_gap`.

    That mean is a diagnostic: it travels nowhere and is charged to nobody.
    """

    def __init__(self, sums: Mapping[str, Mapping[str, WeightSum]], *, layers: Sequence[Layer] = ()) -> None:
        super().__init__(sums)
        self.layers = tuple(layers)

    @classmethod
    def watching(
        cls, states: Mapping[SubmodelId, State], *, layers: Sequence[Layer], max_examples: int
    ) -> "FactorSum":
        """A sum for replies shaped like `states`, with the products of `layers`."""
        plain = cls.like({str(name): state for name, state in states.items()}, max_examples=max_examples)
        sums: dict[str, Mapping[str, WeightSum]] = dict(plain.sums)
        sums[PRODUCTS] = {
            layer.name: WeightSum(
                {layer.name: torch.Size(layer.shape)}, magnitude=1.0, max_examples=max_examples
            )
            for layer in layers
        }
        return cls(sums, layers=layers)

    def fresh(self) -> "FactorSum":
        return FactorSum(super().fresh().sums, layers=self.layers)

    def add(self, payload: Any) -> bool:
        if not super().add(payload):
            return False
        for layer in self.layers:
            if layer.a in payload.params and layer.b in payload.params:
                product = payload.params[layer.a] @ payload.params[layer.b].T
                part = self.sums[PRODUCTS][layer.name]
                part.add(Piece({layer.name: product}, payload.num_examples))
        return True

    def gap(self, submodel: str) -> float | None:
        """||mean(A) mean(B)^T - mean(A B^T)||_F / ||mean(A B^T)||_F over all layers; None without replies.

        What averaging the factors apart misses of averaging their products. Single precision: below about
        1e-7 it is rounding.
        """
        factors, products = self.means(submodel), self.means(PRODUCTS)
        if not products or not all(layer.a in factors and layer.b in factors for layer in self.layers):
            return None
        missed = whole = 0.0
        for layer in self.layers:
            product = products[layer.name]
            missed += float((factors[layer.a] @ factors[layer.b].T - product).double().square().sum())
            whole += float(product.double().square().sum())
        return math.sqrt(missed / whole) if whole else None


def halfway(one: State, other: State) -> dict[str, Tensor]:
    """The unweighted mean of two states of equal names."""
    return {name: (tensor + other[name]) / 2 for name, tensor in one.items()}


def layer_rows(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """What becomes of each layer's weights."""
    return [
        {
            "name": layer.name,
            "rank": layer.rank,
            "dense": layer.dense_params,
            "factored": layer.factored_params,
            "grows_from_rank": layer.dense_params // sum(layer.shape) + 1,
            "svd_flops": translation_flops(layer),
            "note": "" if layer.factored_params < layer.dense_params else "not smaller than dense",
        }
        for layer in layers
    ]


def saving_rows(layers: Sequence[Layer], *, num_params: int) -> list[dict[str, Any]]:
    """Parameters of big and small devices, and what HALF leaves of an upload: FC weights and whole network.

    `num_params` is the dense network's. `half` is the mean over the two halves.
    """
    dense = sum(layer.dense_params for layer in layers)
    factored = sum(layer.factored_params for layer in layers)
    rows = []
    for name, rest in (("fc_weights", 0), ("network", num_params - dense)):
        big, small, half = dense + rest, factored + rest, factored / 2 + rest
        rows.append(
            {
                "name": name,
                "big": big,
                "small": small,
                "ratio": round(big / small, 4),
                "half": half,
                "half_saving": round(1 - half / small, 4),
            }
        )
    return rows
