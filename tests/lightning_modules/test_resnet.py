"""Published counts and hand formulas; the parts of a ResNet make the whole."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.networks import build_network
from lightning_modules.resnet import (
    EDGES,
    SERVERS,
    BasicBlock,
    Bottleneck,
    EdgeHead,
    Extractor,
    ServerNet,
    feature_shape,
    resnet,
)

CIFAR = (3, 32, 32)
STEM = 3 * 16 * 9
"""Weights of the first convolution."""


def bottlenecks(channels: int, planes: int, count: int, pixels: int, entered: int) -> tuple[int, int]:
    """(parameters, multiply-adds) of a stage at `pixels`; the first 1x1 still runs at `entered` pixels."""
    wide = 4 * planes
    first = channels * planes
    middle, last, shortcut = 9 * planes * planes, planes * wide, channels * wide
    norms = count * 2 * (planes + planes + wide) + 2 * wide
    again = (count - 1) * (wide * planes + middle + last)
    params = first + middle + last + shortcut + again + norms
    return params, first * entered + (middle + last + shortcut + again) * pixels


def trunk(blocks: int, num_classes: int) -> tuple[int, int]:
    """(parameters, multiply-adds) after the stem at 32x32."""
    stages = [
        bottlenecks(16, 16, blocks, 1024, 1024),
        bottlenecks(64, 32, blocks, 256, 1024),
        bottlenecks(128, 64, blocks, 64, 256),
        (256 * num_classes + num_classes, 256 * num_classes),
    ]
    params, macs = zip(*stages, strict=True)
    return sum(params), sum(macs)


def head(name: str, num_classes: int) -> tuple[int, int]:
    """(parameters, multiply-adds) of an edge's classifier at 32x32."""
    if name == "resnet8":
        params, macs = bottlenecks(16, 16, 2, 1024, 1024)
        return params + 65 * num_classes, macs + 64 * num_classes
    convolutions = {"resnet4": 2, "resnet6": 4}[name]
    return (
        convolutions * (9 * 256 + 32) + 17 * num_classes,
        convolutions * 9 * 256 * 1024 + 16 * num_classes,
    )


def counted(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> tuple[int, int]:
    """(parameters, multiply-adds per example) as torch counts them, without memory."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build()
        network(torch.empty(1, *shape))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("name", "num_classes", "params", "macs"),
    [
        ("resnet56", 10, 591_322, 87_214_592),
        ("resnet56", 100, 614_452, 87_237_632),
        ("resnet110", 10, 1_147_738, 167_430_656),
        ("resnet110", 100, 1_170_868, 167_453_696),
        ("resnet8", 10, 10_586, 9_618_048),
        ("resnet8", 100, 16_436, 9_623_808),
        ("resnet6", 10, 9_978, 9_879_712),
        ("resnet4", 10, 5_306, 5_161_120),
        ("resnet20", 10, 220_378, 33_737_216),
    ],
)
def test_whole_networks(name: str, num_classes: int, params: int, macs: int) -> None:
    build = lambda: build_network(name, input_shape=CIFAR, num_classes=num_classes)  # noqa: E731
    assert counted(build, CIFAR) == (params, macs)
    depth = int(name.removeprefix("resnet"))
    by_hand = head(name, num_classes) if name in EDGES else trunk((depth - 2) // 9, num_classes)
    assert (params, macs) == (STEM + 32 + by_hand[0], STEM * 1024 + by_hand[1])


@pytest.mark.parametrize(
    ("name", "num_classes", "params", "macs"),
    [
        ("resnet55", 10, 590_858, 86_772_224),
        ("resnet55", 100, 613_988, 86_795_264),
        ("resnet109", 10, 1_147_274, 166_988_288),
        ("resnet109", 100, 1_170_404, 167_011_328),
        ("resnet19", 10, 219_914, 33_294_848),
    ],
)
def test_servers_carry_no_stem(name: str, num_classes: int, params: int, macs: int) -> None:
    depth = SERVERS[name]
    assert counted(lambda: ServerNet(depth, num_classes), (16, 32, 32)) == (params, macs)
    assert trunk((depth - 2) // 9, num_classes) == (params, macs)


def test_the_extractor_is_the_stem_alone() -> None:
    assert counted(lambda: Extractor(CIFAR), CIFAR) == (464, 442_368)
    assert feature_shape(CIFAR) == (16, 32, 32)
    assert Extractor(CIFAR)(torch.zeros(2, *CIFAR)).shape == (2, *feature_shape(CIFAR))
    assert 16 * 32 * 32 * 4 == 65_536  # bytes of an example's features in fp32


@pytest.mark.parametrize("depth", [4, 6, 8, 20, 56])
@pytest.mark.parametrize("training", [False, True])
def test_the_parts_make_the_whole(depth: int, training: bool) -> None:
    torch.manual_seed(depth)
    shape = (1, 14, 14)
    whole, stem = resnet(depth, shape, 5), Extractor(shape)
    rest = EdgeHead(f"resnet{depth}", 5) if depth < 10 else ServerNet(depth, 5)
    whole.load_state_dict({**stem.state_dict(), **rest.state_dict()})
    whole.train(training), stem.train(training), rest.train(training)
    inputs = torch.randn(3, *shape)
    assert torch.equal(whole(inputs), rest(stem(inputs)))


def test_a_basic_block_by_hand() -> None:
    block = BasicBlock(1).eval()  # batch norm as it starts: x / sqrt(1 + eps)
    for convolution in (block.conv1, block.conv2):
        nn.init.zeros_(convolution.weight)
        convolution.weight.data[0, 0, 1, 1] = 2.0
    found = block(torch.tensor([[[[1.0, -3.0]]]]))
    torch.testing.assert_close(found, torch.tensor([[[[5.0, 0.0]]]]), rtol=1e-4, atol=0)


def test_a_bottleneck_by_hand() -> None:
    """1x1 -> 3x3 of stride 2 -> 1x1 to four channels, beside a strided 1x1."""
    block = Bottleneck(1, 1, stride=2).eval()
    for parameter in (block.conv1.weight, block.conv3.weight, block.shortcut[0].weight):
        nn.init.ones_(parameter)
    nn.init.zeros_(block.conv2.weight)
    block.conv2.weight.data[0, 0, 1, 1] = 3.0
    found = block(torch.tensor([[[[1.0, 9.0], [9.0, 9.0]]]]))
    torch.testing.assert_close(found, torch.full((1, 4, 1, 1), 4.0), rtol=1e-4, atol=0)


def test_a_bottleneck_that_keeps_its_shape_has_no_shortcut_of_its_own() -> None:
    assert len(Bottleneck(64, 16).shortcut) == 0
    assert len(Bottleneck(16, 16).shortcut) == 2


def test_initial_weights() -> None:
    """Kaiming over the outputs: variance 2 / (9 * 64) for a 3x3 convolution to 64 planes."""
    torch.manual_seed(0)
    network = resnet(20, CIFAR, 10)
    weight = network.stage3[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(torch.equal(m.weight, torch.ones_like(m.weight)) for m in norms)
    assert not any(m.bias.any() for m in norms)


@pytest.mark.parametrize("depth", [2, 3, 9, 55])
def test_depths_of_another_form_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"has 9 b \\+ 2 layers, such as 20, 56 or 110; got {depth}"):
        resnet(depth, CIFAR, 10)
    with pytest.raises(ValueError, match="9 b"):
        ServerNet(depth, 10)


def test_bad_shapes_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"resnet20 needs images \(C, H, W\), got input shape \(7,\)"):
        resnet(20, (7,), 10)
    with pytest.raises(ValueError, match="resnet8 needs images of at least 8x8 pixels, got 8x7"):
        resnet(8, (1, 8, 7), 10)
    with pytest.raises(ValueError, match="Extractor needs images"):
        feature_shape((7,))
    with pytest.raises(ValueError, match="unknown edge 'resnet20'; choose one of resnet4, resnet6, resnet8"):
        EdgeHead("resnet20", 10)
