"""A user's own methods, imported from a folder outside the package, whose processes die once, half-way."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.exchange.cohort import Cohort
from harness.exchange.payloads import Empty, Weights
from harness.methods.fedavg import FedAvg, FedAvgClient, FedAvgConfig
from harness.methods.local_only import Hermit, LocalOnly, LocalOnlyConfig
from harness.run.method import Metrics


@dataclass(frozen=True, slots=True)
class MortalConfig(FedAvgConfig):
    """FedAvg's, and where the death is recorded."""

    tomb: str = ""
    """File whose existence says that it happened."""
    victim: str = "client"
    """client or server."""


@dataclass(frozen=True, slots=True)
class MortalLoneConfig(LocalOnlyConfig):
    """Local-only's, and where the death is recorded."""

    tomb: str = ""
    """File whose existence says that it happened."""


def die_once(tomb: str) -> None:
    """SIGKILL this process, the first time."""
    if not Path(tomb).exists():
        Path(tomb).touch()
        os.kill(os.getpid(), signal.SIGKILL)


class MortalClient(FedAvgClient):
    """Client 3 of round 1 takes its actor down after training."""

    cfg: MortalConfig

    def fit(self, down: Weights) -> Weights:
        up = super().fit(down)
        if self.round == 1 and self.client_id == 3 and self.cfg.victim == "client":
            die_once(self.cfg.tomb)
        return up


class Mortal(FedAvg):
    """FedAvg on mortal processes."""

    Config = MortalConfig
    Client = MortalClient
    cfg: MortalConfig

    def round(self, cohort: Cohort[Any]) -> Metrics:
        found = super().round(cohort)
        if cohort.plan.round == 1 and self.cfg.victim == "server":
            die_once(self.cfg.tomb)
        return found


class MortalHermit(Hermit):
    """A stateful client that takes its actor down."""

    cfg: MortalLoneConfig

    def fit(self, down: Empty) -> Empty:
        up = super().fit(down)
        if self.round == 2 and self.client_id == 3:
            die_once(self.cfg.tomb)
        return up


class MortalLone(LocalOnly):
    """Local-only training on mortal processes."""

    Config = MortalLoneConfig
    Client = MortalHermit
