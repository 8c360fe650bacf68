"""Parameters and FLOPs of every network by hand formula; shapes; what is refused.

A layer is written as (multiply-adds of one example, weights, biases).
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.networks import NETWORKS, build_network

Layer = tuple[int, int, int]
MNIST, CIFAR, DIGITS = (1, 28, 28), (3, 32, 32), (1, 8, 8)


def conv(inputs: int, outputs: int, kernel: int, height: int, width: int) -> Layer:
    """A convolution with an output of height x width."""
    weights = inputs * outputs * kernel * kernel
    return weights * height * width, weights, outputs


def linear(inputs: int, outputs: int) -> Layer:
    return inputs * outputs, inputs * outputs, outputs


def norm(channels: int) -> Layer:
    """Batch norm: no multiply-adds are counted."""
    return 0, channels, channels


def bare(inputs: int, outputs: int, kernel: int, side: int) -> list[Layer]:
    """A convolution without biases and its batch norm, output side x side."""
    macs, weights, _ = conv(inputs, outputs, kernel, side, side)
    return [(macs, weights, 0), norm(outputs)]


def stage(inputs: int, planes: int, blocks: int, side: int, stride: int = 1) -> list[Layer]:
    """Bottlenecks: 1x1, 3x3 with the stride, 1x1 to 4 * planes; the first one's shortcut is 1x1."""
    wide, rest = 4 * planes, [*bare(planes, planes, 3, side), *bare(planes, 4 * planes, 1, side)]
    first = [*bare(inputs, planes, 1, side * stride), *rest, *bare(inputs, wide, 1, side)]
    return [*first, *(blocks - 1) * [*bare(wide, planes, 1, side), *rest]]


def resnet(blocks: int, side: int) -> list[Layer]:
    """9 blocks + 2 layers over one-channel images."""
    stages = [stage(16, 16, blocks, side), stage(64, 32, blocks, side // 2, 2)]
    stages.append(stage(128, 64, blocks, side // 4, 2))
    return [*bare(1, 16, 3, side), *(layer for one in stages for layer in one), linear(256, 10)]


BY_HAND: dict[tuple[str, tuple[int, ...]], list[Layer]] = {
    ("logistic", MNIST): [linear(784, 10)],
    ("logistic", (7,)): [linear(7, 10)],
    ("mlp", MNIST): [linear(784, 200), linear(200, 200), linear(200, 10)],
    ("mlp", (7,)): [linear(7, 200), linear(200, 200), linear(200, 10)],
    ("cnn", MNIST): [conv(1, 16, 3, 28, 28), conv(16, 32, 3, 14, 14), linear(32 * 7 * 7, 64), linear(64, 10)],
    ("cnn", DIGITS): [conv(1, 16, 3, 8, 8), conv(16, 32, 3, 4, 4), linear(32 * 2 * 2, 64), linear(64, 10)],
    ("cnn", (1, 9, 14)): [
        conv(1, 16, 3, 9, 14),
        conv(16, 32, 3, 4, 7),
        linear(32 * 2 * 3, 64),
        linear(64, 10),
    ],
    ("fedavg_cnn", MNIST): [
        conv(1, 32, 5, 28, 28),
        conv(32, 64, 5, 14, 14),
        linear(64 * 7 * 7, 512),
        linear(512, 10),
    ],
    ("leaf_cnn", MNIST): [
        conv(1, 32, 5, 28, 28),
        conv(32, 64, 5, 14, 14),
        linear(64 * 7 * 7, 2048),
        linear(2048, 10),
    ],
    ("bench_cnn", CIFAR): [
        conv(3, 32, 3, 30, 30),
        conv(32, 64, 3, 28, 28),
        linear(12_544, 128),
        linear(128, 10),
    ],
    ("lenet", MNIST): [
        conv(1, 6, 5, 28, 28),
        conv(6, 16, 5, 10, 10),
        linear(400, 120),
        linear(120, 84),
        linear(84, 10),
    ],
    ("lenet", CIFAR): [
        conv(3, 6, 5, 28, 28),
        conv(6, 16, 5, 10, 10),
        linear(400, 120),
        linear(120, 84),
        linear(84, 10),
    ],
    ("mfl_cnn", MNIST): [
        *(conv(1, 16, 3, 28, 28), conv(16, 32, 3, 28, 28)),
        *(conv(32, 32, 3, 14, 14), conv(32, 10, 3, 7, 7)),
    ],
    ("alexnet", CIFAR): [
        conv(3, 64, 3, 16, 16),
        conv(64, 192, 3, 8, 8),
        *(conv(192, 384, 3, 4, 4), conv(384, 256, 3, 4, 4), conv(256, 256, 3, 4, 4)),
        *(linear(1024, 4096), linear(4096, 4096), linear(4096, 10)),
    ],
    ("alexnet_imagenet", (1, 63, 63)): [
        *(conv(1, 64, 11, 15, 15), conv(64, 192, 5, 7, 7)),
        *(conv(192, 384, 3, 3, 3), conv(384, 256, 3, 3, 3), conv(256, 256, 3, 3, 3)),
        *(linear(256, 4096), linear(4096, 4096), linear(4096, 10)),
    ],
    ("vgg11", CIFAR): [
        *(conv(3, 64, 3, 32, 32), conv(64, 128, 3, 16, 16)),
        *(conv(128, 256, 3, 8, 8), conv(256, 256, 3, 8, 8)),
        *(conv(256, 512, 3, 4, 4), conv(512, 512, 3, 4, 4)),
        *(conv(512, 512, 3, 2, 2), conv(512, 512, 3, 2, 2)),
        *(linear(512, 4096), linear(4096, 4096), linear(4096, 10)),
    ],
    ("resnet4", DIGITS): [*bare(1, 16, 3, 8), *2 * bare(16, 16, 3, 8), linear(16, 10)],
    ("resnet6", DIGITS): [*bare(1, 16, 3, 8), *4 * bare(16, 16, 3, 8), linear(16, 10)],
    ("resnet8", DIGITS): [*bare(1, 16, 3, 8), *stage(16, 16, 2, 8), linear(64, 10)],
    ("resnet20", DIGITS): resnet(2, 8),
    ("resnet56", DIGITS): resnet(6, 8),
    ("resnet110", DIGITS): resnet(12, 8),
}
CASES = pytest.mark.parametrize(("name", "shape"), BY_HAND)


def num_params(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_every_network_has_a_hand_formula() -> None:
    assert sorted({name for name, _ in BY_HAND}) == sorted(NETWORKS)


@CASES
def test_parameters_by_hand(name: str, shape: tuple[int, ...]) -> None:
    network = build_network(name, input_shape=shape, num_classes=10)
    assert num_params(network) == sum(weights + biases for _, weights, biases in BY_HAND[name, shape])


@pytest.mark.parametrize(
    ("name", "shape", "params"),
    [
        ("logistic", MNIST, 7_850),
        ("mlp", MNIST, 199_210),  # McMahan et al. 2017, section 3
        ("fedavg_cnn", MNIST, 1_663_370),  # McMahan et al. 2017, section 3
        ("bench_cnn", CIFAR, 1_626_442),
        ("lenet", MNIST, 61_706),
    ],
)
def test_published_parameter_counts(name: str, shape: tuple[int, ...], params: int) -> None:
    assert num_params(build_network(name, input_shape=shape, num_classes=10)) == params


@CASES
def test_flops_by_hand(name: str, shape: tuple[int, ...]) -> None:
    """2 per multiply-add; backward costs twice forward, less the gradient of the first layer's input."""
    batch = 3
    macs = [macs for macs, _, _ in BY_HAND[name, shape]]
    network = build_network(name, input_shape=shape, num_classes=10)
    inputs, targets = torch.randn(batch, *shape), torch.zeros(batch, dtype=torch.int64)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        network(inputs)
    assert forward.get_total_flops() == 2 * batch * sum(macs)
    with FlopCounterMode(display=False) as both:
        F.cross_entropy(network(inputs), targets).backward()
    assert both.get_total_flops() == 2 * batch * (3 * sum(macs) - macs[0])


@CASES
def test_logits_per_class_and_every_parameter_learns(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = build_network(name, input_shape=shape, num_classes=5)
    logits = network(torch.randn(4, *shape))
    assert logits.shape == (4, 5)
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


@CASES
def test_builds_without_memory_on_the_meta_device(name: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = build_network(name, input_shape=shape, num_classes=10)
        logits = network(torch.empty(2, *shape))
    assert all(p.is_meta for p in network.parameters())
    assert logits.shape == (2, 10)


def test_equal_seeds_give_equal_weights() -> None:
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        network = build_network("cnn", input_shape=DIGITS, num_classes=10)
        weights.append(nn.utils.parameters_to_vector(network.parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("name", "smallest"), [("cnn", 8), ("fedavg_cnn", 4), ("bench_cnn", 6), ("lenet", 12)]
)
def test_the_smallest_image_fits_and_a_smaller_one_is_refused(name: str, smallest: int) -> None:
    network = build_network(name, input_shape=(1, smallest, smallest), num_classes=2)
    assert network(torch.zeros(1, 1, smallest, smallest)).shape == (1, 2)
    with pytest.raises(
        ValueError, match=rf"{name} needs images of at least {smallest}x{smallest} pixels, got "
    ):
        build_network(name, input_shape=(1, 32, smallest - 1), num_classes=2)


@pytest.mark.parametrize("name", ["cnn", "fedavg_cnn", "bench_cnn", "lenet"])
def test_convolutions_over_vectors_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"needs images \(C, H, W\), got input shape \(7,\)"):
        build_network(name, input_shape=(7,), num_classes=2)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(
        ValueError, match="unknown network 'resnet'; choose one of alexnet, alexnet_imagenet, bench_cnn, cnn"
    ):
        build_network("resnet", input_shape=MNIST, num_classes=10)
