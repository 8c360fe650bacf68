"""Accuracy and loss of a network on a split: all of it, no augmentation, nothing dropped."""

import lightning as L
import torch
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from harness.data.task import Shard
from harness.learning.training import to_device
from harness.learning.workplace import Workplace


@torch.no_grad()
def evaluate(
    module: L.LightningModule, shard: Shard, *, place: Workplace, batch_size: int = 250
) -> dict[str, float]:
    """`{"accuracy", "loss"}` of a classifier over every example of `shard`."""
    module.eval()
    metric = MulticlassAccuracy(shard.task.num_classes, average="micro", validate_args=False)
    metric.to(place.fabric.device)
    loss, count = torch.zeros((), dtype=torch.float64), 0
    with place.fabric.autocast():
        for batch in shard.batches(batch_size):
            batch = to_device(batch, place)
            with place.meter.step(module, batch.inputs, kind="forward"):
                logits = module(batch.inputs).float()
            metric.update(logits, batch.targets)
            loss += F.cross_entropy(logits, batch.targets, reduction="sum").double().cpu()
            count += len(batch.targets)
    return {"accuracy": float(metric.compute()), "loss": float(loss) / count}


def evaluate_splits(module: L.LightningModule, *, place: Workplace) -> dict[str, float]:
    """`val/...` and `eval/...` (the test split) of one network on the whole of both splits."""
    found = {"val": evaluate(module, place.split("val"), place=place)}
    found["eval"] = evaluate(module, place.split("test"), place=place)
    return {f"{split}/{name}": value for split, values in found.items() for name, value in values.items()}
