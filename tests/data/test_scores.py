import pytest
import torch

from harness.data.scores import Accuracy, Overlap, Precision


def test_accuracy_is_a_ratio_of_counts() -> None:
    scorer = Accuracy()
    scorer.update(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]))
    scorer.update(torch.tensor([3]), torch.tensor([3]))
    assert scorer.compute() == {"accuracy": 0.75}


def test_precision_takes_padded_batches() -> None:
    box = [0.2, 0.2, 0.6, 0.6]
    truth = [0.4, 0.4, 0.4, 0.4]
    scorer = Precision(num_classes=2)
    scorer.update(
        torch.tensor([[[1.0, 0.8, *box], [0.0] * 6], [[0.0, 0.9, *box], [0.0] * 6]]),
        torch.tensor([[[1.0, *truth], [-1.0] * 5], [[1.0, *truth], [-1.0] * 5]]),
    )
    # Class 1: one of two found, nothing wrong. Class 0 has no box.
    assert scorer.compute() == {"map50": pytest.approx(0.5)}


def test_overlap_leaves_void_out() -> None:
    scorer = Overlap(num_classes=3)
    targets = torch.tensor([[[0, 0, 0], [1, 1, 255]]])
    predictions = torch.tensor([[[0, 0, 1], [1, 0, 2]]])
    scorer.update(predictions, targets)
    # Class 0: 2 shared of 4; class 1: 1 of 3; class 2 is neither there nor, outside the void, predicted.
    assert scorer.compute() == {
        "miou": pytest.approx((2 / 4 + 1 / 3) / 2),
        "pixel_accuracy": pytest.approx(3 / 5),
    }


def test_overlap_adds_up_over_batches() -> None:
    whole, parts = Overlap(num_classes=4), Overlap(num_classes=4)
    targets, predictions = torch.randint(4, (2, 6, 8, 8), generator=torch.Generator().manual_seed(0))
    whole.update(predictions, targets)
    for part in range(6):
        parts.update(predictions[part : part + 1], targets[part : part + 1])
    assert parts.compute() == whole.compute()
