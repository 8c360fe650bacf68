"""A fully convolutional network on ResNet-50: one score layer, and its map enlarged to the image.

Long, Shelhamer, Darrell, "Fully convolutional networks for semantic segmentation", CVPR 2015 (the score layer
and the bilinear enlargement, without the skips of their 16s and 8s); He, Zhang, Ren, Sun, "Deep residual
learning for image recognition", CVPR 2016, table 1 (the trunk). Late stages dilate instead of striding, so
that the map is 1/8 of the image (Yu, Koltun, Funkhouser, "Dilated residual networks", CVPR 2017): the
same parameters.

Convolutions have biases, which batch norm makes idle; they are there because the count of the paper that
this network is for (Huang et al., "RPN", ECAI 2020) has them: 23,577,621 parameters with 21 classes =
23,454,912 kernels of the trunk + 26,560 biases + 53,120 scales and shifts + 43,029 of the score layer.

The enlargement is two matrix products with fixed weights: deterministic on CUDA, which the backward pass of
torch's bilinear interpolation is not, and counted among FLOPs.

Shape letters: B batch, C classes, H and W pixels of the image, h and w of the map.
"""

from collections.abc import Sequence
from typing import Final

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.classifier import OptimizerFactory
from lightning_modules.darknet import scaled
from lightning_modules.resnet import EXPANSION, Bottleneck, initialise

VOID: Final = 255
"""Target of a pixel that counts nowhere."""
STEM_CHANNELS: Final = 64
"""Channels of the first convolution at width 1."""
STAGES: Final = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Planes at width 1, bottlenecks and stride of each stage."""
OUTPUT_STRIDES: Final = (4, 8, 16, 32)
"""Image pixels per pixel of the map."""


class ResNet50(nn.Module):
    """The trunk: images [B, channels, H, W] to features [B, 2048 w, h, w] at width w."""

    def __init__(self, *, channels: int = 3, width: float = 1.0, output_stride: int = 8) -> None:
        """From `output_stride` on, stages dilate by what they would have strided."""
        super().__init__()
        inputs = scaled(STEM_CHANNELS, width)
        self.conv = nn.Conv2d(channels, inputs, 7, stride=2, padding=3)
        self.bn = nn.BatchNorm2d(inputs)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        stages, reached, dilation = [], 4, 1
        for full, blocks, stride in STAGES:
            planes, before = scaled(full, width), dilation
            if reached * stride > output_stride:
                stride, dilation = 1, dilation * stride
            reached *= stride
            first = Bottleneck(inputs, planes, stride=stride, dilation=before, bias=True)
            inputs = EXPANSION * planes
            rest = (Bottleneck(inputs, planes, dilation=dilation, bias=True) for _ in range(blocks - 1))
            stages.append(nn.Sequential(first, *rest))
        self.stages = nn.Sequential(*stages)
        self.num_features = inputs
        """Channels of the last stage."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Features of the last stage."""
        stem = self.pool(F.relu(self.bn(self.conv(inputs))))
        features: Tensor = self.stages(stem)
        return features


class Fcn(L.LightningModule):
    """Semantic segmentation by a fully convolutional network. Logs nothing: whoever runs the loop records."""

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: float = 1.0,
        output_stride: int = 8,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        """`width` scales all channels but the outputs'; `optimizer` is plain SGD with momentum by default.

        Raises ValueError for an `input_shape` that is no (channels, H, W), for images of fewer than two
        pixels of the map a side, for another `output_stride` than 4, 8, 16 or 32, and for a width that is
        not positive.
        """
        super().__init__()
        _check_shape(input_shape, output_stride)
        self._optimizer = optimizer
        self.backbone = ResNet50(channels=input_shape[0], width=width, output_stride=output_stride)
        self.score = nn.Conv2d(self.backbone.num_features, num_classes, 1)
        initialise(self.backbone)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B, C, H, W] of images [B, channels, H, W]."""
        return enlarged(self.score(self.backbone(inputs)), *inputs.shape[2:])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, a scalar, mean over the pixels of targets [B, H, W] int64 that are not void.

        Raises ValueError for targets of another shape.
        """
        if targets.dim() != 3 or targets.shape != (len(outputs), *outputs.shape[2:]):
            raise ValueError(
                f"fcn needs targets [B, H, W] for logits {list(outputs.shape)}, got {list(targets.shape)}; "
                "use it on a segmentation task"
            )
        # One row per pixel: the loss over maps is not deterministic on CUDA.
        rows = outputs.float().permute(0, 2, 3, 1).flatten(0, 2)
        labels = targets.flatten()
        total = F.cross_entropy(rows, labels, ignore_index=VOID, reduction="sum")
        return total / (labels != VOID).sum().clamp(min=1)

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Tensor:
        """The best class [B, H, W] int64 of each pixel."""
        return self.decode(self(inputs))

    @torch.no_grad()
    def decode(self, outputs: Tensor) -> Tensor:
        """What `predict` makes of the logits."""
        return outputs.argmax(dim=1)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Loss, a scalar, of a batch (inputs [B, 3, H, W], targets [B, H, W] int64, anything further)."""
        return self.loss(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """A new optimizer over all parameters."""
        if self._optimizer is not None:
            return self._optimizer(self.parameters())
        return torch.optim.SGD(self.parameters(), lr=1e-2, momentum=0.9, weight_decay=5e-4)


def enlarged(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps [B, C, h, w] to [B, C, height, width], bilinear with pixels as areas (corners not aligned)."""
    rows, columns = maps.shape[2:]
    down = interpolation(rows, height, like=maps)
    across = interpolation(columns, width, like=maps)
    return down @ (maps @ across.T)


def interpolation(inputs: int, outputs: int, *, like: Tensor) -> Tensor:
    """Weights [outputs, inputs] of linear interpolation between `inputs` pixels; each row sums to 1.

    Output i lies at (i + 1/2) inputs / outputs - 1/2, kept within the first and the last input's centre.
    """
    points = torch.arange(outputs, device=like.device, dtype=torch.float32)
    places = ((points + 0.5) * (inputs / outputs) - 0.5).clamp(0, inputs - 1)
    distances = places[:, None] - torch.arange(inputs, device=like.device, dtype=torch.float32)
    return (1 - distances.abs()).clamp(min=0).to(like.dtype)


def _check_shape(input_shape: tuple[int, ...], output_stride: int) -> None:
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"output_stride must be one of {OUTPUT_STRIDES}, got {output_stride}")
    if len(input_shape) != 3:
        raise ValueError(f"fcn needs images (C, H, W), got input shape {input_shape}")
    height, width = input_shape[1:]
    if min(height, width) <= output_stride:
        # One pixel of the map: batch norm cannot train on a batch of one.
        raise ValueError(
            f"fcn needs images of more than {output_stride} pixels a side, got {height}x{width}; "
            "use larger images"
        )
