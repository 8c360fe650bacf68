"""How good predictions are, batch after batch: one scorer for each kind of task.

Letters: B batch, K detections at most, M boxes at most, H and W pixels.
"""

from typing import Protocol

from torch import Tensor

from harness.data.precision import Found, mean_average_precision

VOID = 255
"""Class of pixels that count neither in training nor in a score (PASCAL VOC: borders and doubtful ones)."""


class Scorer(Protocol):
    """Takes predictions and targets in; computes every metric of its task at the end."""

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        """One batch, on any device."""

    def compute(self) -> dict[str, float]:
        """Metrics by name, the task's `metric` first."""


class Accuracy:
    """Share of right labels. Predictions and targets are [B] int64."""

    def __init__(self) -> None:
        self.right = self.total = 0

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        self.right += int((predictions == targets).sum())
        self.total += len(targets)

    def compute(self) -> dict[str, float]:
        # Of exact counts: a float32 ratio could miss a target of 0.97 by its last bit.
        return {"accuracy": self.right / self.total}


class Precision:
    """mAP at an overlap of 0.5.

    Predictions [B, K, 6], rows (class, score, x1, y1, x2, y2) filled up with score 0; targets [B, M, 5] of a
    detection task.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.images: list[Found] = []

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        for found, truths in zip(predictions.float().cpu(), targets.cpu(), strict=True):
            self.images.append(Found(found[found[:, 1] > 0].numpy(), truths[truths[:, 0] != -1].numpy()))

    def compute(self) -> dict[str, float]:
        return {"map50": mean_average_precision(self.images, num_classes=self.num_classes)}


class Overlap:
    """Mean intersection over union and pixel accuracy; void pixels are left out.

    Predictions and targets [B, H, W] int64. The mean runs over the classes that are predicted or present.
    """

    def __init__(self, num_classes: int) -> None:
        from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

        self.metrics = {
            "miou": MulticlassJaccardIndex(num_classes, ignore_index=VOID, validate_args=False),
            "pixel_accuracy": MulticlassAccuracy(
                num_classes, average="micro", ignore_index=VOID, validate_args=False
            ),
        }

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        predictions, targets = predictions.cpu(), targets.cpu()
        known = targets != VOID
        for metric in self.metrics.values():
            metric.update(predictions[known], targets[known])

    def compute(self) -> dict[str, float]:
        return {name: float(metric.compute()) for name, metric in self.metrics.items()}
