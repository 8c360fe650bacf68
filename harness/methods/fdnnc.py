"""FDNNC with the CEFO algorithm: big devices train the whole network, small ones a low-rank one.

Li et al., IEEE Internet of Things Journal 2022. A fully connected layer W [M, N] is A B^T on small devices,
A = U S^(1/2), B = V S^(1/2) of the truncated SVD; convolutions and biases stay. HALF: a random half of the
small devices sends A, the other half B; everyone sends the rest. Patterns: BOTH (big and small in one round,
W+ is half of each class's mean), BFIRST (big ones alone for `bfirst_rounds`, then small ones), SWITCH (a big
step, then a small one, each round). The scheduler says who is big: policies by_share (the paper's p) and
by_memory, so a device may change class between rounds; a class that is empty then sits its step out.

Differs: updates descend, where the paper prints plus signs. Devices send changed weights, which equals
sending the gradient of one plain SGD step and is what more local steps need. Means are weighted by examples,
as in FedAvg (equal for equal shards), so that a federation of big devices is FedAvg to the bit. In a round of
BOTH a class whose replies were all lost counts with what it was sent.
`eval/accuracy` is that of the whole network (B-ACC; of A B^T where only factors were trained last), beside
`eval/accuracy_big` (the same) and `eval/accuracy_small` (S-ACC; truncated where only W was trained last).
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from harness.config import nearest, require
from harness.cost.submodel import SubmodelProfile
from harness.data.task import Task
from harness.exchange.client import Client
from harness.exchange.cohort import Cohort
from harness.exchange.payloads import Weights
from harness.learning.evaluation import evaluate_splits
from harness.learning.lowrank import (
    FactorSum,
    Layer,
    State,
    halfway,
    layer_rows,
    layers_of,
    saving_rows,
    to_dense,
    to_factors,
)
from harness.learning.models import TrainingConfig, build_module, make_optimizer
from harness.learning.seeding import derive, torch_generator
from harness.learning.training import train
from harness.learning.weights import load_state, snapshot, state_of
from harness.learning.workplace import Workplace
from harness.run.method import Exchange, Method, Metrics
from harness.types import ClientId, SubmodelId
from lightning_modules.classifier import Classifier, squared_error
from lightning_modules.lowrank import with_low_rank

BIG = SubmodelId("big")
SMALL = SubmodelId("small")
SMALL_A = SubmodelId("small_a")
SMALL_B = SubmodelId("small_b")
"""HALF: a small device whose reply leaves out every B, or every A."""
PATTERNS = ("both", "bfirst", "switch")
UPLOADS = ("full", "half")
LOSSES = ("cross_entropy", "squared_error")


@dataclass(frozen=True, slots=True)
class FdnncConfig(TrainingConfig):
    """Rank, rate, batch and R0 are reconstructions; one mini-batch a round as printed."""

    lr: float = 0.01
    batch_size: int = 50
    local_steps: int | None = 1
    """null: local_epochs epochs instead."""
    pattern: str = "both"
    """both, bfirst or switch."""
    upload: str = "full"
    """Of small devices: full (A and B) or half (one of them)."""
    rank: int = 32
    """Of every fully connected layer; a layer whose shorter side is smaller keeps its full rank."""
    bfirst_rounds: int = 400
    """R0: rounds of BFIRST in which the big devices train alone; the small ones do from then on."""
    loss: str = "cross_entropy"
    """cross_entropy, or squared_error of the outputs to the one-hot label as the paper prints."""
    late_share: float = 0.0
    """Share of the devices (drawn by seed) that join late: until `join_round` nobody asks them."""
    join_round: int = 0
    """First round of the late devices; they start from the global model, as every round does."""
    gap: bool = True
    """Record `fdnnc/gap` (uncharged) where small devices send both factors; actors then sum A B^T too."""

    def check(self) -> None:
        TrainingConfig.check(self)
        for key, words in (("pattern", PATTERNS), ("upload", UPLOADS), ("loss", LOSSES)):
            word = getattr(self, key)
            require(word in words, f"method.{key}: unknown value {word!r}{nearest(word, words)}")
        require(self.rank >= 1, f"method.rank must be >= 1, got {self.rank}")
        require(self.bfirst_rounds >= 1, f"method.bfirst_rounds must be >= 1, got {self.bfirst_rounds}")
        require(self.join_round >= 0, f"method.join_round must be >= 0, got {self.join_round}")
        require(0 <= self.late_share < 1, f"method.late_share must be in [0, 1), got {self.late_share}")


def build(kind: SubmodelId, task: Task, cfg: FdnncConfig) -> L.LightningModule:
    """The task's network, or its low-rank form."""
    module = build_module(task)
    if cfg.loss == "squared_error":
        require(isinstance(module, Classifier), f"method.loss=squared_error: task.model={task.cfg.model} has "
                "a loss of its own; use method.loss=cross_entropy")  # fmt: skip
        assert isinstance(module, Classifier)
        module.loss = squared_error
    return module if kind == BIG else with_low_rank(module, cfg.rank)


class FdnncClient(Client[FdnncConfig]):
    """Trains the whole network or its low-rank form, whichever it was sent."""

    def fit(self, down: Weights) -> Weights:
        """A local step (or more), then everything but the factor that the other half sends."""
        kind = BIG if down.submodel == BIG else SMALL
        module = self.place.module(kind, lambda: build(kind, self.place.task, self.cfg))
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
        params = sent_as(down.submodel, state_of(module))
        return Weights(params=params, num_examples=len(self.shard), submodel=kind)


def sent_as(part: SubmodelId, state: State) -> dict[str, Tensor]:
    """What of a state goes up: under HALF one factor of each layer stays at home."""
    kept_back = {SMALL_A: ".weight_b", SMALL_B: ".weight_a"}.get(part)
    return {name: t for name, t in state.items() if kept_back is None or not name.endswith(kept_back)}


def halves(small: Sequence[ClientId], generator: torch.Generator) -> dict[ClientId, SubmodelId]:
    """Who sends A and who B: halves of floor and ceil, the larger one drawn too. One device: A or B."""
    order = torch.randperm(len(small), generator=generator).tolist()
    num_a = (len(small) + int(torch.randint(2, (), generator=generator))) // 2
    return {small[index]: SMALL_A if place < num_a else SMALL_B for place, index in enumerate(order)}


class Fdnnc(Method[FdnncClient, FdnncConfig]):
    """The server: keeps the dense weights, the factors, or both, and translates between them."""

    Config = FdnncConfig
    Client = FdnncClient

    def __init__(self, cfg: FdnncConfig, place: Workplace) -> None:
        super().__init__(cfg, place)
        cfg.check()
        with torch.device("meta"):
            network = build(BIG, place.task, cfg)
        self.num_params = sum(p.numel() for p in network.parameters())
        self.layers: tuple[Layer, ...] = layers_of(network, cfg.rank)
        name = place.task.cfg.model
        require(
            len(self.layers) > 0, f"task.model={name}: has no nn.Linear to factor; choose another network"
        )
        most = max(min(layer.shape) for layer in self.layers)
        if cfg.rank > most:
            warnings.warn(
                f"method.rank={cfg.rank} has no effect beyond {most}: every layer has its full rank",
                stacklevel=2,
            )
        # What was trained last; {} where only the other one was, and it follows from that.
        self.weights: dict[str, Tensor] = {}
        self.factors: dict[str, Tensor] = {}

    def models(self) -> Mapping[str, Callable[[], L.LightningModule]]:
        return {
            BIG: lambda: build(BIG, self.place.task, self.cfg),
            SMALL: lambda: build(SMALL, self.place.task, self.cfg),
        }

    def submodels(self) -> Mapping[SubmodelId, SubmodelProfile]:
        return {SubmodelId(name): self.profile(name, one) for name, one in self.models().items()}

    def required(self) -> frozenset[SubmodelId]:
        return frozenset() if self.cfg.pattern == "both" else frozenset({BIG, SMALL})

    def exchanges(self, num_examples: int) -> Sequence[Exchange]:
        with torch.device("meta"):
            states = {name: state_of(one()) for name, one in self.models().items()}
        found = []
        for part in (BIG, SMALL) if self.cfg.upload == "full" else (BIG, SMALL_A, SMALL_B):
            state = states[BIG if part == BIG else SMALL]
            down, up = Weights(params=state), Weights(params=sent_as(part, state))
            found.append(Exchange(FdnncClient.fit, part, down=down, up=up))
        return found

    def start(self) -> None:
        self.weights = snapshot(self.place.initial(lambda: build(BIG, self.place.task, self.cfg)))
        self.factors = {}

    def round(self, cohort: Cohort[FdnncClient]) -> Metrics:
        classes: dict[str, list[ClientId]] = {BIG: [], SMALL: []}
        for client in cohort.clients:
            if self.has_joined(client, cohort.plan.round):
                classes[cohort.submodel(client)].append(client)
        big, small = classes[BIG], classes[SMALL]
        match self.cfg.pattern:
            case "both":
                return self.step(cohort, big, small)
            case "bfirst":
                first = cohort.plan.round < self.cfg.bfirst_rounds
                return self.step(cohort, big if first else [], [] if first else small)
            case _:
                return {**self.step(cohort, big, []), **self.step(cohort, [], small)}

    def step(
        self, cohort: Cohort[FdnncClient], big: Sequence[ClientId], small: Sequence[ClientId]
    ) -> Metrics:
        """These devices train from where we are; nobody to ask changes nothing."""
        sent: dict[SubmodelId, dict[str, Tensor]] = {}
        if big:
            sent[BIG] = self.dense()
        if small:
            sent[SMALL] = self.low_rank()
        if not sent:
            return {}
        parts = dict.fromkeys(big, BIG) | self.parts(small, cohort.plan.round)
        total = self.collect(cohort, sent, parts)
        # A tensor that nobody sent stays as it is.
        got = {kind: {**state, **total.means(kind)} for kind, state in sent.items()}
        self.weights, self.factors = got.get(BIG, {}), got.get(SMALL, {})
        if big and small:
            self.weights = halfway(self.weights, to_dense(self.factors, self.layers, place=self.place))
            self.factors = to_factors(self.weights, self.layers, place=self.place)
        gap = total.gap(SMALL) if total.layers else None
        return {} if gap is None else {"fdnnc/gap": gap}

    def has_joined(self, client: ClientId, round: int) -> bool:
        """Whether a device takes part yet."""
        if round >= self.cfg.join_round:
            return True
        return derive(self.place.seed, client=client, purpose="late") / 2**63 >= self.cfg.late_share

    def collect(
        self,
        cohort: Cohort[FdnncClient],
        sent: Mapping[SubmodelId, State],
        parts: Mapping[ClientId, SubmodelId],
    ) -> FactorSum:
        """One exchange with all of them: sums inside the actors."""
        watched = self.layers if self.cfg.gap and self.cfg.upload == "full" and SMALL in sent else ()
        return cohort.reduce(
            FdnncClient.fit,
            {
                part: Weights(params=sent[BIG if part == BIG else SMALL], submodel=part)
                for part in sorted(set(parts.values()))
            },
            into=FactorSum.watching(sent, layers=watched, max_examples=cohort.num_examples),
            parts=parts,
        )

    def parts(self, small: Sequence[ClientId], round: int) -> dict[ClientId, SubmodelId]:
        """What each small device sends in this round."""
        if self.cfg.upload == "full":
            return dict.fromkeys(small, SMALL)
        return halves(small, torch_generator(self.place.seed, round=round, purpose="halves"))

    def dense(self) -> dict[str, Tensor]:
        """W, or A B^T."""
        return self.weights or to_dense(self.factors, self.layers, place=self.place)

    def low_rank(self) -> dict[str, Tensor]:
        """A and B, or those of W."""
        return self.factors or to_factors(self.weights, self.layers, place=self.place)

    def evaluate(self, cohort: Cohort[FdnncClient]) -> Metrics:
        scores: dict[SubmodelId, Mapping[str, float]] = {}
        for kind, state in ((BIG, self.dense()), (SMALL, self.low_rank())):
            module = self.place.module(kind, self.models()[kind])
            load_state(module, state)
            scores[kind] = evaluate_splits(module, place=self.place)
        named = {f"{name}_{kind}": value for kind, one in scores.items() for name, value in one.items()}
        return {**scores[BIG], **named}

    def tables(self) -> Mapping[str, list[dict[str, Any]]]:
        return {
            "layers": layer_rows(self.layers),
            "savings": saving_rows(self.layers, num_params=self.num_params),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "factors": self.factors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights, self.factors = dict(state["weights"]), dict(state["factors"])
