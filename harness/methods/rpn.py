"""RPN, the residual pooling network: of a convolution kernel's change only its mean over space travels.

Huang, Chen, Liu, Chen, Yang, "RPN: a residual pooling network for efficient federated learning", ECAI 2020.

All clients hold M0 (from the run's seed, or `init_checkpoint`). In a round a client is at M = M0 + the sum of
the mean residuals so far, trains, and sends R = M_after - M: kernels pooled, everything else as it is. The
server takes the plain mean over the m clients that replied, not weighted by examples, and sends it back to
the cohort; a pooled number is added to all k x k elements. `catch_up` serves a client that missed rounds or
joins late: the sum of all since M0, as large as one round, with kernels whole where it missed a full sync.

- Selection (`threshold`, `top_fraction`): filters by the magnitude of the sum of their elements, with int32
  places; what is not sent counts 0 in the mean. The mean itself holds all filters, without places.
- Statistics of batch norm are averaged and sent like parameters; `describe` counts them by themselves.
- `pooling=none` is the paper's FL: the same with whole residuals (endpoints fit_whole, update_whole). On
  shards of equal size it is FedAvg, whose downlink comes at a round's start instead.
- Ours, to see what pooling costs: `error_feedback`, `keep_local_spatial`, `full_sync_every`.

Every kernel stays M0 plus a number: spatial patterns are never learned. `rpn/spatial_share`, recorded where a
mean residual travels whole, is the share of its squared length that pooling would drop; by Lemma 1, 0.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from harness.config import nearest, require
from harness.cost.submodel import SubmodelProfile
from harness.exchange.client import Client
from harness.exchange.cohort import Cohort
from harness.exchange.compression import Pooled, check_selection, pooled
from harness.exchange.payloads import Empty, Scores
from harness.learning.evaluation import evaluate_splits
from harness.learning.models import TrainingConfig, build_module, make_optimizer
from harness.learning.pooling import (
    Added,
    PooledSum,
    Pooling,
    Selection,
    State,
    count_rows,
    layer_rows,
    scatter,
    spatial_share,
)
from harness.learning.training import train
from harness.learning.weights import load_state, meta, state_of
from harness.learning.workplace import Workplace
from harness.run.checkpoint import read_weights
from harness.run.method import FULL, Exchange, Method, Metrics
from harness.types import ClientId, SubmodelId

POOLINGS = ("mean", "none")


@dataclass(frozen=True, slots=True)
class RpnConfig(TrainingConfig):
    """Rate, batch and epochs are reconstructions: the paper leaves them open."""

    lr: float = 0.05
    batch_size: int = 64
    pooling: str = "mean"
    """mean, or none: whole residuals, the paper's FL."""
    threshold: float = 0.0
    """Filters whose sum is not above it in magnitude stay at home; 0 sends all."""
    top_fraction: float | None = None
    """Share of the filters that is sent, the largest sums; default all."""
    error_feedback: bool = False
    """What a selection left at home is added to the next residual."""
    keep_local_spatial: bool = False
    """Each client trains on with the part of its changes that pooling dropped, until a full sync."""
    full_sync_every: int | None = None
    """Every so many rounds residuals travel whole."""
    init_checkpoint: str | None = None
    """M0: a run's folder or a file of weights that every actor sees; what does not fit starts random."""
    eval_clients: int = 10
    """keep_local_spatial: clients whose own networks are scored, too (`eval/accuracy_local`)."""

    def check(self) -> None:
        TrainingConfig.check(self)
        require(self.pooling in POOLINGS, f"method.pooling: unknown value {self.pooling!r}"
                + nearest(self.pooling, POOLINGS))  # fmt: skip
        every = self.full_sync_every
        require(every is None or every >= 1, f"method.full_sync_every must be >= 1, got {every}")
        require(self.eval_clients >= 1, f"method.eval_clients must be >= 1, got {self.eval_clients}")
        told = {
            key: getattr(self, key) for key in ("error_feedback", "keep_local_spatial", "full_sync_every")
        }
        told["threshold or top_fraction"] = self.selection.selects
        for key, value in told.items():
            if value and self.pooling == "none":
                warnings.warn(f"method.{key} has no effect where method.pooling=none", stacklevel=3)
        if self.error_feedback and not self.selection.selects:
            warnings.warn(
                "method.error_feedback has no effect without method.threshold or method.top_fraction: what "
                "pooling drops has mean 0",
                stacklevel=3,
            )

    @property
    def selection(self) -> Selection:
        """Which filters travel."""
        return check_selection(self.threshold, self.top_fraction, section="method")

    def is_whole(self, round: int) -> bool:
        """Whether residuals travel whole in a round."""
        every = self.full_sync_every
        return self.pooling == "none" or (every is not None and (round + 1) % every == 0)


def origin(place: Workplace, cfg: RpnConfig) -> dict[str, Tensor]:
    """M0, made once in each process. Raises ConfigError for an init_checkpoint that does not fit."""

    def build() -> L.LightningModule:
        module = place.initial(lambda: build_module(place.task))
        if cfg.init_checkpoint is not None:
            key = "method.init_checkpoint"
            given, own = read_weights(Path(cfg.init_checkpoint), key=key), state_of(module)
            fitting = {n: t for n, t in given.items() if n in own and own[n].shape == t.shape}
            require(len(fitting) > 0, f"{key}={cfg.init_checkpoint}: fits no tensor of the network")
            if len(fitting) < len(own):
                odd = sorted(own.keys() - fitting.keys())
                warnings.warn(f"{key}: {len(odd)} tensors start random, such as {odd[0]}", stacklevel=2)
            load_state(module, {**own, **fitting})
        return module

    return {name: t.cpu() for name, t in state_of(place.module("m0", build)).items()}


class RpnClient(Client[RpnConfig]):
    """Holds what was added to M0, and what of its own stays at home."""

    stateful = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.module = self.place.module("full", lambda: build_module(self.place.task))
        self.pooling = Pooling.of(self.module) if self.cfg.pooling == "mean" else Pooling({})
        self.added = Added.nothing()
        self.unsent: Tensor | None = None
        """[F] filters' means that selections left at home."""
        self.spatial: dict[str, Tensor] = {}
        """Name -> [O, I, k, k] of mean 0 over space: its own part of each kernel."""

    def fit(self, down: Empty) -> Pooled:
        """Train; the pooled residual."""
        change = self._train()
        if self.cfg.keep_local_spatial:
            means = self.pooling.spread(self.pooling.pool(change))
            kept = {name: change[name] - mean for name, mean in means.items()}
            self.spatial = {name: self.spatial.get(name, 0.0) + more for name, more in kept.items()}
        if self.unsent is not None:
            more = self.pooling.spread(self.unsent)
            change = {name: t + more[name] if name in more else t for name, t in change.items()}
        up = pooled(change, pooling=self.pooling, selection=self.cfg.selection)
        if self.cfg.error_feedback and up.filters is not None and up.places is not None:
            everything = self.pooling.pool(change)
            self.unsent = everything - scatter(up.filters, up.places, size=len(everything))
        return up

    def fit_whole(self, down: Empty) -> Pooled:
        """Train; the whole residual, with all that was kept at home."""
        change = self._train()
        change |= {name: change[name] + own for name, own in self.spatial.items()}
        if self.unsent is not None:
            change |= {n: change[n] + more for n, more in self.pooling.spread(self.unsent).items()}
        self.unsent, self.spatial = None, {}
        return Pooled(change)

    def update(self, down: Pooled) -> Empty:
        """The cohort's mean."""
        self.added = self.added.plus(down.whole, down.filters, pooling=self.pooling)
        return Empty()

    def update_whole(self, down: Pooled) -> Empty:
        """The cohort's mean, whole."""
        return self.update(down)

    def catch_up(self, down: Pooled) -> Empty:
        """All that was added since M0, in place of what this client knows of it."""
        self.added = Added({**self.added.whole, **down.whole}, down.filters)
        return Empty()

    def score(self, down: Empty) -> Scores:
        """This client's own network on the whole val and test split."""
        load_state(self.module, self._start())
        scores = evaluate_splits(self.module, place=self.place)
        return Scores(values={name: torch.tensor(value) for name, value in scores.items()})

    def _start(self) -> dict[str, Tensor]:
        found = self.added.onto(origin(self.place, self.cfg), pooling=self.pooling)
        return found | {name: found[name] + own for name, own in self.spatial.items()}

    def _train(self) -> dict[str, Tensor]:
        """Local epochs; what they changed."""
        start = self._start()
        load_state(self.module, start)
        trained = train(
            self.module,
            self.shard,
            cfg=self.cfg,
            optimizer=make_optimizer(self.module.parameters(), self.cfg, round=self.round),
            place=self.place,
            generator=self.generator("batches"),
        )
        self.log("train/loss", trained.loss)
        return {name: (t.cpu() - start[name]).contiguous() for name, t in state_of(self.module).items()}

    def state_dict(self) -> dict[str, Any]:
        return {"added": self.added.state_dict(), "unsent": self.unsent, "spatial": self.spatial}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.added = Added.restored(state["added"])
        self.unsent, self.spatial = state["unsent"], dict(state["spatial"])


class Rpn(Method[RpnClient, RpnConfig]):
    """Collect residuals, send their mean back, remember who knows what."""

    Config = RpnConfig
    Client = RpnClient

    def __init__(self, cfg: RpnConfig, place: Workplace) -> None:
        super().__init__(cfg, place)
        cfg.check()
        with torch.device("meta"):
            self.network = build_module(place.task)
        self.pooling = Pooling.of(self.network) if cfg.pooling == "mean" else Pooling({})
        self.origin: dict[str, Tensor] = {}
        self.added = Added.nothing()
        self.updates = 0
        self.last_whole = 0
        """Which update brought kernels whole, counted from 1; 0 for none."""
        self.known: dict[ClientId, int] = {}
        """How many updates each client knows of."""

    def models(self) -> Mapping[str, Callable[[], L.LightningModule]]:
        return {FULL: lambda: build_module(self.place.task)}

    def submodels(self) -> Mapping[SubmodelId, SubmodelProfile]:
        found = dict(super().submodels())
        first = self.exchanges(1)[:2]
        up, down = sum(e.up.num_bytes for e in first), sum(e.down.num_bytes for e in first)
        return {name: replace(profile, tx_bytes=up, rx_bytes=down) for name, profile in found.items()}

    def exchanges(self, num_examples: int) -> Sequence[Exchange]:
        """Of a client that misses nothing. A threshold's bytes depend on values: the most they can be."""
        state = meta(state_of(self.network))
        whole = Pooled(state)
        down = pooled(state, pooling=self.pooling, selection=Selection())
        up = pooled(state, pooling=self.pooling, selection=self.cfg.selection)
        found = []
        if self.cfg.pooling == "mean" and self.cfg.full_sync_every != 1:
            found += [
                Exchange(RpnClient.fit, FULL, down=Empty(), up=up),
                Exchange(RpnClient.update, FULL, down=down, up=Empty()),
            ]
        if self.cfg.pooling == "none" or self.cfg.full_sync_every is not None:
            found += [
                Exchange(RpnClient.fit_whole, FULL, down=Empty(), up=whole),
                Exchange(RpnClient.update_whole, FULL, down=whole, up=Empty()),
            ]
        return found

    def tables(self) -> Mapping[str, list[dict[str, Any]]]:
        pooling = Pooling.of(self.network)
        return {"counts": count_rows(self.network, pooling), "layers": layer_rows(self.network, pooling)}

    def start(self) -> None:
        self.origin = origin(self.place, self.cfg)

    @property
    def weights(self) -> dict[str, Tensor]:
        """M."""
        return self.added.onto(self.origin, pooling=self.pooling)

    def round(self, cohort: Cohort[RpnClient]) -> Metrics:
        behind = [client for client in cohort.clients if self.known.get(client, 0) < self.updates]
        cohort.call(RpnClient.catch_up, {client: self.missed(client) for client in behind})
        whole = self.cfg.is_whole(cohort.plan.round)
        total = cohort.reduce(
            RpnClient.fit_whole if whole else RpnClient.fit,
            {FULL: Empty()},
            into=PooledSum.over(self.weights, pooling=Pooling({}) if whole else self.pooling,
                                max_terms=len(cohort.clients)),
        )  # fmt: skip
        self.known |= dict.fromkeys(behind, self.updates)
        if not total.num_terms:
            return {}
        residual, filters = total.means()
        cohort.broadcast(RpnClient.update_whole if whole else RpnClient.update, Pooled(residual, filters))
        self.added = self.added.plus(residual, filters, pooling=self.pooling)
        self.updates += 1
        self.known |= dict.fromkeys(cohort.clients, self.updates)
        if not whole:
            return {}
        self.last_whole = self.updates
        return {"rpn/spatial_share": spatial_share(residual, pooling=Pooling.of(self.network))}

    def missed(self, client: ClientId) -> Pooled:
        """The sum since M0; kernels whole only for who missed the last time that they were."""
        had_it = self.known.get(client, 0) >= self.last_whole
        whole: State = self.pooling.rest(self.added.whole) if had_it else self.added.whole
        return Pooled(whole, self.added.filters)

    def evaluate(self, cohort: Cohort[RpnClient]) -> Metrics:
        module = self.place.module("full", lambda: build_module(self.place.task))
        load_state(module, self.weights)
        found = evaluate_splits(module, place=self.place)
        if not self.cfg.keep_local_spatial:
            return found
        chosen = cohort.clients[: self.cfg.eval_clients]
        scores = cohort.call(RpnClient.score, dict.fromkeys(chosen, Empty()))
        means = {
            f"{name}_local": float(torch.stack([scores[c].values[name].double() for c in chosen]).mean())
            for name in found
        }
        return {**found, **means}

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "added": self.added.state_dict(),
            "updates": self.updates,
            "last_whole": self.last_whole,
            "known": {int(client): count for client, count in sorted(self.known.items())},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.added = Added.restored(state["added"])
        self.updates, self.last_whole = state["updates"], state["last_whole"]
        self.known = {ClientId(client): count for client, count in state["known"].items()}
