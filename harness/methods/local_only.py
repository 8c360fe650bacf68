"""Local-only training: every client keeps to its own examples. What federation has to beat.

Clients start from one common initialisation, keep weights and optimizer over rounds, and exchange nothing.
Reported is the mean over clients of each one's accuracy on the whole val and test split.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch

from harness.config import require
from harness.exchange.client import Client
from harness.exchange.cohort import Cohort
from harness.exchange.payloads import Empty, Scores
from harness.learning.evaluation import evaluate_splits
from harness.learning.models import (
    TrainingConfig,
    build_module,
    load_optimizer,
    make_optimizer,
    optimizer_state,
    set_lr,
)
from harness.learning.training import train
from harness.learning.weights import load_state, snapshot
from harness.learning.workplace import Workplace
from harness.run.method import FULL, Exchange, Method, Metrics
from harness.types import ClientId


@dataclass(frozen=True, slots=True)
class LocalOnlyConfig(TrainingConfig):
    """FedAvg's local training."""

    eval_clients: int = 10
    """Clients whose accuracy is averaged: the lowest ids of the cohort; evaluating all may be dear."""


class Hermit(Client[LocalOnlyConfig]):
    """Trains alone."""

    stateful = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.module = self.place.initial(lambda: build_module(self.place.task))
        self.optimizer = make_optimizer(self.module.parameters(), self.cfg, round=0)

    def fit(self, down: Empty) -> Empty:
        """Local epochs."""
        set_lr(self.optimizer, self.cfg, round=self.round)
        trained = train(
            self.module,
            self.shard,
            cfg=self.cfg,
            optimizer=self.optimizer,
            place=self.place,
            generator=self.generator("batches"),
        )
        self.log("train/loss", trained.loss)
        return Empty()

    def score(self, down: Empty) -> Scores:
        """Accuracy and loss on the whole val and test split."""
        scores = evaluate_splits(self.module, place=self.place)
        return Scores(values={name: torch.tensor(value) for name, value in scores.items()})

    def state_dict(self) -> dict[str, Any]:
        return {"weights": snapshot(self.module), "optimizer": optimizer_state(self.optimizer)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_state(self.module, state["weights"])
        load_optimizer(self.optimizer, state["optimizer"])


class LocalOnly(Method[Hermit, LocalOnlyConfig]):
    """No exchange at all."""

    Config = LocalOnlyConfig
    Client = Hermit

    def __init__(self, cfg: LocalOnlyConfig, place: Workplace) -> None:
        super().__init__(cfg, place)
        cfg.check()
        require(cfg.eval_clients >= 1, f"method.eval_clients must be >= 1, got {cfg.eval_clients}")

    def models(self) -> Mapping[str, Callable[[], L.LightningModule]]:
        return {FULL: lambda: build_module(self.place.task)}

    def exchanges(self, num_examples: int) -> Sequence[Exchange]:
        return [Exchange(Hermit.fit, FULL, down=Empty(), up=Empty())]

    def round(self, cohort: Cohort[Hermit]) -> Metrics:
        cohort.broadcast(Hermit.fit, Empty())
        return {}

    def evaluate(self, cohort: Cohort[Hermit]) -> Metrics:
        chosen = cohort.clients[: self.cfg.eval_clients]
        scores = cohort.call(Hermit.score, dict.fromkeys(chosen, Empty()))
        return mean_scores(scores)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def mean_scores(scores: Mapping[ClientId, Scores]) -> dict[str, float]:
    """The plain mean over clients of every score, summed in order of client."""
    ordered = [scores[client].values for client in sorted(scores)]
    return {name: float(torch.stack([one[name].double() for one in ordered]).mean()) for name in ordered[0]}
