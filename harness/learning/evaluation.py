"""How good a network is on a split: all of it, no augmentation, nothing dropped.

Shape letters: B batch, C classes.
"""

import math
from collections.abc import Mapping
from typing import Any, Protocol, cast

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from harness.data.task import Batch, Kind, Shard, Task
from harness.learning.training import to_device
from harness.learning.workplace import Workplace

SHOWN = 8
"""Test pictures that are kept with their predictions, for the report."""
PIXELS = 1 << 20
"""Values of all inputs evaluated at a time, where an input is a picture to be read pixel by pixel."""


class Predictor(Protocol):
    """A network whose outputs are no logits [B, C]: it knows its loss, and how to read its outputs."""

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """The mean over the batch: a scalar."""

    def decode(self, outputs: Any) -> Tensor:
        """Predictions, as the task's scorer takes them (harness/data/scores.py)."""


@torch.no_grad()
def evaluate(
    module: L.LightningModule, shard: Shard, *, place: Workplace, batch_size: int | None = None
) -> dict[str, float]:
    """The metrics of the shard's task and `loss`, over every example of `shard`."""
    module.eval()
    batch_size = batch_size or usual_batch(shard.task)
    scorer, loss = shard.task.scorer(), torch.zeros((), dtype=torch.float64)
    with place.fabric.autocast():
        for batch in shard.batches(batch_size):
            batch = to_device(batch, place)
            with place.meter.step(module, batch.inputs, kind="forward"):
                outputs = module(batch.inputs)
            summed, predictions = judge(module, outputs, batch, kind=shard.task.kind)
            scorer.update(predictions, batch.targets)
            loss += summed.double().cpu()
    return {**scorer.compute(), "loss": float(loss) / len(shard)}


def usual_batch(task: Task) -> int:
    """Examples to evaluate at a time; fewer of large pictures, whose features would fill the memory."""
    return 250 if task.kind == "classification" else max(1, min(250, PIXELS // math.prod(task.input_shape)))


def judge(module: L.LightningModule, outputs: Any, batch: Batch, *, kind: Kind) -> tuple[Tensor, Tensor]:
    """The loss, summed over the batch, and the predictions."""
    if kind == "classification":
        logits = outputs.float()
        return F.cross_entropy(logits, batch.targets, reduction="sum"), logits.argmax(dim=1)
    reader = cast(Predictor, module)
    return reader.loss(outputs, batch.targets) * len(batch.targets), reader.decode(outputs)


def evaluate_splits(module: L.LightningModule, *, place: Workplace) -> dict[str, float]:
    """`val/...` and `eval/...` (the test split) of one network on the whole of both splits."""
    found = {"val": evaluate(module, place.split("val"), place=place)}
    found["eval"] = evaluate(module, place.split("test"), place=place)
    if place.task.kind != "classification":
        place.shown = show(module, place.split("test"), place=place)
    return {f"{split}/{name}": value for split, values in found.items() for name, value in values.items()}


@torch.no_grad()
def show(module: L.LightningModule, shard: Shard, *, place: Workplace) -> Mapping[str, NDArray[Any]]:
    """The first pictures of a split as they are stored, with targets and predictions. Not metered."""
    module.eval()
    rows = shard.indices[:SHOWN]
    batch = to_device(shard.take(np.arange(len(rows))), place)
    with place.fabric.autocast():
        predictions = cast(Predictor, module).decode(module(batch.inputs))
    return {
        "kind": np.array(shard.task.kind),
        "class_names": np.array(shard.task.class_names, dtype=np.str_),
        "images": shard.examples.inputs[rows],
        "targets": shard.examples.targets[rows],
        "predictions": predictions.cpu().numpy(),
    }
