"""Darknet-53, the trunk of YOLOv3, without its classification layer.

Redmon, Farhadi, "YOLOv3: an incremental improvement", arXiv 1804.02767, 2018, table 1: 52 convolutions, each
without biases, with batch norm and a leaky ReLU of slope 0.1.

Shape letters: B batch, H and W pixels.
"""

import math
from collections import OrderedDict
from typing import Final

from torch import Tensor, nn

STEM_CHANNELS: Final = 32
"""Channels of the first convolution at width 1."""
STAGES: Final = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
"""Output channels at width 1 and residual blocks of each stage; a stage halves the pixels."""
STRIDE: Final = 32
"""Input pixels per pixel of the last stage."""


class ConvNorm(nn.Sequential):
    """A convolution (padded to keep the size, without biases), batch norm, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        parts = {"conv": convolution, "bn": nn.BatchNorm2d(outputs), "act": nn.LeakyReLU(0.1)}
        super().__init__(OrderedDict(parts))


class Residual(nn.Module):
    """1x1 to half the channels, 3x3 back, added to the input."""

    def __init__(self, channels: int, half: int) -> None:
        super().__init__()
        self.reduce = ConvNorm(channels, half, 1)
        self.expand = ConvNorm(half, channels, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, channels, H, W] to the same shape."""
        change: Tensor = self.expand(self.reduce(inputs))
        return inputs + change


class Darknet53(nn.Module):
    """Images [B, 3, H, W] to features at strides 8, 16 and 32."""

    def __init__(self, *, channels: int = 3, width: float = 1.0) -> None:
        """`width` scales the channels of every layer (see `scaled`)."""
        super().__init__()
        inputs = scaled(STEM_CHANNELS, width)
        self.stem = ConvNorm(channels, inputs, 3)
        stages = []
        for full, blocks in STAGES:
            outputs, half = scaled(full, width), scaled(full // 2, width)
            residuals = (Residual(outputs, half) for _ in range(blocks))
            stages.append(nn.Sequential(ConvNorm(inputs, outputs, 3, stride=2), *residuals))
            inputs = outputs
        self.stages = nn.ModuleList(stages)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, 256 w, H/8, W/8], [B, 512 w, H/16, W/16] and [B, 1024 w, H/32, W/32] at width w."""
        values: Tensor = self.stem(inputs)
        found = []
        for stage in self.stages:
            values = stage(values)
            found.append(values)
        return found[2], found[3], found[4]


def scaled(channels: int, width: float) -> int:
    """Channels of a layer at `width`: the product, rounded, at least 1.

    Raises ValueError for a width that is not positive and finite.
    """
    if not 0 < width < math.inf:
        raise ValueError(f"width must be > 0, got {width}; 1 is the paper's network")
    return max(1, round(channels * width))
