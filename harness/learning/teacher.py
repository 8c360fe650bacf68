"""The server's side of knowledge transfer: one network trained on many clients' features.

He, Annavaram, Avestimehr, "Group knowledge transfer", NeurIPS 2020, Algorithm 1, ServerTrain.

Shape letters: N examples, B batch, C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.learning.models import make_optimizer
from harness.learning.scratch import scratch
from harness.learning.seeding import torch_generator
from harness.learning.training import laid_out
from harness.learning.transfer import DTYPES, Networks, TransferConfig
from harness.learning.workplace import Workplace
from harness.types import ClientId


@dataclass(frozen=True, slots=True)
class Received:
    """One client's knowledge at the server; its features lie in the teacher's room."""

    client: ClientId
    rows: slice
    """Of the room."""
    logits: Tensor | None
    """[N, C] of the client's own classifier."""
    labels: Tensor
    """[N] int64."""
    ids: Tensor
    """[N] int64, sample ids."""


class Teacher:
    """ServerTrain of Algorithm 1: the server's network, its optimizer, and room for features."""

    def __init__(self, cfg: TransferConfig, place: Workplace, networks: Networks) -> None:
        self.cfg = cfg
        self.place = place
        self.shape = networks.feature_shape
        self.module = place.initial(networks.server, purpose="server")
        self.optimizer = make_optimizer(self.module.parameters(), cfg, round=0)
        self.features = torch.empty(0)
        self.received: list[Received] = []
        self.heard: dict[ClientId, int] = {}
        """How often each client was trained on."""

    def reserve(self, num_examples: int) -> None:
        """Room for so many features [N, ...], kept from round to round; forgets what was received."""
        self.received = []
        if len(self.features) < num_examples:
            self.features = torch.empty(0)  # before the larger one, never both
            self.features = scratch(
                (num_examples, *self.shape),
                DTYPES[self.cfg.feature_dtype],
                budget_bytes=self.cfg.memory_budget_mb * 1e6,
                what="features at the server (method.memory_budget_mb)",
            )

    def take(
        self, client: ClientId, *, features: Tensor, logits: Tensor | None, labels: Tensor, ids: Tensor
    ) -> None:
        """Keep what a client sent."""
        start = self.received[-1].rows.stop if self.received else 0
        rows = slice(start, start + len(ids))
        self.features[rows] = features
        self.received.append(Received(client, rows, logits, labels, ids))

    def train(self, *, factor: float) -> tuple[dict[ClientId, tuple[Tensor, Tensor]], float]:
        """E_s epochs over all that was received, the learning rate times `factor`.

        Returns, for each client, soft labels [N, C] and sample ids [N]; and the last epoch's mean loss.
        """
        model, steps = self.place.fabric.setup(self.module, self.optimizer)
        model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.cfg.lr * factor
        z_s = torch.empty(self.received[-1].rows.stop, self.place.task.num_classes)
        for epoch in range(self.cfg.server_epochs):
            losses: list[Tensor] = []
            for rows, batch in self.batches(epoch):
                with self.place.meter.step(self.module, batch[0]):
                    with self.place.fabric.autocast():
                        logits = model(batch[0])
                        loss = self.module.loss(logits, batch)
                    self.place.fabric.backward(loss)
                steps.step()
                steps.zero_grad()
                losses.append(loss.detach())
                if epoch + 1 == self.cfg.server_epochs:
                    z_s[rows] = logits.detach().float().cpu()
        if self.cfg.recompute_logits:
            self.recompute(z_s)
        for one in self.received:
            self.heard[one.client] = self.heard.get(one.client, 0) + 1
        replies = {one.client: (z_s[one.rows], one.ids) for one in self.received}
        return replies, float(torch.stack(losses).mean())

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor, Tensor | None]]]:
        """Rows, and (features, labels, Z_c) on the device, shuffled over all or within each client."""
        mixed = self.cfg.shuffle_clients
        for group in [self.received] if mixed else [[one] for one in self.received]:
            labels = torch.cat([one.labels for one in group])
            z_c = [one.logits for one in group if one.logits is not None]
            teacher = torch.cat(z_c) if z_c else None
            # By the first client's own count: without a barrier, the rounds say nothing of its turn.
            turn, first = self.heard.get(group[0].client, 0), group[0].client
            draw = torch_generator(self.place.seed, round=turn, client=first, purpose=f"server/{epoch}")
            order = torch.randperm(len(labels), generator=draw)
            for picked in order.split(self.cfg.batch_size or len(order)):
                rows = picked + group[0].rows.start
                features = laid_out(self.features[rows].float(), self.place)
                soft = teacher[picked].to(features.device) if teacher is not None else None
                yield rows, (features, labels[picked].to(features.device), soft)

    @torch.no_grad()
    def recompute(self, z_s: Tensor) -> None:
        """Z_s by the network as the last epoch left it."""
        self.module.eval()
        for rows in torch.arange(len(z_s)).split(self.cfg.batch_size or len(z_s)):
            features = laid_out(self.features[rows].float(), self.place)
            with self.place.meter.step(self.module, features, kind="forward"), self.place.fabric.autocast():
                z_s[rows] = self.module(features).float().cpu()
