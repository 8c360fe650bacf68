"""What detection and segmentation add to an image task: targets that lie in the picture, and their scores.

Letters: N examples, B batch, M boxes at most, H and W pixels, C classes.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.config import TaskConfig, require
from harness.data.scores import VOID, Overlap, Precision, Scorer
from harness.data.task import Batch, Kind
from harness.data.tasks.images import ImageTask


class DenseTask(ImageTask):
    """Images with targets [N, ...] of which `labels` picks the class that an example has most of."""

    def __init__(self, cfg: TaskConfig) -> None:
        """Raises ConfigError for an unknown option, and for augmentations that targets cannot follow."""
        super().__init__(cfg)
        odd = [name for name in cfg.augment if name != "hflip"]
        require(
            not odd,
            f"task.augment: {', '.join(odd)} moves or hides what task {cfg.name} is to find; it takes hflip",
        )

    @abstractmethod
    def mirrored(self, targets: Tensor) -> Tensor:
        """Targets [B, ...] of the images mirrored left and right."""

    def augmented(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Mirror images and targets left and right with probability 1/2, for every `hflip` asked for."""
        inputs, targets = batch.inputs, batch.targets
        for _ in self.cfg.augment:
            flipped = torch.randint(2, (len(inputs),), generator=generator, device=generator.device).bool()
            inputs = torch.where(flipped[:, None, None, None], inputs.flip(3), inputs)
            targets = torch.where(flipped[:, None, None], self.mirrored(targets), targets)
        return batch._replace(inputs=inputs, targets=targets)

    def labels(self, targets: NDArray[Any]) -> NDArray[np.int64]:
        """[N] the class that an image has most of; of equals the first, and 0 for an image without any."""
        found: NDArray[np.int64] = self.class_counts(targets).argmax(axis=1)
        return found


class DetectionTask(DenseTask):
    """Boxes in images: targets [N, M, 5]."""

    kind: ClassVar[Kind] = "detection"
    metric: ClassVar[str] = "map50"
    target_shape: tuple[int, ...] = (8, 5)
    target_dtype: ClassVar[torch.dtype] = torch.float32
    default_model: ClassVar[str] = "yolov3_narrow"

    def mirrored(self, targets: Tensor) -> Tensor:
        is_box = (targets[..., 0] != -1)[..., None]
        sign = targets.new_tensor([1.0, -1.0, 1.0, 1.0, 1.0])
        shift = targets.new_tensor([0.0, 1.0, 0.0, 0.0, 0.0])
        return torch.where(is_box, targets * sign + shift, targets)

    def class_counts(self, targets: NDArray[Any]) -> NDArray[np.int64]:
        """[N, C] boxes, difficult ones left out."""
        classes = targets[..., 0]
        return np.stack([(classes == label).sum(axis=1) for label in range(self.num_classes)], axis=1)

    def scorer(self) -> Scorer:
        return Precision(self.num_classes)


class SegmentationTask(DenseTask):
    """A class for every pixel, 0 the background: targets [N, H, W], 255 void."""

    kind: ClassVar[Kind] = "segmentation"
    metric: ClassVar[str] = "miou"
    target_dtype: ClassVar[torch.dtype] = torch.int64
    default_model: ClassVar[str] = "fcn_narrow"

    def __init__(self, cfg: TaskConfig) -> None:
        super().__init__(cfg)
        self.target_shape = self.size

    def mirrored(self, targets: Tensor) -> Tensor:
        return targets.flip(2)

    def class_counts(self, targets: NDArray[Any]) -> NDArray[np.int64]:
        """[N, C] pixels; those of the background count 0, for it is in every image."""
        counts = np.empty((len(targets), self.num_classes), np.int64)
        for row, mask in enumerate(targets):
            counts[row] = np.bincount(mask.reshape(-1), minlength=VOID + 1)[: self.num_classes]
        counts[:, 0] = 0
        return counts

    def scorer(self) -> Scorer:
        return Overlap(self.num_classes)
