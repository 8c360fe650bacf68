"""Accuracy and loss of a network on a split: all of it, no augmentation, nothing dropped."""

import lightning as L
import torch
from torch.nn import functional as F

from harness.data.task import Shard
from harness.learning.training import to_device
from harness.learning.workplace import Workplace


@torch.no_grad()
def evaluate(
    module: L.LightningModule, shard: Shard, *, place: Workplace, batch_size: int = 250
) -> dict[str, float]:
    """`{"accuracy", "loss"}` of a classifier over every example of `shard`."""
    module.eval()
    correct, loss = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.float64)
    with place.fabric.autocast():
        for batch in shard.batches(batch_size):
            batch = to_device(batch, place)
            with place.meter.step(module, batch.inputs, kind="forward"):
                logits = module(batch.inputs).float()
            correct += (logits.argmax(dim=1) == batch.targets).sum().cpu()
            loss += F.cross_entropy(logits, batch.targets, reduction="sum").double().cpu()
    # Of exact counts: a float32 ratio could miss a target of 0.97 by its last bit.
    return {"accuracy": int(correct) / len(shard), "loss": float(loss) / len(shard)}


def evaluate_splits(module: L.LightningModule, *, place: Workplace) -> dict[str, float]:
    """`val/...` and `eval/...` (the test split) of one network on the whole of both splits."""
    found = {"val": evaluate(module, place.split("val"), place=place)}
    found["eval"] = evaluate(module, place.split("test"), place=place)
    return {f"{split}/{name}": value for split, values in found.items() for name, value in values.items()}
