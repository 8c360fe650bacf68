"""Pooled residuals: of a kernel's change only its mean over space travels, one number for k x k.

Huang, Chen, Liu, Chen, Yang, "RPN: a residual pooling network for efficient federated learning", ECAI 2020.
A filter is one (output, input) kernel. Pooling is the orthogonal projection of a change onto kernels that are
constant over space: it keeps their sums, does nothing the second time, and lengthens nothing.

Shape letters: O outputs, I inputs, k kernel side, F filters of a whole network, S of them that are sent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.learning.aggregation import Accumulator, WeightSum
from harness.learning.partial import Piece
from harness.learning.weights import state_of

State = Mapping[str, Tensor]
FILTERS = "/filters"
"""Among the names of tensors, which hold no slash."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """Which tensors of a state are kernels; all their filters, one after the other, are a vector [F]."""

    kernels: Mapping[str, torch.Size]
    """Name -> [O, I, k, k], in order."""

    @classmethod
    def of(cls, module: nn.Module) -> "Pooling":
        """The weights of a module's 2-d convolutions."""
        found = {
            f"{name}.weight": layer.weight.shape
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        }
        return cls({name: shape for name, shape in found.items() if name in state_of(module)})

    @classmethod
    def of_shapes(cls, state: State) -> "Pooling":
        """Where no module is at hand: the tensors with four dimensions."""
        return cls({name: tensor.shape for name, tensor in state.items() if tensor.dim() == 4})

    @property
    def sizes(self) -> list[int]:
        """O I of each kernel tensor; together F."""
        return [shape[0] * shape[1] for shape in self.kernels.values()]

    def areas(self) -> Tensor:
        """[F] k k of each filter."""
        pairs = zip(self.kernels.values(), self.sizes, strict=True)
        parts = [torch.full((size,), float(math.prod(shape[2:]))) for shape, size in pairs]
        return torch.cat(parts) if parts else torch.empty(0)

    def pool(self, state: State) -> Tensor:
        """[F] the mean over space of every filter; float64 sums: constant kernels give their constant."""
        means = [state[name].double().mean(dim=(2, 3)).float().reshape(-1) for name in self.kernels]
        return torch.cat(means) if means else torch.empty(0)

    def spread(self, filters: Tensor) -> dict[str, Tensor]:
        """Kernels constant over space, as views [O, I, 1, 1] to be added to all k x k elements."""
        pairs = zip(self.kernels.items(), filters.split(self.sizes), strict=True)
        return {name: part.view(*shape[:2], 1, 1) for (name, shape), part in pairs}

    def rest(self, state: State) -> dict[str, Tensor]:
        """What is no kernel, and travels as it is."""
        return {name: tensor for name, tensor in state.items() if name not in self.kernels}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which filters are worth sending, by the magnitude of the sum of their elements."""

    threshold: float = 0.0
    """Those above it; 0: all."""
    top_fraction: float | None = None
    """The largest of the whole network, this share of them, rounded up; None: all."""

    @property
    def selects(self) -> bool:
        """Whether anything may be left out."""
        return self.threshold > 0 or (self.top_fraction is not None and self.top_fraction < 1)

    def pick(self, filters: Tensor, pooling: Pooling) -> Tensor | None:
        """[S] int32 places in [F], ascending; None for all of them, which needs no places.

        On the meta device, where there are shapes but no magnitudes, a threshold picks all: the most it can.
        """
        if not self.selects:
            return None
        if self.top_fraction is None and filters.is_meta:
            return torch.empty_like(filters, dtype=torch.int32)
        sums = (filters * pooling.areas().to(filters.device)).abs()
        if self.top_fraction is None:
            found = (sums > self.threshold).nonzero().reshape(-1)
        else:
            found = torch.topk(sums, math.ceil(self.top_fraction * len(sums))).indices.sort().values
        return found.to(torch.int32)


def scatter(sent: Tensor, places: Tensor | None, *, size: int) -> Tensor:
    """[F] with what was sent [S] at its places, and 0 where nothing was."""
    if places is None:
        return sent
    return torch.zeros(size, device=sent.device).index_copy(0, places.long(), sent)


@dataclass(frozen=True, slots=True)
class Added:
    """All that was added to M0 so far: M = M0 + whole + filters, the latter on every element of a kernel."""

    whole: State
    """Name -> tensor at full size; a kernel is here only if it ever travelled whole."""
    filters: Tensor | None
    """[F] since kernels last travelled whole; None where nothing was."""

    @classmethod
    def nothing(cls) -> "Added":
        """At M0."""
        return cls({}, None)

    def plus(self, whole: State, filters: Tensor | None, *, pooling: Pooling) -> "Added":
        """One more mean residual. Kernels that come whole take up what was pooled before.

        Whoever adds the same residuals in the same order has the same bits.
        """
        mine = dict(self.whole)
        if self.filters is not None and pooling.kernels.keys() <= whole.keys():
            mine |= {
                name: mine[name] + more
                if name in mine
                else more.expand(pooling.kernels[name]).clone(memory_format=torch.contiguous_format)
                for name, more in pooling.spread(self.filters).items()
            }
            own = None
        else:
            own = self.filters
        mine |= {name: mine[name] + more if name in mine else more for name, more in whole.items()}
        if filters is not None:
            own = filters if own is None else own + filters
        return Added(mine, own)

    def onto(self, origin: State, *, pooling: Pooling) -> dict[str, Tensor]:
        """M, given M0."""
        found = {name: m0 + self.whole[name] if name in self.whole else m0 for name, m0 in origin.items()}
        if self.filters is not None:
            found |= {name: found[name] + more for name, more in pooling.spread(self.filters).items()}
        return found

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {"whole": dict(self.whole), "filters": self.filters}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> "Added":
        """What gave this `state_dict`."""
        return cls(dict(state["whole"]), state["filters"])


class PooledSum(Accumulator):
    """The plain mean of residuals: every reply counts once, and what it does not send counts 0."""

    def __init__(self, inner: WeightSum, *, size: int | None) -> None:
        """`size`: F; None where kernels travel whole."""
        self.inner = inner
        self.size = size

    @classmethod
    def over(cls, weights: State, *, pooling: Pooling, max_terms: int) -> "PooledSum":
        """For at most so many residuals of a network at `weights`."""
        size = sum(pooling.sizes) if pooling.kernels else None
        shapes = {name: tensor.shape for name, tensor in pooling.rest(weights).items()}
        if size is not None:
            shapes[FILTERS] = torch.Size([size])
        magnitude = WeightSum.like(weights, max_examples=max_terms).magnitude
        return cls(WeightSum(shapes, magnitude=magnitude, max_examples=max_terms), size=size)

    @property
    def num_terms(self) -> int:
        """m."""
        return self.inner.num_terms

    def fresh(self) -> "PooledSum":
        return PooledSum(self.inner.fresh(), size=self.size)

    def add(self, payload: Any) -> bool:
        """Raises ValueError for a residual of another network."""
        params = dict(payload.whole)
        if self.size is not None:
            params[FILTERS] = scatter(payload.filters, payload.places, size=self.size)
        return self.inner.add(Piece(params, num_examples=1))

    def merge(self, other: "PooledSum") -> None:
        self.inner.merge(other.inner)

    def means(self) -> tuple[dict[str, Tensor], Tensor | None]:
        """What travelled whole, and the filters [F]."""
        found = self.inner.mean()
        filters = found.pop(FILTERS, None)
        return found, filters


def spatial_share(residual: State, *, pooling: Pooling) -> float:
    """The share of the kernels' squared length that pooling drops, in [0, 1]: ||R - pool R||^2 / ||R||^2.

    0 would be the paper's Lemma 1 for this residual. 0 too where the kernels did not move.
    """
    total = sum(float(residual[name].double().square().sum()) for name in pooling.kernels)
    return spatial_square(residual, pooling=pooling) / total if total else 0.0


def spatial_square(state: State, *, pooling: Pooling) -> float:
    """||W - pool W||^2 over all kernels: what in them is not constant over space."""
    means = pooling.spread(pooling.pool(state))
    return sum(float((state[name] - mean).double().square().sum()) for name, mean in means.items())


def count_rows(module: nn.Module, pooling: Pooling) -> list[dict[str, Any]]:
    """How many numbers travel one way, whole and pooled, by each convention of counting that papers use."""
    state = state_of(module)
    trained = {name for name, _ in module.named_parameters()}
    norms = {
        f"{name}.{key}" if name else key
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
        for key, _ in layer.named_parameters(recurse=False)
    }
    conventions = {
        "conv_weights": list(pooling.kernels),
        "weights_and_biases": [name for name in state if name in trained - norms],
        "with_bn_scale_and_shift": [name for name in state if name in trained],
        "bn_statistics": [name for name in state if name not in trained],
    }
    return [count_row(name, names, state, pooling) for name, names in conventions.items()]


def count_row(name: str, names: Sequence[str], state: State, pooling: Pooling) -> dict[str, Any]:
    """Of some tensors together."""
    full = sum(state[each].numel() for each in names)
    areas = {each: math.prod(shape[2:]) for each, shape in pooling.kernels.items()}
    pooled = sum(state[each].numel() // areas.get(each, 1) for each in names)
    saved = 100 * (1 - pooled / full) if full else 0.0
    return {"name": name, "full": full, "pooled": pooled, "saved_percent": round(saved, 3)}


def layer_rows(module: nn.Module, pooling: Pooling) -> list[dict[str, Any]]:
    """The same of every convolution."""
    state = state_of(module)
    return [
        {**count_row(name, [name], state, pooling), "kernel": "x".join(map(str, shape[2:]))}
        for name, shape in pooling.kernels.items()
    ]
