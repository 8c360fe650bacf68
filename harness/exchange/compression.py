"""Compressed updates: what a client changed travels in fewer bytes, and the ledger counts those.

`invoke` puts the compressor between a client and the world, so every method that trains weights it was
sent (`Weights` down, `Weights` up) can use one. It sees the update, up - down; what arrives is down + decoded
update. Everything else, and every exchange outside training, travels as it is.

| name | up | down | source |
|---|---|---|---|
| quantize | int8, stochastically rounded, and a float32 scale per tensor | as it is | QSGD, NeurIPS 2017 |
| topk | the largest changes of each tensor and their int32 places | as it is | Stich et al., NeurIPS 2018 |
| rpn | a mean for each convolution kernel | the same | Huang et al., ECAI 2020 |

`quantize` and `topk` leave the downlink alone: a broadcast holds whole weights, and a client that sat rounds
out has nothing they could be a difference to. Under `rpn` everyone holds the first weights M0, and all that
updates ever add to a kernel is constant over space; so the server sends what was added since M0, pooled.
That is exact, where the server's own step treats all elements of a tensor alike, as means, momentum and Adam
do; `Pool.watch` raises an error where a server does otherwise.

Error feedback keeps what was not sent and adds it to the next update of the same network. It is state of the
client, like any other.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.config import CompressionConfig, nearest, require
from harness.exchange.payloads import Payload, Weights
from harness.learning.pooling import Pooling, Selection, State, scatter, spatial_square
from harness.learning.weights import meta

LEVELS = 127
"""Largest magnitude of an int8 code."""


@dataclass(frozen=True, slots=True)
class Pooled(Payload):
    """A residual whose kernels are pooled."""

    whole: State
    """Name -> change of a tensor at full size."""
    filters: Tensor | None = None
    """[S] means over space of the filters that are sent."""
    places: Tensor | None = None
    """[S] int32, where they belong among all filters [F]; None where all are sent."""


@dataclass(frozen=True, slots=True)
class Quantized(Payload):
    """Integers and what one is worth."""

    codes: Mapping[str, Tensor]
    """Name -> int8 of any shape."""
    scales: Mapping[str, Tensor]
    """Name -> [] float32."""


@dataclass(frozen=True, slots=True)
class Sparse(Payload):
    """Some elements of each tensor."""

    values: Mapping[str, Tensor]
    """Name -> [S]."""
    places: Mapping[str, Tensor]
    """Name -> [S] int32 in the flattened tensor."""


class Compressor(ABC):
    """One way to send an update. Works on meta tensors, so that bytes are known before anything runs."""

    def __init__(self, cfg: CompressionConfig) -> None:
        """Raises ConfigError for values it cannot work with."""
        self.cfg = cfg

    @property
    def remembers(self) -> bool:
        """Whether clients keep what was not sent."""
        return False

    @abstractmethod
    def encode(self, update: State, *, generator: torch.Generator) -> Payload:
        """What travels."""

    @abstractmethod
    def decode(self, sent: Any, *, like: State) -> dict[str, Tensor]:
        """What arrives, shaped as `like`."""

    def left(self, update: State, arrived: State) -> dict[str, Tensor]:
        """What error feedback keeps."""
        return {name: tensor - arrived[name] for name, tensor in update.items()}

    def watch(self, network: str, weights: State) -> None:
        """See a real broadcast, to raise RuntimeError where it cannot travel as `encode_down` says."""
        return

    def encode_down(self, weights: State) -> Payload:
        """What of a broadcast travels."""
        return Weights(params=weights)


class Quantize(Compressor):
    """x -> floor(x / s + u) with u uniform in [0, 1) and s = max|x| / 127: the mean of what arrives is x."""

    def encode(self, update: State, *, generator: torch.Generator) -> Quantized:
        scales = {name: tensor.abs().amax() / LEVELS for name, tensor in update.items()}
        return Quantized({n: self._codes(t, scales[n], generator) for n, t in update.items()}, scales)

    def _codes(self, tensor: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
        if tensor.is_meta:
            return torch.empty_like(tensor, dtype=torch.int8)
        uniform = torch.rand(tensor.shape, generator=generator)
        steps = torch.where(scale > 0, tensor / scale, torch.zeros_like(tensor))
        return (steps + uniform).floor().clamp(-LEVELS, LEVELS).to(torch.int8)

    def decode(self, sent: Quantized, *, like: State) -> dict[str, Tensor]:
        return {name: codes * sent.scales[name] for name, codes in sent.codes.items()}


class TopK(Compressor):
    """The ceil(fraction * n) largest magnitudes of each tensor of n elements."""

    def __init__(self, cfg: CompressionConfig) -> None:
        super().__init__(cfg)
        require(0 < cfg.fraction <= 1, f"compression.fraction must be in (0, 1], got {cfg.fraction}")

    @property
    def remembers(self) -> bool:
        return self.cfg.error_feedback and self.cfg.fraction < 1

    def encode(self, update: State, *, generator: torch.Generator) -> Sparse:
        places = {name: self._places(tensor.reshape(-1)) for name, tensor in update.items()}
        values = {name: tensor.reshape(-1)[places[name].long()] for name, tensor in update.items()}
        return Sparse(values, places)

    def _places(self, flat: Tensor) -> Tensor:
        size = math.ceil(self.cfg.fraction * len(flat))
        return torch.topk(flat.abs(), size).indices.sort().values.to(torch.int32)

    def decode(self, sent: Sparse, *, like: State) -> dict[str, Tensor]:
        return {
            name: scatter(values, sent.places[name], size=like[name].numel()).view(like[name].shape)
            for name, values in sent.values.items()
        }


class Pool(Compressor):
    """The mean over space of each kernel, of all or of the largest; what is no kernel as it is."""

    def __init__(self, cfg: CompressionConfig) -> None:
        super().__init__(cfg)
        self.selection = check_selection(cfg.threshold, cfg.top_fraction, section="compression")
        self._patterns: dict[str, float] = {}
        """Squared length, by network, of what in its kernels is not constant over space: M0's, for good."""

    @property
    def remembers(self) -> bool:
        return self.cfg.error_feedback and self.selection.selects

    def encode(self, update: State, *, generator: torch.Generator) -> Pooled:
        return pooled(update, pooling=Pooling.of_shapes(update), selection=self.selection)

    def decode(self, sent: Pooled, *, like: State) -> dict[str, Tensor]:
        pooling = Pooling.of_shapes(like)
        assert sent.filters is not None
        filters = scatter(sent.filters, sent.places, size=sum(pooling.sizes))
        means = pooling.spread(filters)
        return {n: means[n].expand(t.shape) if n in means else sent.whole[n] for n, t in like.items()}

    def left(self, update: State, arrived: State) -> dict[str, Tensor]:
        # Of what pooling itself drops the mean over space is 0: kept or not, it is never sent.
        pooling = Pooling.of_shapes(update)
        return dict(pooling.spread(pooling.pool(update) - pooling.pool(arrived)))

    def watch(self, network: str, weights: State) -> None:
        found = spatial_square(weights, pooling=Pooling.of_shapes(weights))
        known = self._patterns.setdefault(network, found)
        if abs(found - known) > 1e-3 * known:
            raise RuntimeError(
                f"compression=rpn: the server changed the spatial pattern of kernels in {network}, which "
                f"pooled numbers cannot tell (squared length {known:.6g}, now {found:.6g}); use another one"
            )

    def encode_down(self, weights: State) -> Payload:
        return pooled(weights, pooling=Pooling.of_shapes(weights), selection=Selection())


def pooled(change: State, *, pooling: Pooling, selection: Selection) -> Pooled:
    """A change as it travels."""
    filters = pooling.pool(change)
    places = selection.pick(filters, pooling)
    sent = filters if places is None else filters[places.long()]
    return Pooled(pooling.rest(change), sent, places)


def check_selection(threshold: float, top_fraction: float | None, *, section: str) -> Selection:
    """The selection that these keys ask for. Raises ConfigError."""
    require(threshold >= 0, f"{section}.threshold must be >= 0, got {threshold}")
    require(
        top_fraction is None or 0 < top_fraction <= 1,
        f"{section}.top_fraction must be in (0, 1], got {top_fraction}",
    )
    require(
        threshold == 0 or top_fraction is None,
        f"{section}.threshold and {section}.top_fraction both select filters; set one of them",
    )
    return Selection(threshold, top_fraction)


COMPRESSORS: dict[str, type[Compressor]] = {"quantize": Quantize, "topk": TopK, "rpn": Pool}
"""By `compression.name`; `none` is the absence of one."""


def build_compressor(cfg: CompressionConfig) -> Compressor | None:
    """What `cfg` names; None for `none`. Raises ConfigError."""
    names = ["none", *COMPRESSORS]
    require(cfg.name in names, f"compression.name: unknown compressor {cfg.name!r}{nearest(cfg.name, names)}")
    return None if cfg.name == "none" else COMPRESSORS[cfg.name](cfg)


def remembers(cfg: CompressionConfig) -> bool:
    """Whether clients keep what was not sent."""
    compressor = build_compressor(cfg)
    return compressor is not None and compressor.remembers


@dataclass(frozen=True, slots=True)
class Compressed:
    """An exchange after the compressor: what arrives, and the bytes that travelled."""

    up: Payload
    tx_bytes: int
    rx_bytes: int
    memory: dict[str, Tensor] | None = None
    """What the client keeps for its next update of the same network; None: as before."""


def applies(down: Payload, up: Payload) -> bool:
    """Whether an exchange is an update of weights: what comes up is (part of) what went down."""
    if not (isinstance(down, Weights) and isinstance(up, Weights)):
        return False
    return bool(up.params) and all(
        name in down.params and tensor.shape == down.params[name].shape for name, tensor in up.params.items()
    )


def compress(
    compressor: Compressor | None,
    down: Payload,
    up: Payload,
    *,
    network: str = "",
    generator: Callable[[], torch.Generator] = torch.Generator,
    memory: State | None = None,
) -> Compressed:
    """Send an update of `network`. On meta tensors this predicts what real ones will take, to the byte.

    Only a threshold decides by values: its prediction is the most it can be.
    """
    if compressor is None or not applies(down, up):
        return Compressed(up, tx_bytes=up.num_bytes, rx_bytes=down.num_bytes)
    assert isinstance(up, Weights)
    assert isinstance(down, Weights)
    if not next(iter(up.params.values())).is_meta:
        compressor.watch(network, down.params)
    kept = memory or {}
    before = {name: down.params[name] for name in up.params}
    update = {
        # Contiguous: places count along the tensor as it is named, whatever its layout in memory.
        name: (tensor.to(before[name].device) - before[name]).contiguous() + kept.get(name, 0.0)
        for name, tensor in up.params.items()
    }
    sent = compressor.encode(update, generator=generator())
    tx_bytes, rx_bytes = sent.num_bytes, compressor.encode_down(meta(down.params)).num_bytes
    if not all(bool(t.isfinite().all()) for t in update.values() if not t.is_meta):
        return Compressed(up, tx_bytes, rx_bytes)  # to be refused, and nothing of it remembered
    arrived = compressor.decode(sent, like=update)
    arrives = replace(up, params={name: before[name] + arrived[name] for name in update})
    left = compressor.left(update, arrived) if compressor.remembers else None
    return Compressed(arrives, tx_bytes, rx_bytes, memory=left)
