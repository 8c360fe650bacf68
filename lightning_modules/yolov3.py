"""YOLOv3: Darknet-53, three heads, and the loss.

Redmon, Farhadi, "YOLOv3: an incremental improvement", arXiv 1804.02767, 2018: 75 convolutions. The paper
prints no table of the heads; their layers are those of the authors' yolov3.cfg. With 80 classes 61,949,149
parameters, 61,895,776 of them convolution weights; with 20 classes 61,626,049 and 61,573,216.

Shape letters: B batch, C classes, M objects, K boxes, H and W pixels.
"""

import math
from collections.abc import Sequence
from typing import Final

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.classifier import OptimizerFactory
from lightning_modules.darknet import STRIDE, ConvNorm, Darknet53, scaled
from lightning_modules.yolo_decode import BOX, detections, flatten, places_of
from lightning_modules.yolo_loss import yolo_loss

Anchor = tuple[float, float]
"""Width and height, as parts of the image's."""

COCO_SIDE: Final = 416
"""Pixels of the square images that the paper's anchors belong to."""
COCO_ANCHORS: Final = (
    *((10, 13), (16, 30), (33, 23)),
    *((30, 61), (62, 45), (59, 119)),
    *((116, 90), (156, 198), (373, 326)),
)
"""Pixels, section 2.3, small to large."""
ANCHORS_PER_HEAD: Final = 3
RARE: Final = 0.01
"""Objectness that heads start from, nearly all places being empty (Lin et al., "Focal loss", 2017, 4.1)."""


class Branch(nn.Module):
    """One scale: five convolutions to features that the next finer scale takes up, two more to the output."""

    def __init__(self, inputs: int, planes: int, outputs: int, *, wide: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvNorm(inputs, planes, 1),
            ConvNorm(planes, wide, 3),
            ConvNorm(wide, planes, 1),
            ConvNorm(planes, wide, 3),
            ConvNorm(wide, planes, 1),
        )
        self.expand = ConvNorm(planes, wide, 3)
        self.head = nn.Conv2d(wide, outputs, 1)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """[B, inputs, h, w] to features [B, planes, h, w] and raw output [B, outputs, h, w]."""
        features: Tensor = self.features(inputs)
        return features, self.head(self.expand(features))


class Yolov3(L.LightningModule):
    """Detection by YOLOv3. Logs nothing: whoever runs the loop records."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: float = 1.0,
        anchors: Sequence[Anchor] | None = None,
        ignore: float = 0.5,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        """`width` scales all channels but the outputs'; nine `anchors`, small to large, replace COCO's.

        `ignore` is the overlap above which an empty place is not told so; `optimizer` is the paper's SGD by
        default. Raises ValueError for an `input_shape` that is no (channels, H, W) of multiples of 32
        from 64 on, for other than nine anchors, and for a width that is not positive.
        """
        super().__init__()
        _check_shape(input_shape)
        self.num_classes = num_classes
        self.ignore = ignore
        self._optimizer = optimizer
        # No buffer: those travel between clients.
        self.anchors = _by_head(anchors)
        self.backbone = Darknet53(channels=input_shape[0], width=width)
        outputs = ANCHORS_PER_HEAD * (BOX + num_classes)
        c128, c256, c512, c1024 = (scaled(channels, width) for channels in (128, 256, 512, 1024))
        self.coarse = Branch(c1024, c512, outputs, wide=c1024)
        self.to_middle = ConvNorm(c512, c256, 1)
        self.middle = Branch(c512 + c256, c256, outputs, wide=c512)
        self.to_fine = ConvNorm(c256, c128, 1)
        self.fine = Branch(c256 + c128, c128, outputs, wide=c256)
        for branch in (self.coarse, self.middle, self.fine):
            _expect_little(branch.head)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw outputs [B, 3 (5 + C), H/s, W/s] of strides s = 32, 16 and 8, of images [B, channels, H, W]."""
        fine, middle, coarse = self.backbone(inputs)
        features, at_32 = self.coarse(coarse)
        features, at_16 = self.middle(torch.cat([_doubled(self.to_middle(features)), middle], dim=1))
        _, at_8 = self.fine(torch.cat([_doubled(self.to_fine(features)), fine], dim=1))
        return at_32, at_16, at_8

    def loss(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean per image, a scalar, of raw outputs against objects [B, M, 5] (class or -1, cx, cy, w, h).

        Raises ValueError for targets of another shape.
        """
        if targets.dim() != 3 or targets.shape[2] != 5:
            raise ValueError(
                f"yolov3 needs targets [B, M, 5] (class, cx, cy, w, h), got {list(targets.shape)}; "
                "use it on a detection task"
            )
        raw = flatten(outputs, self.num_classes)
        return yolo_loss(raw, places_of(outputs, self.anchors), targets, ignore=self.ignore)

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """Rows (class, score, x1, y1, x2, y2) [B, 100, 6] float32 in 0..1, best first; score 0 is padding."""
        return self.decode(self(inputs))

    @torch.no_grad()
    def decode(self, outputs: Sequence[Tensor]) -> Tensor:
        """What `predict` makes of the raw outputs."""
        return detections(flatten(outputs, self.num_classes), places_of(outputs, self.anchors))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Mean loss, a scalar, of a batch (inputs [B, 3, H, W], targets [B, M, 5], anything further)."""
        return self.loss(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """A new optimizer over all parameters."""
        if self._optimizer is not None:
            return self._optimizer(self.parameters())
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)


def _doubled(features: Tensor) -> Tensor:
    """Each pixel four times: nearest neighbours, whose backward pass is deterministic on CUDA too."""
    return F.interpolate(features, scale_factor=2.0, mode="nearest")


def _by_head(anchors: Sequence[Anchor] | None) -> list[Sequence[Anchor]]:
    """Three of three: the largest first, as the heads are."""
    if anchors is None:
        anchors = [(width / COCO_SIDE, height / COCO_SIDE) for width, height in COCO_ANCHORS]
    if len(anchors) != len(COCO_ANCHORS):
        raise ValueError(f"yolov3 needs {len(COCO_ANCHORS)} anchors, small to large, got {len(anchors)}")
    return [anchors[6:9], anchors[3:6], anchors[0:3]]


def _expect_little(head: nn.Conv2d) -> None:
    """Start from a small objectness everywhere."""
    assert head.bias is not None
    with torch.no_grad():
        head.bias.view(ANCHORS_PER_HEAD, -1)[:, BOX - 1] = math.log(RARE / (1 - RARE))


def _check_shape(input_shape: tuple[int, ...]) -> None:
    if len(input_shape) != 3:
        raise ValueError(f"yolov3 needs images (C, H, W), got input shape {input_shape}")
    if any(side % STRIDE or side < 2 * STRIDE for side in input_shape[1:]):
        # At 32 pixels the last stage has one, and batch norm cannot train on a batch of one.
        height, width = input_shape[1:]
        raise ValueError(
            f"yolov3 needs images whose sides are multiples of {STRIDE} from {2 * STRIDE} on, "
            f"got {height}x{width}; resize them"
        )
