"""Accuracy and loss by hand, over everything."""

import math

import lightning as L
import numpy as np
import pytest
import torch
from dense_nets import Pixels
from local_run import Points, make_place, points, whole
from torch import Tensor, nn

from harness.config import TaskConfig
from harness.data.task import Splits, Task
from harness.data.tasks import load_task
from harness.learning.evaluation import evaluate, evaluate_splits, usual_batch
from lightning_modules.classifier import Classifier

# The networks' logits are the inputs: classes 0, 1, 1 are predicted, 0, 1, 0 are right.
EXAMPLES = points([[2, 0], [0, 1], [0, 3]], [0, 1, 0])
LOSS = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1)) + math.log(1 + math.exp(3))) / 3


def test_accuracy_and_loss_by_hand() -> None:
    found = evaluate(Classifier(nn.Identity()), whole(Points(), EXAMPLES), place=make_place())
    assert found["accuracy"] == pytest.approx(2 / 3, rel=1e-6)
    assert found["loss"] == pytest.approx(LOSS, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_every_example_counts_once_whatever_the_batch(batch_size: int) -> None:
    place, shard = make_place(), whole(Points(), EXAMPLES)
    found = evaluate(Classifier(nn.Identity()), shard, place=place, batch_size=batch_size)
    assert found == pytest.approx({"accuracy": 2 / 3, "loss": LOSS}, rel=1e-6)


def test_flops_are_metered_forward_alone() -> None:
    place = make_place()
    evaluate(Classifier(nn.Linear(2, 2)), whole(Points(), EXAMPLES), place=place, batch_size=2)
    assert place.meter.take() == 2 * 3 * 2 * 2


class Moody(L.LightningModule):
    """Right in eval mode, wrong in training mode; needs no gradients."""

    def forward(self, inputs: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return -inputs if self.training else inputs


def test_the_network_is_put_into_eval_mode() -> None:
    module = Moody()
    assert module.training
    found = evaluate(module, whole(Points(), EXAMPLES), place=make_place())
    assert found["accuracy"] == pytest.approx(2 / 3, rel=1e-6)


def test_splits_val_and_test_are_told_apart() -> None:
    right, wrong = points([[2, 0]], [0]), points([[2, 0]], [1])
    place = make_place(splits=Splits(train=EXAMPLES, val=right, test=wrong))
    found = evaluate_splits(Classifier(nn.Identity()), place=place)
    assert (found["val/accuracy"], found["eval/accuracy"]) == (1.0, 0.0)
    assert set(found) == {"val/accuracy", "val/loss", "eval/accuracy", "eval/loss"}


def test_a_network_that_broke_down_is_reported_as_such() -> None:
    broken = points([[math.nan, 0]], [0])
    assert math.isnan(
        evaluate(Classifier(nn.Identity()), whole(Points(), broken), place=make_place())["loss"]
    )


# --- beyond class labels


def shapes(name: str) -> tuple[Task, Splits]:
    options = {"num_train": 40, "num_test": 10, "image_size": 16}
    task = load_task(TaskConfig(name=f"shapes_{name}", options=options))
    return task, task.load()


class Clairvoyant(L.LightningModule):
    """Knows the split's targets by heart, and gives them away in order."""

    def __init__(self, targets: Tensor) -> None:
        super().__init__()
        self.targets = targets
        self.seen = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen += len(inputs)
        return self.targets[self.seen - len(inputs) : self.seen]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        assert torch.equal(outputs, targets)
        return torch.tensor(float(len(targets)))

    def decode(self, outputs: Tensor) -> Tensor:
        if outputs.dtype == torch.int64:
            return outputs
        classes, centre, size = outputs.split([1, 2, 2], dim=2)
        return torch.cat([classes, (classes >= 0).float(), centre - size / 2, centre + size / 2], dim=2)


@pytest.mark.parametrize("name", ["detection", "segmentation"])
def test_the_truth_is_perfect_whatever_the_task(name: str) -> None:
    task, splits = shapes(name)
    module = Clairvoyant(task.to_targets(splits.test.targets))
    place = make_place(task=task, splits=splits)
    found = evaluate(module, place.split("test"), place=place, batch_size=4)
    names = {"detection": ["map50"], "segmentation": ["miou", "pixel_accuracy"]}[name]
    assert {key: found[key] for key in names} == dict.fromkeys(names, pytest.approx(1.0))
    # Means over batches of 4, 4 and 2, weighted by their examples: (16 + 16 + 4) / 10.
    assert found["loss"] == pytest.approx(3.6)


def test_pictures_are_kept_of_the_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    task, splits = shapes("segmentation")
    place = make_place(task=task, splits=splits)
    module = Pixels(input_shape=task.input_shape, num_classes=task.num_classes)
    evaluate_splits(module, place=place)
    flops = place.meter.take()
    assert place.shown is not None
    np.testing.assert_array_equal(place.shown["images"], splits.test.inputs[:8])
    np.testing.assert_array_equal(place.shown["targets"], splits.test.targets[:8])
    with torch.no_grad():
        wanted = module(task.to_inputs(splits.test.inputs[:8])).argmax(dim=1)
    np.testing.assert_array_equal(place.shown["predictions"], wanted.numpy())
    # Looking at them costs nothing: 3 x 3 x 3 x 4 multiply-adds at 256 pixels of 4 val and 10 test images.
    assert flops == 2 * 108 * 256 * 14


def test_large_pictures_are_evaluated_few_at_a_time() -> None:
    sizes = {16: 250, 64: 85, 416: 2, 1024: 1}
    tasks = {size: load_task(TaskConfig(name="shapes_detection", image_size=size)) for size in sizes}
    assert {size: usual_batch(task) for size, task in tasks.items()} == sizes
    assert usual_batch(load_task(TaskConfig(name="cifar10", image_size=416))) == 250
