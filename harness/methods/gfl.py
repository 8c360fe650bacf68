"""gFL: a network for each source, some of whose layers are averaged and the rest private.

The alternative of Malandrino, Chiasserini (FPL), WoWMoM 2022, after Liang et al., "Think locally, act
globally", 2020: source i trains its own network on view i; the layers named in `shared` are averaged after
each local epoch. FedProx (Li et al., MLSys 2020): `mu`, in the paper one of {.001, .01, .1, 1}, on the shared
layers alone.
`average: batch` averages after each mini-batch, which the paper's traffic seems to count.

Differs: all networks start alike; sources keep their optimizers' moments, also those of shared layers.
Reported is the mean over i of model i on view i. `eval/ensemble` and `val/ensemble` are the control: the
accuracy of the mean probability that all models give one image, each by its own view.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.config import require
from harness.exchange.client import Client
from harness.exchange.cohort import Cohort
from harness.exchange.payloads import Empty, Payload, Weights
from harness.learning.aggregation import WeightSum
from harness.learning.cuts import whole_network
from harness.learning.models import (
    TrainingConfig,
    build_module,
    load_optimizer,
    make_optimizer,
    optimizer_state,
    set_lr,
)
from harness.learning.proximal import proximal
from harness.learning.sources import batch_rows, check_sources
from harness.learning.stopping import Patience
from harness.learning.training import batch_sizes, to_device, train
from harness.learning.weights import load_state, snapshot, state_of
from harness.learning.workplace import Workplace
from harness.run.method import FULL, Exchange, Method, Metrics


@dataclass(frozen=True, slots=True)
class GflConfig(TrainingConfig):
    """Defaults: FPL's training."""

    optimizer: str = "adam"
    lr: float = 1e-3
    batch_size: int = 64
    shared: list[str] = field(default_factory=list)
    """Names of the layers that are averaged (f1, f2 of leaf_cnn); default the last two with parameters."""
    mu: float = 0.0
    """Weight of FedProx's term mu/2 ||w - w_shared||^2 over the shared layers."""
    average: str = "round"
    """round (after `local_epochs` epochs) or batch (after every mini-batch)."""
    patience: int = 0
    """Stop after so many evaluations without a lower validation loss; 0: never."""


@dataclass(frozen=True, slots=True)
class Shared(Payload):
    """The shared layers, and what to train them on."""

    params: Mapping[str, Tensor]
    """Name -> tensor of any shape."""
    batch: int | None = None
    """Number in the round of the one batch to train on; None: the whole round."""


@dataclass(frozen=True, slots=True)
class Votes(Payload):
    """What a source's network says of every example of val and test."""

    val: Tensor
    """[N, C] logits."""
    test: Tensor
    """[N, C] logits."""


class Tutor(Client[GflConfig]):
    """Trains its own network, of which it shares some layers."""

    stateful = True
    attached = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.module = self.place.initial(lambda: build_module(self.place.task))
        self.optimizer = make_optimizer(self.module.parameters(), self.cfg, round=0)

    def fit(self, down: Shared) -> Weights:
        """Local training from the shared layers as they are now; the shared layers afterwards."""
        load_state(self.module, {**snapshot(self.module), **down.params})
        set_lr(self.optimizer, self.cfg, round=self.round)
        shard, cfg = self.shard, self.cfg
        if down.batch is not None:
            rows = batch_rows(len(shard), cfg=cfg, generator=self.generator("batches"))[down.batch]
            shard = replace(shard, indices=shard.indices[rows.numpy()])
            cfg = replace(cfg, batch_size=0, local_epochs=1, local_steps=None)
        trained = train(
            self.module,
            shard,
            cfg=cfg,
            optimizer=self.optimizer,
            place=self.place,
            generator=self.generator("batches" if down.batch is None else f"batch/{down.batch}"),
            after_backward=proximal(self.module, down.params, mu=cfg.mu) if cfg.mu else None,
        )
        self.log("train/loss", trained.loss)
        own = state_of(self.module)
        return Weights(params={name: own[name] for name in down.params}, num_examples=len(self.shard))

    def vote(self, down: Empty) -> Votes:
        """Logits of val and test, seen as this source sees."""
        return Votes(val=self._logits("val"), test=self._logits("test"))

    @torch.no_grad()
    def _logits(self, split: Literal["val", "test"]) -> Tensor:
        self.module.eval()
        found = []
        for batch in replace(self.place.split(split), view=self.shard.view).batches(250):
            inputs = to_device(batch, self.place).inputs
            with self.place.fabric.autocast(), self.place.meter.step(self.module, inputs, kind="forward"):
                found.append(self.module(inputs).float())
        return torch.cat(found)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": snapshot(self.module), "optimizer": optimizer_state(self.optimizer)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_state(self.module, state["weights"])
        load_optimizer(self.optimizer, state["optimizer"])


class Gfl(Method[Tutor, GflConfig]):
    """Private networks with shared layers."""

    Config = GflConfig
    Client = Tutor
    kinds = ("classification",)

    def __init__(self, cfg: GflConfig, place: Workplace) -> None:
        super().__init__(cfg, place)
        cfg.check()
        check_sources(place.partition, method=cfg.name)
        require(cfg.mu >= 0, f"method.mu must be >= 0, got {cfg.mu}")
        require(
            cfg.average in ("round", "batch"), f"method.average must be round or batch, got {cfg.average!r}"
        )
        with torch.device("meta"):
            network = whole_network(place.task, build_module(place.task), key="method.shared")
        known = [name for name, layer in network.named_children() if any(True for _ in layer.parameters())]
        odd = [name for name in cfg.shared if name not in known]
        require(
            not odd, f"method.shared: no layer {odd[:1]} with parameters; choose some of {', '.join(known)}"
        )
        self.layers = cfg.shared or known[-2:]
        self.patience = Patience(cfg.patience)

    def models(self) -> Mapping[str, Callable[[], L.LightningModule]]:
        return {FULL: lambda: build_module(self.place.task)}

    def exchanges(self, num_examples: int) -> Sequence[Exchange]:
        with torch.device("meta"):
            weights = self._of(state_of(build_module(self.place.task)))
        times = len(batch_sizes(num_examples, cfg=self.cfg)) if self.cfg.average == "batch" else 1
        return [Exchange(Tutor.fit, FULL, down=Shared(weights), up=Weights(params=weights), times=times)]

    def _of(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The shared part of a network's state."""
        prefixes = tuple(f"network.{layer}." for layer in self.layers)
        return {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}

    def start(self) -> None:
        self.weights = self._of(snapshot(self.place.initial(lambda: build_module(self.place.task))))

    @property
    def done(self) -> bool:
        return self.patience.over

    def round(self, cohort: Cohort[Tutor]) -> Metrics:
        num_examples = len(self.place.split("train"))
        by_batch = self.cfg.average == "batch"
        batches = range(len(batch_sizes(num_examples, cfg=self.cfg))) if by_batch else [None]
        for batch in batches:
            total = cohort.reduce(
                Tutor.fit,
                {FULL: Shared(self.weights, batch)},
                into=WeightSum.like(self.weights, max_examples=cohort.num_examples),
            )
            if total.num_examples:
                self.weights = total.mean()
        return {}

    def evaluate(self, cohort: Cohort[Tutor]) -> Metrics:
        votes = cohort.broadcast(Tutor.vote, Empty())
        ordered = [votes[source] for source in sorted(votes)]
        val, test = (self.place.split(name).examples.targets for name in ("val", "test"))
        found = {f"val/{n}": v for n, v in scores([v.val for v in ordered], torch.tensor(val)).items()}
        found |= {f"eval/{n}": v for n, v in scores([v.test for v in ordered], torch.tensor(test)).items()}
        self.patience.see(found["val/loss"])
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "patience": self.patience.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weights = dict(state["weights"])
        self.patience.load_state_dict(state["patience"])


def scores(logits: Sequence[Tensor], targets: Tensor) -> dict[str, float]:
    """Accuracy and loss, means over networks, and the accuracy of their mean probability (`ensemble`)."""
    right = sum(int((one.argmax(dim=1) == targets).sum()) for one in logits)
    losses = [float(F.cross_entropy(one, targets, reduction="sum").double()) for one in logits]
    mean = torch.stack([one.softmax(dim=1) for one in logits]).mean(dim=0)
    return {
        "accuracy": right / (len(targets) * len(logits)),
        "loss": sum(losses) / (len(targets) * len(logits)),
        "ensemble": int((mean.argmax(dim=1) == targets).sum()) / len(targets),
    }
