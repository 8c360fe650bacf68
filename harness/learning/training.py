"""The one local loop: Lightning Fabric over a LightningModule."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
) -> Trained:
    """Train `module` in place on `shard`. `after_backward` may change the gradients before each step."""
    model, steps = place.fabric.setup(module, optimizer)
    model.train()
    losses: list[Tensor] = []
    for index, batch in enumerate(training_batches(shard, cfg=cfg, place=place, generator=generator)):
        with place.meter.step(module, batch.inputs):
            # Fabric applies its precision to forward alone; the step calls the network directly.
            with place.fabric.autocast():
                loss = model.training_step(batch, index)
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
    size = cfg.batch_size or len(shard)
    per_epoch = -(-len(shard) // size)
    left = cfg.local_steps or cfg.local_epochs * per_epoch
    while left > 0:
        order = torch.randperm(len(shard), generator=generator).numpy()
        for start in range(0, min(left, per_epoch) * size, size):
            batch = shard.take(order[start : start + size])
            inputs = shard.task.augment(batch.inputs, generator)
            yield to_device(batch._replace(inputs=inputs), place)
        left -= per_epoch


def to_device(batch: Batch, place: Workplace) -> Batch:
    """The batch on the process's device, images in its memory layout."""
    device = place.fabric.device
    inputs = batch.inputs.to(device)
    if inputs.dim() == 4:
        inputs = inputs.contiguous(memory_format=place.memory_format)
    return Batch(inputs, batch.targets.to(device), batch.ids)
