"""The one local loop: Lightning Fabric over a LightningModule."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from harness.data.task import Batch, Shard
from harness.learning.models import TrainingConfig
from harness.learning.workplace import Workplace


@dataclass(frozen=True, slots=True)
class Trained:
    """What local training reports beside the changed weights."""

    loss: float
    """Mean training loss over the steps taken."""
    num_steps: int


def train(
    module: L.LightningModule,
    shard: Shard,
    *,
    cfg: TrainingConfig,
    optimizer: torch.optim.Optimizer,
    place: Workplace,
    generator: torch.Generator,
    after_backward: Callable[[], None] | None = None,
    prepare: Callable[[Batch], Sequence[Tensor | None]] | None = None,
) -> Trained:
    """Train `module` in place on `shard`.

    `after_backward` may change the gradients before each step; `prepare` makes of a batch what the module's
    training_step takes, where that is more than the batch.
    """
    model, steps = place.fabric.setup(module, optimizer)
    model.train()
    losses: list[Tensor] = []
    for index, batch in enumerate(training_batches(shard, cfg=cfg, place=place, generator=generator)):
        with place.meter.step(module, batch.inputs):
            # Fabric applies its precision to forward alone; the step calls the network directly.
            with place.fabric.autocast():
                loss = model.training_step(batch if prepare is None else prepare(batch), index)
            place.fabric.backward(loss)
        if after_backward is not None:
            after_backward()
        steps.step()
        steps.zero_grad()
        losses.append(loss.detach())
    return Trained(loss=float(torch.stack(losses).mean()), num_steps=len(losses))


def training_batches(
    shard: Shard, *, cfg: TrainingConfig, place: Workplace, generator: torch.Generator
) -> Iterator[Batch]:
    """Shuffled, augmented batches on the device: local_epochs of them, or exactly local_steps."""
    stream = BatchStream(shard, cfg=cfg, place=place, generator=generator)
    while not stream.done:
        yield stream.draw()


def batch_sizes(num_examples: int, *, cfg: TrainingConfig) -> list[int]:
    """Examples in each batch that `training_batches` draws in one call from a shard of so many."""
    size = cfg.batch_size or num_examples
    epoch = [min(size, num_examples - start) for start in range(0, num_examples, size)]
    return [epoch[step % len(epoch)] for step in range(cfg.local_steps or cfg.local_epochs * len(epoch))]


class BatchStream:
    """`training_batches` one at a time, to be put down between two of them and taken up elsewhere."""

    def __init__(
        self, shard: Shard, *, cfg: TrainingConfig, place: Workplace, generator: torch.Generator
    ) -> None:
        self.shard = shard
        self.place = place
        self.generator = generator
        self.size = cfg.batch_size or len(shard)
        self.per_epoch = -(-len(shard) // self.size)
        self.num_batches = cfg.local_steps or cfg.local_epochs * self.per_epoch
        self.drawn = 0
        self.order = torch.empty(0, dtype=torch.int64)

    @property
    def done(self) -> bool:
        """Nothing is left to draw."""
        return self.drawn >= self.num_batches

    def draw(self) -> Batch:
        """The next batch."""
        index = self.drawn % self.per_epoch
        if index == 0:
            self.order = torch.randperm(len(self.shard), generator=self.generator)
        positions = self.order[index * self.size : (index + 1) * self.size]
        self.drawn += 1
        batch = self.shard.take(positions.numpy())
        return to_device(self.shard.task.augmented(batch, self.generator), self.place)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands: what the next batch depends on."""
        return {"drawn": self.drawn, "order": self.order, "random": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where `state_dict` was taken."""
        self.drawn, self.order = state["drawn"], state["order"]
        self.generator.set_state(state["random"])


def to_device(batch: Batch, place: Workplace) -> Batch:
    """The batch on the process's device, images in its memory layout."""
    inputs = laid_out(batch.inputs, place)
    return Batch(inputs, batch.targets.to(place.fabric.device), batch.ids)


def laid_out(values: Tensor, place: Workplace) -> Tensor:
    """Inputs, activations or gradients on the process's device; [B, C, H, W] in its memory layout."""
    values = values.to(place.fabric.device)
    return values.contiguous(memory_format=place.memory_format) if values.dim() == 4 else values
