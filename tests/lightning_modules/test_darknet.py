"""Darknet-53 by hand: its layers as table 1 of the paper lists them, their weights and multiply-adds."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.darknet import Darknet53, scaled

# (filters of the first convolution of a stage, residual blocks), table 1.
TABLE = [(64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)]


def layers(side: int) -> list[tuple[int, int]]:
    """(weights, multiply-adds) of every convolution on images of side x side."""
    found = [(3 * 32 * 9, side)]
    inputs = 32
    for filters, blocks in TABLE:
        side //= 2
        found.append((inputs * filters * 9, side))
        found += blocks * [(filters * filters // 2, side), (filters // 2 * filters * 9, side)]
        inputs = filters
    return [(weights, weights * side * side) for weights, side in found]


def test_layers_weights_and_flops_by_hand() -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        trunk = Darknet53()
        features = trunk(torch.empty(2, 3, 96, 96))
    kernels = [m.weight for m in trunk.modules() if isinstance(m, nn.Conv2d)]
    assert len(kernels) == 52
    assert [k.numel() for k in kernels] == [weights for weights, _ in layers(96)]
    assert counter.get_total_flops() == 2 * 2 * sum(macs for _, macs in layers(96))
    assert [tuple(f.shape) for f in features] == [(2, 256, 12, 12), (2, 512, 6, 6), (2, 1024, 3, 3)]


def test_no_convolution_has_biases_and_each_has_a_norm() -> None:
    with torch.device("meta"):
        trunk = Darknet53()
    convolutions = [m for m in trunk.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(c.bias is None for c in convolutions)
    assert [n.num_features for n in norms] == [c.out_channels for c in convolutions]


def test_width_scales_all_channels_but_the_images() -> None:
    with torch.device("meta"):
        features = Darknet53(channels=1, width=0.25)(torch.empty(1, 1, 64, 64))
    assert [f.shape[1] for f in features] == [64, 128, 256]
    assert [scaled(32, width) for width in (1.0, 0.125, 1.5, 0.001)] == [32, 4, 48, 1]
    with pytest.raises(ValueError, match=r"width must be > 0, got -0\.5"):
        scaled(32, -0.5)
