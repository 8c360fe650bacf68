"""Three clients whose FLOPs and bytes are dictated, on devices where one of either takes 1 s and 1 J."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from local_run import Points, make_config, points
from torch import Tensor, nn

from harness.config import FleetConfig, MethodConfig
from harness.cost.devices import DeviceProfile, find_profile
from harness.cost.ledger import Ledger
from harness.data.partition import Partition
from harness.data.task import Splits
from harness.exchange.client import Client, Request
from harness.exchange.cohort import Cohort, Party
from harness.exchange.payloads import Empty, Payload
from harness.exchange.transport import LocalTransport
from harness.exchange.worker import Job, Worker
from harness.learning.workplace import Workplace
from harness.scheduling.fleet import build_fleet, server_profile
from harness.scheduling.plan import RoundPlan
from harness.types import ClientId, Phase, SubmodelId

C0, C1, C2 = CLIENTS = [ClientId(c) for c in range(3)]
UNIT = find_profile("unit", key="test").device
SIZES = (1, 2, 5)
"""Examples of each client."""


@dataclass(frozen=True, slots=True)
class Cargo(Payload):
    """So many bytes, and how often the client was asked before."""

    values: Tensor
    """[bytes] uint8."""
    asked: int = 0


@dataclass(frozen=True, slots=True)
class ParrotConfig(MethodConfig):
    """What each client does when asked."""

    flops: tuple[int, ...] = (2, 4, 6)
    """Even numbers."""
    up: tuple[int, ...] = (1, 2, 3)
    """Bytes answered."""


SHARED = torch.zeros(2, dtype=torch.uint8)


class Parrot(Client[ParrotConfig]):
    """Answers with the ordered cost."""

    stateful = True

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.asked = 0

    def answer(self, down: Cargo) -> Cargo:
        """Costs what the configuration says."""
        spend(self.place, self.cfg.flops[self.client_id])
        self.asked += 1
        self.log("asked", self.asked)
        return Cargo(torch.zeros(self.cfg.up[self.client_id], dtype=torch.uint8), asked=self.asked)

    def echo(self, down: Cargo) -> Cargo:
        """Scribbles into what it got and answers with it."""
        down.values.add_(1)
        return down

    def hear(self, down: Cargo) -> Empty:
        """Listens."""
        return Empty()

    def lend(self, down: Empty) -> Cargo:
        """Answers with memory that the next client of this process writes to, like a network's weights."""
        return Cargo(SHARED.fill_(self.client_id))

    def fail(self, down: Empty) -> Any:
        return {"values": torch.zeros(1)}

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.asked = state["asked"]


def spend(place: Workplace, flops: int) -> None:
    """A matrix product of so many FLOPs (an even number), metered."""
    layer, x = nn.Linear(1, flops // 2, bias=False), torch.ones(1, 1)
    with torch.no_grad(), place.meter.step(layer, x, kind="forward"):
        layer(x)


def cargo(size: int) -> Cargo:
    return Cargo(torch.zeros(size, dtype=torch.uint8))


def request(endpoint: str = "answer", *, client: ClientId = C0, **changes: object) -> Request:
    """A request to client 0 in round 4, on a unit device, without a deadline."""
    base = Request(
        client=client,
        endpoint=endpoint,
        submodel=SubmodelId("full"),
        round=4,
        sequence=0,
        phase=Phase.TRAIN,
        device=UNIT,
        point=UNIT.full_speed(),
        fails=False,
        elapsed_s=0.0,
        deadline_s=None,
        version=None,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def parrot_job(state_dir: Path, **method: Any) -> Job:
    cfg = make_config(["fleet.profiles={unit: 1}", "fleet.server=unit", "partition.num_clients=3"])
    total = sum(SIZES)
    train = points([[0, 0]] * total, [0] * total)
    return Job(
        cfg=dataclasses.replace(cfg, method=ParrotConfig(**method)),
        task=Points(),
        splits=Splits(train, train, train),
        partition=Partition(np.arange(total), np.cumsum([0, *SIZES]), remainder=np.arange(0)),
        client_class=Parrot,
        state_dir=state_dir,
    )


@dataclass
class Aviary:
    """A party of parrots, and cohorts of it."""

    job: Job
    transport: LocalTransport
    party: Party

    def cohort(self, *, round: int = 0, now: float = 0.0, **plan: Any) -> Cohort[Parrot]:
        return Cohort(make_plan(self.job, round=round, **plan), self.party, now=now)


def make_plan(
    job: Job,
    *,
    round: int = 0,
    clients: tuple[int, ...] = (0, 1, 2),
    fails: tuple[int, ...] = (),
    deadline_s: float | None = None,
) -> RoundPlan:
    ids = np.array(clients)
    fleet = build_fleet(FleetConfig({"unit": 1.0}), num_clients=3, seed=0)
    return RoundPlan(
        round=round,
        clients=ids,
        submodels=(SubmodelId("full"),),
        submodel_index=np.zeros(len(ids), dtype=np.int64),
        points=fleet.take(ids).full_speed(),
        fails=np.isin(ids, fails),
        deadline_s=deadline_s,
    )


def aviary(state_dir: Path, *, server: DeviceProfile | None = None, **method: Any) -> Aviary:
    job = parrot_job(state_dir, **method)
    transport = LocalTransport(Worker(job))
    party = Party(
        client_class=Parrot,
        partition=job.partition,
        fleet=build_fleet(job.cfg.fleet, num_clients=3, seed=0),
        server=server or server_profile(job.cfg.fleet),
        transport=transport,
        ledger=Ledger(),
        place=Workplace(job.cfg, task=job.task, splits=job.splits, threads=1),
    )
    return Aviary(job, transport, party)
