"""MFL, module-based federated learning: submodels cut by width, rotated over the clients.

Yu, Li, IEEE Network 2021: module-based federated learning with neural-structure-aware resource management.

The paper prints no usable formulas. This is a RECONSTRUCTION, consistent in itself; client count, widths,
budgets and mixes are from secondary notes on it.

- A layer's channels form equal groups; a structure q keeps all of them (q_l = 1) or one (q_l = P_l). An
  instance (q, g) is one of Q = prod q_l weight blocks, [out group g_l, in group g_(l-1)] in layer l
  (lightning_modules/widths.py). A complete set of instances covers every weight of a layer Q / (q_(l-1)
  q_l) times and every bias Q / q_l times: one set is one copy of the global network.
- Round k: client j trains instance (its rank among the clients of its structure + its trainings of that
  structure so far) mod Q; with nobody ever skipped that is (rank + k) mod Q (harness/scheduling/rotation.py).
- Aggregation, per scalar: sum D_j value / sum D_j over the clients j that hold it; uncovered scalars stay.
- Who gets which structure, at which clock and rate: policies energy_budget, fixed_mix and random_mix
  (harness/scheduling/energy_budget.py). Work is metered FLOPs, 2 per multiply-add, forward and backward; the
  profile `mfl_node` does 2 FLOPs per cycle, which is the c0 = 1 cycle per multiply-add of the notes.

With every client on the whole network this is FedAvg, to the last bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor

from harness.cost.submodel import SubmodelProfile
from harness.data.task import Task
from harness.exchange.client import Client
from harness.exchange.cohort import Cohort
from harness.exchange.payloads import Weights
from harness.learning.block_sum import BlockSum
from harness.learning.evaluation import evaluate_splits
from harness.learning.models import TrainingConfig, build_module, make_optimizer
from harness.learning.training import train
from harness.learning.weights import load_state, meta, snapshot, state_of
from harness.learning.workplace import Workplace
from harness.run.method import Exchange, Method, Metrics
from harness.types import ConfigError, SubmodelId
from lightning_modules.widths import Structure, Widths, blocks, check_structure, narrow, take, widths_of


@dataclass(frozen=True, slots=True)
class MFLConfig(TrainingConfig):
    """Defaults: batch 10, one local epoch, SGD at 0.05, decayed by 0.996 a round."""

    lr: float = 0.05
    lr_decay: float = 0.996
    factors: list[int] = field(default_factory=list)
    """P_l, the groups of each layer; default 2, and 1 for the last."""
    structures: dict[str, list[int]] = field(default_factory=dict)
    """Name -> q_l of each layer; default L, M, S, T as on MFL's CNN, see `default_structures`."""


def default_structures(factors: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """L cuts no layer, M the second, S all but the first and the last, T all but the last.

    On four layers (1,1,1,1), (1,P,1,1), (1,P,P,1), (P,P,P,1); what repeats another is left out.
    """
    last = len(factors) - 1
    cut = {"L": range(0), "M": range(1, min(2, last)), "S": range(1, last), "T": range(last)}
    found: dict[str, tuple[int, ...]] = {}
    for name, layers in cut.items():
        shape = tuple(p if layer in layers else 1 for layer, p in enumerate(factors))
        if shape not in found.values():
            found[name] = shape
    return found


class Cut:
    """A task's network and the ways to cut it."""

    def __init__(self, task: Task, cfg: MFLConfig) -> None:
        """Raises ConfigError for a network, factors or structures that do not fit."""
        self.task = task
        with torch.device("meta"):
            self.whole = build_module(task)
        try:
            self.widths: Widths = widths_of(self.whole)
            self.structures = self._structures(cfg)
        except ValueError as error:
            key = "structures" if cfg.structures else "factors" if cfg.factors else "name"
            raise ConfigError(f"method.{key}: {error}") from None

    def _structures(self, cfg: MFLConfig) -> dict[SubmodelId, Structure]:
        depth = len(self.widths.axes)
        factors = list(cfg.factors) or [2] * (depth - 1) + [1]
        check_structure(self.widths, Structure("with all factors", tuple(factors)))
        told = {name: tuple(q) for name, q in cfg.structures.items()} or default_structures(factors)
        if odd := [name for name in told if "." in name]:
            raise ValueError(f"structure {odd[0]}: a name must not hold a dot")
        found = {SubmodelId(name): Structure(name, q) for name, q in told.items()}
        for structure in found.values():
            check_structure(self.widths, structure)
            for q, p in zip(structure.factors, factors, strict=True):
                if q not in (1, p):
                    raise ValueError(f"structure {structure.name}: a factor must be 1 or {p}, got {q}")
        return found

    def build(self, submodel: SubmodelId) -> L.LightningModule:
        """The network of a structure; the whole one as the task has it."""
        module = build_module(self.task)
        if self.structures[submodel].num_instances > 1:
            narrow(module, self.widths, self.structures[submodel])
        return module

    def block(self, submodel: SubmodelId, number: int) -> dict[str, tuple[slice, ...]]:
        """Where an instance lies in the whole network's weights."""
        return blocks(self.whole, self.widths, self.structures[submodel], number)


class MFLClient(Client[MFLConfig]):
    """Trains the block it is sent, as a small network."""

    def fit(self, down: Weights) -> Weights:
        """Local epochs of one instance."""
        submodel = SubmodelId(down.submodel.rpartition(".")[0] or down.submodel)
        module = self.place.module(submodel, lambda: Cut(self.place.task, self.cfg).build(submodel))
        load_state(module, down.params)
        trained = train(
            module,
            self.shard,
            cfg=self.cfg,
            optimizer=make_optimizer(module.parameters(), self.cfg, round=self.round),
            place=self.place,
            generator=self.generator("batches"),
        )
        self.log("train/loss", trained.loss)
        return Weights(params=state_of(module), num_examples=len(self.shard), submodel=down.submodel)


class MFL(Method[MFLClient, MFLConfig]):
    """Send everyone its block, train, average every scalar over those that hold it."""

    Config = MFLConfig
    Client = MFLClient

    def __init__(self, cfg: MFLConfig, place: Workplace) -> None:
        super().__init__(cfg, place)
        cfg.check()
        self.cut = Cut(place.task, cfg)
        self.weights: dict[str, Tensor] = {}

    def models(self) -> Mapping[str, Callable[[], L.LightningModule]]:
        return {name: partial(self.cut.build, name) for name in self.cut.structures}

    def submodels(self) -> Mapping[SubmodelId, SubmodelProfile]:
        found = {}
        for name, structure in self.cut.structures.items():
            profile = self.profile(name, partial(self.cut.build, name))
            found[name] = replace(profile, num_instances=structure.num_instances)
        return found

    def exchanges(self, num_examples: int) -> Sequence[Exchange]:
        found = []
        for name in self.cut.structures:
            with torch.device("meta"):
                weights = Weights(params=meta(state_of(self.cut.build(name))))
            found.append(Exchange(self.Client.fit, name, down=weights, up=weights))
        return found

    def start(self) -> None:
        self.weights = snapshot(self.place.initial(lambda: build_module(self.place.task)))

    def round(self, cohort: Cohort[MFLClient]) -> Metrics:
        where = {name: self.cut.block(*pair) for name, pair in cohort.plan.instances().items()}
        total = cohort.reduce(
            MFLClient.fit,
            {name: Weights(params=take(self.weights, b), submodel=name) for name, b in where.items()},
            into=BlockSum.over(self.weights, blocks=where, max_examples=cohort.num_examples),
        )
        self.weights = total.mean_over(self.weights)
        return {}

    def evaluate(self, cohort: Cohort[MFLClient]) -> Metrics:
        module = self.place.module("whole", lambda: build_module(self.place.task))
        load_state(module, self.weights)
        return evaluate_splits(module, place=self.place)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights = dict(state["weights"])
