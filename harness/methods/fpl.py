"""FPL: sources that see one thing differently, merged by a trainable junction at the edge server.

Malandrino, Chiasserini, "Flexible parallel learning in edge scenarios", WoWMoM 2022. The layers before the
junction lie at every source, J and the layers after it at the server. Per mini-batch activations go up and
gradients come down; both sides step with optimizers of their own, which is one step of the whole network.
`junction: auto` is the paper's first step: the cut that `price` finds cheapest over the fleet's links.

`micro_batches` cuts every batch (Huang et al., GPipe, NeurIPS 2019): what sources, links and the server do
with its parts overlaps in time, gradients add up, and the step, FLOPs and bytes are those of the whole batch
(but for batch norm, which sees the parts). `branches` gives sources networks of their own, by their view: a
sensor's vector beside images.

Differs: labels lie at the server, and every party draws the order of the examples from the run's seed, so
neither travels. One exchange carries the gradients of a batch down and the next one's activations up. A
source whose reply is lost, late or refused is out for the rest of the round: the batches it misses are
counted, and its activations are zeros, or the mean of its last ones (`missing`); where nobody is left the
round ends. J has a block for each source of a round's cohort: who leaves takes the block away, who joins
brings a new one, and the rest stays. Branches keep weights and moments at their source. The whole network is
tested on the views of one image; for that the sources hand in their branches, booked as evaluation.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import lightning as L
import torch
from torch import Tensor

from harness.config import require
from harness.cost.pipeline import Split, micro_sizes
from harness.data.partition import view_names
from harness.exchange.client import Client
from harness.exchange.cohort import Cohort
from harness.exchange.payloads import Activations, Empty, Payload, Weights
from harness.learning.models import TrainingConfig, load_optimizer, make_optimizer, optimizer_state, take_step
from harness.learning.seeding import derive, seed_torch
from harness.learning.sources import (
    BRANCH,
    Branches,
    Fork,
    batch_order,
    branch_of,
    check_sources,
    cuts_of,
    evaluate_together,
    fork,
    merging,
)
from harness.learning.stopping import Patience
from harness.learning.training import batch_sizes, laid_out, to_device
from harness.learning.weights import load_state, snapshot, state_of
from harness.learning.workplace import Workplace
from harness.run.method import FULL, Exchange, Method, Metrics
from harness.scheduling.fleet import build_fleet, server_profile
from harness.scheduling.placement import OBJECTIVES, Placed, best_cut, price_cuts
from harness.types import ClientId, SubmodelId
from lightning_modules.classifier import Classifier
from lightning_modules.junction import ACTIVATIONS, INITS, Junction, Parallel, joined


@dataclass(frozen=True, slots=True)
class FplConfig(TrainingConfig):
    """Defaults: the paper's training. A round is `local_epochs` passes over the examples."""

    optimizer: str = "adam"
    lr: float = 1e-3
    batch_size: int = 64
    junction: str = "auto"
    """Name of the layer that the junction precedes (f1, f2 of leaf_cnn); auto: the cheapest by `price`."""
    objective: str = "time"
    """What auto minimises: time or energy."""
    junction_init: str = "default"
    """default (as any linear layer) or average (J starts as the mean of the branches)."""
    activation: str = "relu"
    """After the junction: relu or identity."""
    missing: str = "zeros"
    """Activations of a source that is out: zeros, or last (the mean over the last batch it sent)."""
    micro_batches: int = 1
    """Parts of a batch that follow each other through sources, links and server."""
    branches: dict[str, str] = field(default_factory=dict)
    """View -> network (`harness list models`) of its sources, without its last layer; vectors: mlp."""
    patience: int = 0
    """Stop after so many evaluations without a lower validation loss; 0: never."""


@dataclass(frozen=True, slots=True)
class Turn(Payload):
    """What a source is to do next."""

    layer: str
    """The first one that it does not hold."""
    batch: int = 0
    """Number in the round of the batch whose activations are wanted."""
    gradients: Tensor | None = None
    """[B, ...] dLoss / dActivations of the batch before; None where there are none."""


Turns: TypeAlias = Mapping[ClientId, Turn]


class Source(Client[FplConfig]):
    """Trains its branch with gradients from the server.

    Where another process serves the next exchange, the last forward pass is computed again, unbooked.
    """

    stateful = True
    attached = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.layer = ""
        self.before: dict[str, Any] | None = None
        """The batch under way, and the branch's buffers before it."""
        self.pending: list[Tensor] | None = None
        """Activations of each micro-batch under way."""

    def begin(self, down: Turn) -> Activations:
        """Activations of a round's first batch."""
        self._equip(down.layer)
        return self._forward(down.batch)

    def step(self, down: Turn) -> Activations:
        """Learn from the last batch's gradients; activations of the next one."""
        self._backward(down)
        return self._forward(down.batch)

    def finish(self, down: Turn) -> Empty:
        """Learn from the round's last gradients."""
        self._backward(down)
        return Empty()

    def weights(self, down: Turn) -> Weights:
        """The branch, for an evaluation."""
        self._equip(down.layer)
        return Weights(params=state_of(self.branch), submodel=BRANCH)

    def state_dict(self) -> dict[str, Any]:
        kept = {"layer": self.layer, "weights": snapshot(self.branch), "before": self.before}
        return {**kept, "optimizer": optimizer_state(self.optimizer)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._equip(state["layer"])
        load_state(self.branch, state["weights"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.before = state["before"]

    def _equip(self, layer: str) -> None:
        if layer != self.layer:
            self.layer = layer
            task, view, named = self.place.task, self.shard.view, self.cfg.branches
            self.branch = self.place.initial(lambda: branch_of(task, layer, view=view, named=named))
            self.branch.train()
            self.optimizer = make_optimizer(self.branch.parameters(), self.cfg, round=0)

    def _forward(self, number: int) -> Activations:
        buffers = {n: b.cpu().clone() for n, b in self.branch.named_buffers() if b.is_floating_point()}
        self.before = {"batch": number, "buffers": buffers}
        inputs = self._inputs(number)
        with self.place.meter.step(self.branch, inputs, kind="forward"):
            self.pending = self._activations(inputs, number)
        return Activations(values=torch.cat([part.detach() for part in self.pending]))

    def _backward(self, down: Turn) -> None:
        assert self.before is not None, "gradients follow activations"
        assert down.gradients is not None, "gradients follow activations"
        if self.pending is None:
            load_state(self.branch, {**snapshot(self.branch), **self.before["buffers"]})
            number = self.before["batch"]
            self.pending = self._activations(self._inputs(number), number)
        gradients = laid_out(down.gradients, self.place)
        with self.place.meter.step(self.branch, gradients, kind="backward"):
            sizes = micro_sizes(len(gradients), self.cfg.micro_batches)
            for part, arrived in zip(self.pending, gradients.split(sizes), strict=True):
                part.backward(arrived)
        take_step(self.optimizer, self.cfg, round=self.round)
        self.before = self.pending = None

    def _inputs(self, number: int) -> Tensor:
        rows = batch_order(len(self.shard), self.cfg, self.place, round=self.round)[number]
        batch = self.shard.take(rows.numpy())
        if batch.inputs.dim() == 4:
            batch = self.place.task.augmented(batch, self.generator(f"augment/{number}"))
        return to_device(batch, self.place).inputs

    def _activations(self, inputs: Tensor, number: int) -> list[Tensor]:
        # Dropout draws the same numbers when the pass is computed again.
        purpose = f"forward/{number}"
        seed_torch(derive(self.place.seed, round=self.round, client=self.client_id, purpose=purpose))
        sizes = micro_sizes(len(inputs), self.cfg.micro_batches)
        with self.place.fabric.autocast():
            return [self.branch(part).float() for part in inputs.split(sizes)]


class Fpl(Method[Source, FplConfig]):
    """Branches at the sources, a junction and the rest at the server."""

    Config = FplConfig
    Client = Source
    kinds = ("classification",)

    def __init__(self, cfg: FplConfig, place: Workplace) -> None:
        super().__init__(cfg, place)
        cfg.check()
        for key, words in (
            ("objective", OBJECTIVES),
            ("junction_init", INITS),
            ("activation", tuple(ACTIVATIONS)),
            ("missing", ("zeros", "last")),
        ):
            got = getattr(cfg, key)
            require(got in words, f"method.{key} must be one of {', '.join(words)}, got {got!r}")
        require(cfg.micro_batches >= 1, f"method.micro_batches must be >= 1, got {cfg.micro_batches}")
        check_sources(place.partition, method=cfg.name, vectors=True)
        self.held = Branches(place.task, view_names(place.partition), cfg.branches)
        self.sources = [ClientId(client) for client in range(place.partition.num_clients)]
        """Who has a block in the junction, ascending."""
        self.layer = cfg.junction
        if cfg.junction == "auto":
            self.layer = best_cut(self.placed(), objective=cfg.objective).layer
        with torch.device("meta"):
            self.cut = fork(place.task, self.layer)
            self.upper(self.cut)
        self.forward_flops = [2 * one.macs_forward for one in self.held.profiles(self.layer)]
        """[K] of each source, per example."""
        self.last: dict[str, Tensor] = {}
        """Source -> mean activations [D] of the last batch it sent."""
        self.patience = Patience(cfg.patience)

    def upper(self, cut: Fork) -> Classifier:
        """What lies at the server: the junction and the layers after it."""
        widths = self.held.widths(self.sources, cut)
        junction = Junction(widths, cut.shape, init=self.cfg.junction_init, activation=self.cfg.activation)
        return Classifier(joined(cut.upper, junction), loss=cut.module.loss)

    def placed(self) -> list[Placed]:
        """Every position of the junction, priced under the fleet's links."""
        place, count = self.place, len(self.sources)
        fleet = build_fleet(place.fleet, num_clients=count, seed=place.seed)
        sizes = micro_sizes(self.cfg.batch_size or place.task.num_train, self.cfg.micro_batches)
        cuts, server = cuts_of(self.held, self.upper), server_profile(place.fleet)
        return price_cuts(cuts, sources=fleet.devices, server=server, sizes=sizes)

    def tables(self) -> Mapping[str, list[dict[str, Any]]]:
        return {"placement": [asdict(one) for one in self.placed()]} if self.cfg.junction == "auto" else {}

    def models(self) -> Mapping[str, Callable[[], L.LightningModule]]:
        own = {str(self.held.name(source)): partial(self._build, source) for source in self.sources}
        rest = {"server": self._server, str(FULL): self._whole}
        return {BRANCH: lambda: fork(self.place.task, self.layer).branch, **own, **rest}

    def _build(self, source: int) -> L.LightningModule:
        return self.held.build(source, self.layer)

    def _server(self) -> Classifier:
        server = self.upper(fork(self.place.task, self.layer))
        server.example_input_array = torch.empty(1, sum(merging(server).widths.values()))
        return server

    def _whole(self) -> Parallel:
        return self.held.together({source: self._build(source) for source in self.sources}, self._server())

    def exchanges(self, num_examples: int) -> Sequence[Exchange]:
        shapes = {self.held.name(source): self.held.shape(source, self.cut) for source in self.sources}
        return [one for name, shape in shapes.items() for one in self._exchanges(num_examples, name, shape)]

    def _exchanges(self, num_examples: int, name: SubmodelId, shape: tuple[int, ...]) -> list[Exchange]:
        sizes = batch_sizes(num_examples, cfg=self.cfg)
        at_cut = {n: torch.empty(n, *shape, device="meta") for n in set(sizes)}
        up = {n: Activations(values=values) for n, values in at_cut.items()}
        down = {n: Turn(self.layer, gradients=values) for n, values in at_cut.items()}
        steps = Counter(pairwise(sizes))
        return [
            Exchange(Source.begin, name, down=Turn(self.layer), up=up[sizes[0]]),
            *(Exchange(Source.step, name, down[a], up[b], times=n) for (a, b), n in steps.items()),
            Exchange(Source.finish, name, down=down[sizes[-1]], up=Empty()),
        ]

    def start(self) -> None:
        self.server = self.place.initial(lambda: self.upper(fork(self.place.task, self.layer)))
        self.optimizer = make_optimizer(self.server.parameters(), self.cfg, round=0)

    @property
    def junction(self) -> Junction:
        return merging(self.server)

    @property
    def done(self) -> bool:
        return self.patience.over

    def round(self, cohort: Cohort[Source]) -> Metrics:
        self._seat(cohort.clients)
        cohort.parts = {source: self.held.name(source) for source in self.sources}
        self.server.train()
        order = batch_order(len(self.place.split("train")), self.cfg, self.place, round=cohort.plan.round)
        losses, arrived = [], 0
        ahead = [*map(len, order), 0]
        batch = self._call(cohort, Source.begin, dict.fromkeys(self.sources, Turn(self.layer)), ahead[0])
        for number, rows in enumerate(order):
            if not batch:
                break
            arrived += len(batch)
            loss, down = self._learn(batch, rows, then=number + 1, round=cohort.plan.round)
            losses.append(loss)
            endpoint = Source.step if ahead[number + 1] else Source.finish
            batch = self._call(cohort, endpoint, down, ahead[number + 1])
        learnt = {"train/loss": float(torch.stack(losses).mean())} if losses else {}
        weights = {f"fpl/weight/{source}": norm for source, norm in self.junction.norms().items()}
        expected = len(order) * len(self.sources)
        return {**learnt, **weights, "fpl/sources": len(self.sources), "fpl/missing": expected - arrived}

    def _call(
        self, cohort: Cohort[Source], endpoint: Callable[..., Any], down: Turns, ahead: int
    ) -> dict[ClientId, Any]:
        """Replies; `ahead`: examples of the batch asked for. Times the call, and the sources' own work."""
        split = None
        if self.cfg.micro_batches > 1:
            flops = {int(source): ahead * self.forward_flops[source] for source in down}
            split = Split(micro_sizes(ahead, self.cfg.micro_batches), flops)
        with self.place.timed("time/calls_wall_s"):
            replies = cohort.call(endpoint, down, split=split)
        worked = sum(receipt.wall_s for receipt in cohort.receipts[-len(down) :])
        self.place.add_wall("time/sources_wall_s", worked)
        return replies

    def _seat(self, clients: Sequence[ClientId]) -> None:
        """A block for each of these sources, with its moments; those of the rest go."""
        if clients == self.sources:
            return
        self.sources = list(clients)
        before = self.optimizer.state
        self.junction.resize(self.held.widths(self.sources, self.cut))
        self.optimizer = make_optimizer(self.server.parameters(), self.cfg, round=0)
        self.optimizer.state.update((p, before[p]) for p in self.server.parameters() if p in before)

    def _learn(
        self, batch: Mapping[ClientId, Activations], rows: Tensor, *, then: int, round: int
    ) -> tuple[Tensor, dict[ClientId, Turn]]:
        """One step of the server's layers on what all sources sent; the loss [] and what each does next."""
        parts = [self._part(source, batch.get(source), len(rows)) for source in self.sources]
        values = laid_out(torch.cat(parts, dim=1), self.place).requires_grad_()
        labels = self.place.split("train").examples.targets[rows.numpy()]
        targets = torch.from_numpy(labels).to(values.device)
        sizes, losses = micro_sizes(len(rows), self.cfg.micro_batches), []
        with self.place.meter.step(self.server, values):
            for part in zip(values.split(sizes), targets.split(sizes), strict=True):
                with self.place.fabric.autocast():
                    loss = self.server.training_step(part, 0)
                losses.append(loss * (len(part[1]) / len(rows)))
                losses[-1].backward()
        take_step(self.optimizer, self.cfg, round=round)
        assert values.grad is not None
        widths = list(self.junction.widths.values())
        gradients = dict(zip(self.sources, values.grad.split(widths, dim=1), strict=True))
        shaped = {c: gradients[c].reshape(-1, *self.held.shape(c, self.cut)) for c in batch}
        return torch.stack(losses).detach().sum(), {c: Turn(self.layer, then, g) for c, g in shaped.items()}

    def _part(self, source: ClientId, sent: Activations | None, count: int) -> Tensor:
        """[B, D] of one source; by `missing` where it sent nothing."""
        if sent is not None:
            flat = sent.values.flatten(1)
            if self.cfg.missing == "last":
                self.last[str(source)] = flat.mean(dim=0)
            return flat
        nothing = torch.zeros(self.junction.widths[str(source)])
        return self.last.get(str(source), nothing).expand(count, -1)

    def evaluate(self, cohort: Cohort[Source]) -> Metrics:
        sent = cohort.call(Source.weights, dict.fromkeys(self.sources, Turn(self.layer)))
        for source, branch in sent.items():
            load_state(self._branch(source), branch.params)
        whole = self.held.together({source: self._branch(source) for source in self.sources}, self.server)
        found = evaluate_together(whole, self.sources, place=self.place)
        self.patience.see(found["val/loss"])
        return found

    def _branch(self, source: ClientId) -> L.LightningModule:
        return self.place.module(f"branch/{source}", lambda: self._build(source))

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": snapshot(self.server),
            "optimizer": optimizer_state(self.optimizer),
            "sources": [int(source) for source in self.sources],
            "last": self.last,
            "patience": self.patience.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seat([ClientId(source) for source in state["sources"]])
        load_state(self.server, state["weights"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.last = dict(state["last"])
        self.patience.load_state_dict(state["patience"])
