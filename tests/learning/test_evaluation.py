"""Accuracy and loss by hand, over everything."""

import math

import lightning as L
import pytest
import torch
from local_run import Points, make_place, points, whole
from torch import Tensor, nn

from harness.data.task import Splits
from harness.learning.evaluation import evaluate, evaluate_splits
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
