"""Transfer images: every source sends its images, and one network at the server trains on all of them.

The alternative `images` of Malandrino, Chiasserini (FPL), WoWMoM 2022. Each round every source sends each of
its images, one byte a pixel and channel, and the server trains `local_epochs` epochs on the pool.

Differs: a view's values are rounded to bytes on their way (blur makes fractions); labels lie at the server,
as in `fpl`. Tested on every view of each image, the mean over views.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from harness.config import require
from harness.data.partition import view_names
from harness.data.task import Examples, Shard, Task
from harness.exchange.client import Client
from harness.exchange.cohort import Cohort
from harness.exchange.payloads import Empty, Payload
from harness.learning.evaluation import evaluate
from harness.learning.models import (
    TrainingConfig,
    build_module,
    load_optimizer,
    make_optimizer,
    optimizer_state,
    set_lr,
)
from harness.learning.seeding import torch_generator
from harness.learning.sources import check_sources
from harness.learning.stopping import Patience
from harness.learning.training import train
from harness.learning.weights import load_state, snapshot
from harness.learning.workplace import Workplace
from harness.run.method import FULL, Exchange, Method, Metrics

CHUNK = 1024
"""Images that a source turns into bytes at a time."""


@dataclass(frozen=True, slots=True)
class ImagesConfig(TrainingConfig):
    """Defaults: FPL's training."""

    optimizer: str = "adam"
    lr: float = 1e-3
    batch_size: int = 64
    patience: int = 0
    """Stop after so many evaluations without a lower validation loss; 0: never."""


@dataclass(frozen=True, slots=True)
class Pictures(Payload):
    """What a source sees of all its examples."""

    values: Tensor
    """[N, H, W, C] uint8, in the order of the rows."""


class Camera(Client[ImagesConfig]):
    """Sends what it sees."""

    def send(self, down: Empty) -> Pictures:
        """Every image of the shard."""
        batches = self.shard.batches(CHUNK)
        return Pictures(values=torch.cat([to_pixels(batch.inputs, self.place.task) for batch in batches]))


def to_pixels(inputs: Tensor, task: Task) -> Tensor:
    """[B, C, H, W] as a network sees them -> [B, H, W, C] uint8 as the task stores them, rounded."""
    channels, *sides = task.input_shape
    low, high = (task.to_inputs(np.full((1, *sides, channels), value, np.uint8)) for value in (0, 255))
    pixels = ((inputs - low) / (high - low) * 255).round().clamp(0, 255)
    return pixels.to(torch.uint8).permute(0, 2, 3, 1)


class Images(Method[Camera, ImagesConfig]):
    """One network, everyone's images."""

    Config = ImagesConfig
    Client = Camera
    kinds = ("classification",)

    def __init__(self, cfg: ImagesConfig, place: Workplace) -> None:
        super().__init__(cfg, place)
        cfg.check()
        check_sources(place.partition, method=cfg.name)
        require(
            len(place.task.input_shape) == 3,
            f"task.name={place.task.cfg.name}: method images needs images, got {place.task.input_shape}",
        )
        self.patience = Patience(cfg.patience)

    def models(self) -> Mapping[str, Callable[[], L.LightningModule]]:
        return {FULL: lambda: build_module(self.place.task)}

    def exchanges(self, num_examples: int) -> Sequence[Exchange]:
        channels, *sides = self.place.task.input_shape
        pixels = torch.empty(num_examples, *sides, channels, dtype=torch.uint8, device="meta")
        return [Exchange(Camera.send, FULL, down=Empty(), up=Pictures(values=pixels))]

    def start(self) -> None:
        self.module = self.place.initial(lambda: build_module(self.place.task))
        self.optimizer = make_optimizer(self.module.parameters(), self.cfg, round=0)

    @property
    def done(self) -> bool:
        return self.patience.over

    def round(self, cohort: Cohort[Camera]) -> Metrics:
        sent = cohort.broadcast(Camera.send, Empty())
        if not sent:
            return {}
        set_lr(self.optimizer, self.cfg, round=cohort.plan.round)
        trained = train(
            self.module,
            self._pool([sent[source].values for source in sorted(sent)]),
            cfg=self.cfg,
            optimizer=self.optimizer,
            place=self.place,
            generator=torch_generator(self.place.seed, round=cohort.plan.round, client=0, purpose="batches"),
        )
        return {"train/loss": trained.loss}

    def _pool(self, images: Sequence[Tensor]) -> Shard:
        """All that arrived, with the labels that the server holds."""
        targets = np.tile(self.place.split("train").examples.targets, len(images))
        examples = Examples(torch.cat(list(images)).numpy(), targets)
        return Shard(self.place.task, examples, np.arange(len(targets)))

    def evaluate(self, cohort: Cohort[Camera]) -> Metrics:
        views = view_names(self.place.partition)
        found: dict[str, float] = {}
        for word, split in (("val", self.place.split("val")), ("eval", self.place.split("test"))):
            scores = [evaluate(self.module, replace(split, view=view), place=self.place) for view in views]
            found |= {f"{word}/{name}": sum(s[name] for s in scores) / len(scores) for name in scores[0]}
        self.patience.see(found["val/loss"])
        return found

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": snapshot(self.module),
            "optimizer": optimizer_state(self.optimizer),
            "patience": self.patience.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_state(self.module, state["weights"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.patience.load_state_dict(state["patience"])
