"""FedAvg, with a proximal term and server optimizers as options.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-efficient learning of deep networks from
decentralized data", AISTATS 2017 (Algorithm 1; one full-batch step is their FedSGD).
Li et al., "Federated optimization in heterogeneous networks", MLSys 2020 (eq. 2: FedProx's term, `mu`).
Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution", 2019 (FedAvgM).
Reddi et al., "Adaptive federated optimization", ICLR 2021 (Algorithm 2: FedAdam, without bias correction).

Differs: the mean runs over the replies that arrived, weighted by their examples, as the paper's erratum asks;
batch-norm statistics are averaged like parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from harness.config import require
from harness.exchange.client import Client
from harness.exchange.cohort import Cohort
from harness.exchange.payloads import Weights
from harness.learning.aggregation import WeightSum
from harness.learning.evaluation import evaluate_splits
from harness.learning.models import TrainingConfig, build_module, make_optimizer
from harness.learning.proximal import proximal
from harness.learning.training import train
from harness.learning.weights import load_state, snapshot, state_of
from harness.learning.workplace import Workplace
from harness.run.method import FULL, Exchange, Method, Metrics


@dataclass(frozen=True, slots=True)
class FedAvgConfig(TrainingConfig):
    """Defaults: McMahan et al. 2017, section 3, E = 1, B = 10."""

    mu: float = 0.0
    """Weight of FedProx's proximal term mu/2 ||w - w_global||^2; 0 is FedAvg."""
    server_optimizer: str = "none"
    """none (the mean itself), momentum (FedAvgM) or adam (FedAdam)."""
    server_lr: float = 1.0
    """Step along the mean update."""
    server_momentum: float = 0.9
    """FedAvgM's momentum, FedAdam's beta_1."""
    server_beta2: float = 0.99
    """FedAdam (Reddi et al. 2021, section 5)."""
    server_tau: float = 1e-3
    """FedAdam's degree of adaptivity (Reddi et al. 2021, section 5)."""


class FedAvgClient(Client[FedAvgConfig]):
    """Trains the global weights on its own examples."""

    def fit(self, down: Weights) -> Weights:
        """ClientUpdate of Algorithm 1."""
        module = self.place.module("full", lambda: build_module(self.place.task))
        load_state(module, down.params)
        trained = train(
            module,
            self.shard,
            cfg=self.cfg,
            optimizer=make_optimizer(module.parameters(), self.cfg, round=self.round),
            place=self.place,
            generator=self.generator("batches"),
            after_backward=proximal(module, down.params, mu=self.cfg.mu) if self.cfg.mu else None,
        )
        self.log("train/loss", trained.loss)
        return Weights(params=state_of(module), num_examples=len(self.shard))


class FedAvg(Method[FedAvgClient, FedAvgConfig]):
    """Broadcast, local epochs, weighted mean."""

    Config = FedAvgConfig
    Client = FedAvgClient

    def __init__(self, cfg: FedAvgConfig, place: Workplace) -> None:
        super().__init__(cfg, place)
        cfg.check()
        require(cfg.mu >= 0, f"method.mu must be >= 0, got {cfg.mu}")
        require(cfg.server_optimizer in SERVER_STEPS, "method.server_optimizer must be one of "
                f"{', '.join(SERVER_STEPS)}, got {cfg.server_optimizer!r}")  # fmt: skip
        self.weights: dict[str, Tensor] = {}
        self.moments: dict[str, dict[str, Tensor]] = {}

    def models(self) -> Mapping[str, Callable[[], L.LightningModule]]:
        return {FULL: lambda: build_module(self.place.task)}

    def exchanges(self, num_examples: int) -> Sequence[Exchange]:
        with torch.device("meta"):
            weights = Weights(params=state_of(build_module(self.place.task)))
        return [Exchange(FedAvgClient.fit, FULL, down=weights, up=weights)]

    def start(self) -> None:
        self.weights = snapshot(self.place.initial(lambda: build_module(self.place.task)))

    def round(self, cohort: Cohort[FedAvgClient]) -> Metrics:
        total = cohort.reduce(
            FedAvgClient.fit,
            {FULL: Weights(params=self.weights)},
            into=WeightSum.like(self.weights, max_examples=cohort.num_examples),
        )
        if total.num_examples:
            step = SERVER_STEPS[self.cfg.server_optimizer]
            self.weights = step(self.weights, total.mean(), self.moments, self.cfg)
        return {}

    def evaluate(self, cohort: Cohort[FedAvgClient]) -> Metrics:
        module = self.place.module("full", lambda: build_module(self.place.task))
        load_state(module, self.weights)
        return evaluate_splits(module, place=self.place)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "moments": self.moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights, self.moments = dict(state["weights"]), dict(state["moments"])


Named = Mapping[str, Tensor]
Moments = dict[str, dict[str, Tensor]]


def take_mean(weights: Named, mean: Named, moments: Moments, cfg: FedAvgConfig) -> dict[str, Tensor]:
    """w + server_lr (mean - w); with server_lr 1 the mean itself, to the bit."""
    if cfg.server_lr == 1.0:
        return dict(mean)
    return {name: torch.lerp(w, mean[name], cfg.server_lr) for name, w in weights.items()}


def fedavgm(weights: Named, mean: Named, moments: Moments, cfg: FedAvgConfig) -> dict[str, Tensor]:
    """v <- beta v + (mean - w);  w <- w + server_lr v (Hsu et al. 2019, section 4.3)."""
    v = moments.setdefault("v", {name: torch.zeros_like(w) for name, w in weights.items()})
    moments["v"] = {n: cfg.server_momentum * v[n] + (mean[n] - w) for n, w in weights.items()}
    return {n: w + cfg.server_lr * moments["v"][n] for n, w in weights.items()}


def fedadam(weights: Named, mean: Named, moments: Moments, cfg: FedAvgConfig) -> dict[str, Tensor]:
    """m, s <- moving means of the update and its square;  w <- w + lr m / (sqrt(s) + tau) (Reddi, Alg. 2)."""
    b1, b2 = cfg.server_momentum, cfg.server_beta2
    m = moments.setdefault("m", {name: torch.zeros_like(w) for name, w in weights.items()})
    s = moments.setdefault("s", {n: torch.full_like(w, cfg.server_tau**2) for n, w in weights.items()})
    delta = {n: mean[n] - w for n, w in weights.items()}
    moments["m"] = {n: b1 * m[n] + (1 - b1) * d for n, d in delta.items()}
    moments["s"] = {n: b2 * s[n] + (1 - b2) * d * d for n, d in delta.items()}
    return {
        n: w + cfg.server_lr * moments["m"][n] / (moments["s"][n].sqrt() + cfg.server_tau)
        for n, w in weights.items()
    }


SERVER_STEPS: dict[str, Callable[[Named, Named, Moments, FedAvgConfig], dict[str, Tensor]]] = {
    "none": take_mean,
    "momentum": fedavgm,
    "adam": fedadam,
}
