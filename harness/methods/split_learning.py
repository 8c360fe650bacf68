"""Split learning: clients hold the lower layers, the server the upper ones.

Per mini-batch, activations go up and gradients come down.

Gupta, Raskar, "Distributed learning of deep neural network over multiple agents", Journal of Network and
Computer Applications 2018 (Algorithms 1 and 2): `mode: sequential`, client after client; each hands the lower
layers on to the next one, here through the server, and the bytes are charged.
Jeon, Kim, "Privacy-sensitive parallel split learning", ICOIN 2020: `mode: parallel`, all clients at once; the
server takes one step per step index, on the batches of all clients joined together.
Thapa et al., "SplitFed: when federated learning meets split learning", AAAI 2022: in parallel mode the lower
layers are averaged at the round's end, as in both of its versions. Its version 1 averages copies of the upper
layers too, its version 2 steps through the clients' batches one by one; one joined step is neither.

Differs: labels travel with every batch (the papers share them once or keep them); one exchange carries the
gradients of a batch down and the activations of the next one up; each client's optimizer keeps its moments
over rounds and they do not travel. In parallel mode a client gets the gradient of its own batch's mean loss,
B / B_k times its rows of the joint one, so that the average of the lower layers moves as fast as the upper
ones. Activations and gradients travel in fp32. A client whose reply is lost, late or refused is out for the
rest of the round, and so is what its lower layers learnt in it.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import lightning as L
import torch
from torch import Tensor

from harness.config import require
from harness.data.task import Batch
from harness.exchange.client import Client
from harness.exchange.cohort import Cohort
from harness.exchange.payloads import Activations, Gradients, Weights
from harness.learning.aggregation import WeightSum
from harness.learning.cuts import cut_module, cut_network
from harness.learning.evaluation import evaluate_splits
from harness.learning.models import (
    TrainingConfig,
    build_module,
    load_optimizer,
    make_optimizer,
    optimizer_state,
    take_step,
)
from harness.learning.seeding import derive, seed_torch
from harness.learning.training import BatchStream, batch_sizes, laid_out
from harness.learning.weights import load_state, snapshot, state_of
from harness.learning.workplace import Workplace
from harness.run.method import FULL, Exchange, Method, Metrics
from harness.types import ClientId, SubmodelId

LOWER = SubmodelId("lower")
"""What a client holds."""


@dataclass(frozen=True, slots=True)
class SplitLearningConfig(TrainingConfig):
    """Both sides train with the same optimizer settings. A round is `local_epochs` epochs of every client."""

    mode: str = "sequential"
    """sequential (client after client) or parallel (all at once)."""
    cut: str = "auto"
    """Name of the last layer at the clients; auto cuts before the second layer that has parameters."""


@dataclass(frozen=True, slots=True)
class Smashed(Activations):
    """Activations [B, ...] with what the server needs to go on."""

    targets: Tensor
    """[B] int64 labels."""
    last: bool
    """No batch of this client follows in this round."""


class SplitClient(Client[SplitLearningConfig]):
    """Trains the layers below the cut with gradients from the server.

    Between two exchanges a device keeps the graph of its last batch. Here another process may serve the next
    one: the forward pass is then computed again, unbooked, because no device would.
    """

    stateful = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lower = self.place.module(LOWER, lambda: cut_network(self.place.task, self.cfg.cut)[0])
        self.lower.train()
        self.optimizer = make_optimizer(self.lower.parameters(), self.cfg, round=0)
        self.stream = self._stream()
        self.before: dict[str, Any] | None = None
        self.pending: Tensor | None = None

    def begin(self, down: Weights) -> Smashed:
        """Take the lower layers over; activations of the round's first batch."""
        load_state(self.lower, down.params)
        self.stream = self._stream()
        return self._forward()

    def step(self, down: Gradients) -> Smashed:
        """Learn from the last batch's gradients [B, ...]; activations of the next batch."""
        self._backward(down)
        return self._forward()

    def finish(self, down: Gradients) -> Weights:
        """Learn from the round's last gradients [B, ...]; hand the lower layers over."""
        self._backward(down)
        return Weights(params=state_of(self.lower), num_examples=len(self.shard), submodel=LOWER)

    def state_dict(self) -> dict[str, Any]:
        flight = self.before
        if flight is not None:
            flight = {**flight, "weights": {**snapshot(self.lower), **flight["buffers"]}}
        return {"optimizer": optimizer_state(self.optimizer), "flight": flight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_optimizer(self.optimizer, state["optimizer"])
        if state["flight"] is not None:
            self.before = {key: state["flight"][key] for key in ("stream", "buffers")}
            load_state(self.lower, state["flight"]["weights"])

    def _stream(self) -> BatchStream:
        generator = self.generator("batches")
        return BatchStream(self.shard, cfg=self.cfg, place=self.place, generator=generator)

    def _forward(self) -> Smashed:
        # What the pass changes, batch norm's statistics and the place in the stream, as it is before.
        buffers = {n: b.clone() for n, b in self.lower.named_buffers() if b.is_floating_point()}
        self.before = {"stream": self.stream.state_dict(), "buffers": buffers}
        batch = self._draw()
        with self.place.meter.step(self.lower, batch.inputs, kind="forward"):
            self.pending = self._activations(batch)
        return Smashed(values=self.pending.detach(), targets=batch.targets, last=self.stream.done)

    def _backward(self, down: Gradients) -> None:
        if self.pending is None:
            assert self.before is not None, "gradients follow activations"
            self.stream.load_state_dict(self.before["stream"])
            self.pending = self._activations(self._draw())
        gradients = laid_out(down.values, self.place)
        with self.place.meter.step(self.lower, gradients, kind="backward"):
            self.pending.backward(gradients)
        take_step(self.optimizer, self.cfg, round=self.round)
        self.before = self.pending = None

    def _draw(self) -> Batch:
        # Dropout draws the same numbers when the pass is computed again.
        purpose = f"forward/{self.stream.drawn}"
        seed_torch(derive(self.place.seed, round=self.round, client=self.client_id, purpose=purpose))
        return self.stream.draw()

    def _activations(self, batch: Batch) -> Tensor:
        with self.place.fabric.autocast():
            activations: Tensor = self.lower(batch.inputs)
        return activations.float()


class SplitLearning(Method[SplitClient, SplitLearningConfig]):
    """Activations up, gradients down, batch by batch."""

    Config = SplitLearningConfig
    Client = SplitClient
    kinds = ("classification",)

    def __init__(self, cfg: SplitLearningConfig, place: Workplace) -> None:
        super().__init__(cfg, place)
        cfg.check()
        require(
            cfg.mode in ("sequential", "parallel"),
            f"method.mode must be sequential or parallel, got {cfg.mode!r}",
        )
        with torch.device("meta"):
            cut_network(place.task, cfg.cut)

    def models(self) -> Mapping[str, Callable[[], L.LightningModule]]:
        task, cut = self.place.task, self.cfg.cut
        return {
            LOWER: lambda: cut_network(task, cut)[0],
            "upper": lambda: cut_network(task, cut)[1],
            FULL: lambda: build_module(task),
        }

    def exchanges(self, num_examples: int) -> Sequence[Exchange]:
        with torch.device("meta"):
            lower, _ = cut_network(self.place.task, self.cfg.cut)
            weights = Weights(params=state_of(lower))
            sizes = batch_sizes(num_examples, cfg=self.cfg)
            at_cut = {n: lower(torch.empty(n, *self.place.task.input_shape)) for n in set(sizes)}
            labels = {n: torch.empty(n, dtype=torch.int64) for n in at_cut}
        up = {n: Smashed(values=values, targets=labels[n], last=False) for n, values in at_cut.items()}
        down = {n: Gradients(values=values) for n, values in at_cut.items()}
        steps = Counter(pairwise(sizes))
        return [
            Exchange(SplitClient.begin, LOWER, down=weights, up=up[sizes[0]]),
            *(Exchange(SplitClient.step, LOWER, down[a], up[b], times=n) for (a, b), n in steps.items()),
            Exchange(SplitClient.finish, LOWER, down=down[sizes[-1]], up=weights),
        ]

    def start(self) -> None:
        self.module = self.place.initial(lambda: build_module(self.place.task))
        # Both share their layers with the whole network, which evaluation and checkpoints read.
        self.lower, self.upper = cut_module(self.module, self.cfg.cut, task=self.place.task)
        self.optimizer = make_optimizer(self.upper.parameters(), self.cfg, round=0)

    def round(self, cohort: Cohort[SplitClient]) -> Metrics:
        self.upper.train()
        play = self._in_turn if self.cfg.mode == "sequential" else self._together
        losses = play(cohort)
        return {"train/loss": float(torch.stack(losses).mean())} if losses else {}

    def _in_turn(self, cohort: Cohort[SplitClient]) -> list[Tensor]:
        """Every client takes the lower layers from the one before it."""
        losses = []
        for client in cohort.clients:
            batch = cohort.call(SplitClient.begin, {client: self._lower_weights()})
            while client in batch:
                loss, gradients = self._learn(batch, round=cohort.plan.round)
                losses.append(loss)
                if batch[client].last:
                    for final in cohort.call(SplitClient.finish, gradients).values():
                        load_state(self.lower, final.params)
                    break
                batch = cohort.call(SplitClient.step, gradients)
        return losses

    def _together(self, cohort: Cohort[SplitClient]) -> list[Tensor]:
        """One step on everyone's batch after the other; those with fewer batches wait for the rest."""
        start, losses = self._lower_weights(), []
        total = WeightSum.like(start.params, max_examples=cohort.num_examples)
        waiting: dict[ClientId, Gradients] = {}
        batch = cohort.broadcast(SplitClient.begin, start)
        while batch:
            loss, gradients = self._learn(batch, round=cohort.plan.round)
            losses.append(loss)
            waiting |= {client: gradients[client] for client, part in batch.items() if part.last}
            more = {client: gradients[client] for client, part in batch.items() if not part.last}
            batch = cohort.call(SplitClient.step, more)
        for client, final in cohort.call(SplitClient.finish, waiting).items():
            if not total.add(final):
                warnings.warn(
                    f"client {client}: lower layers out of range, left out of the mean", stacklevel=2
                )
        if total.num_examples:
            load_state(self.lower, total.mean())
        return losses

    def _lower_weights(self) -> Weights:
        return Weights(params=snapshot(self.lower), submodel=LOWER)

    def _learn(
        self, batch: Mapping[ClientId, Smashed], *, round: int
    ) -> tuple[Tensor, dict[ClientId, Gradients]]:
        """One step of the upper layers on the clients' batches joined; the loss [] and their gradients."""
        clients = sorted(batch)
        values = laid_out(torch.cat([batch[c].values for c in clients]), self.place).requires_grad_()
        targets = torch.cat([batch[c].targets for c in clients]).to(values.device)
        with self.place.meter.step(self.upper, values):
            with self.place.fabric.autocast():
                loss = self.upper.training_step((values, targets), 0)
            loss.backward()
        take_step(self.optimizer, self.cfg, round=round)
        assert values.grad is not None
        parts = values.grad.split([len(batch[c].targets) for c in clients])
        own = [Gradients(values=part * (len(targets) / len(part))) for part in parts]
        return loss.detach(), dict(zip(clients, own, strict=True))

    def evaluate(self, cohort: Cohort[SplitClient]) -> Metrics:
        return evaluate_splits(self.module, place=self.place)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": snapshot(self.module), "optimizer": optimizer_state(self.optimizer)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_state(self.module, state["weights"])
        load_optimizer(self.optimizer, state["optimizer"])
