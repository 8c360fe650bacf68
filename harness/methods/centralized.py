"""Centralized training: one network on the whole train split, at the server. The accuracy to measure against.

No exchange takes place, so the ledger holds the server's FLOPs and joules, and the clients' waiting. What
moving the raw data would have cost depends on the task, not on the training; it is left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L

from harness.exchange.client import Client
from harness.exchange.cohort import Cohort
from harness.learning.evaluation import evaluate_splits
from harness.learning.models import (
    TrainingConfig,
    build_module,
    load_optimizer,
    make_optimizer,
    optimizer_state,
    set_lr,
)
from harness.learning.seeding import torch_generator
from harness.learning.training import train
from harness.learning.weights import load_state, snapshot
from harness.learning.workplace import Workplace
from harness.run.method import FULL, Exchange, Method, Metrics


@dataclass(frozen=True, slots=True)
class CentralizedConfig(TrainingConfig):
    """A round is `local_epochs` epochs over everything, so rounds compare with FedAvg's."""


class Bystander(Client[CentralizedConfig]):
    """Takes no part."""


class Centralized(Method[Bystander, CentralizedConfig]):
    """Plain training; the optimizer's state persists over rounds."""

    Config = CentralizedConfig
    Client = Bystander

    def __init__(self, cfg: CentralizedConfig, place: Workplace) -> None:
        super().__init__(cfg, place)
        cfg.check()

    def models(self) -> Mapping[str, Callable[[], L.LightningModule]]:
        return {FULL: lambda: build_module(self.place.task)}

    def exchanges(self, num_examples: int) -> Sequence[Exchange]:
        return []

    def start(self) -> None:
        self.module = self.place.initial(lambda: build_module(self.place.task))
        self.optimizer = make_optimizer(self.module.parameters(), self.cfg, round=0)

    def round(self, cohort: Cohort[Bystander]) -> Metrics:
        set_lr(self.optimizer, self.cfg, round=cohort.plan.round)
        trained = train(
            self.module,
            self.place.split("train"),
            cfg=self.cfg,
            optimizer=self.optimizer,
            place=self.place,
            # Client 0's stream: a federation of one client sees the same batches.
            generator=torch_generator(self.place.seed, round=cohort.plan.round, client=0, purpose="batches"),
        )
        return {"train/loss": trained.loss}

    def evaluate(self, cohort: Cohort[Bystander]) -> Metrics:
        return evaluate_splits(self.module, place=self.place)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": snapshot(self.module), "optimizer": optimizer_state(self.optimizer)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_state(self.module, state["weights"])
        load_optimizer(self.optimizer, state["optimizer"])
