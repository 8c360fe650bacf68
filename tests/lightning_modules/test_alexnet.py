"""Parameters of AlexNet and VGG-11 as printed, dense and low-rank."""

import pytest
import torch
from torch import nn

from lightning_modules.lowrank import with_low_rank
from lightning_modules.networks import build_network

CIFAR, FEMNIST = (3, 32, 32), (1, 28, 28)


def built(name: str, shape: tuple[int, ...] = CIFAR, classes: int = 10, rank: int | None = None) -> nn.Module:
    with torch.device("meta"):
        network = build_network(name, input_shape=shape, num_classes=classes)
        return network if rank is None else with_low_rank(network, rank)


def count(network: nn.Module, *kinds: type[nn.Module], bias: bool | None = None) -> int:
    layers = [layer for layer in network.modules() if isinstance(layer, kinds)]
    return sum(
        p.numel() for layer in layers for name, p in layer.named_parameters()
        if bias is None or (name == "bias") is bias
    )  # fmt: skip


def total(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_layout_a_by_parts() -> None:
    network = built("alexnet")
    assert total(network) == 23_272_266
    assert count(network, nn.Conv2d) == 2_251_584
    assert count(network, nn.Linear, bias=False) == 21_012_480
    assert count(network, nn.Linear, bias=True) == 8_202


@pytest.mark.parametrize(("rank", "params"), [(8, 2_399_130), (16, 2_513_838), (32, 2_726_830)])
def test_low_rank_sizes(rank: int, params: int) -> None:
    assert total(built("alexnet", rank=rank)) == params


def test_femnist_layout() -> None:
    assert total(built("alexnet", FEMNIST, 62)) == 20_338_430


def test_imagenet_layout() -> None:
    assert total(built("alexnet_imagenet", (3, 224, 224), 1000)) == 61_100_840


def test_vgg() -> None:
    network = built("vgg11")
    assert count(network, nn.Conv2d) == 9_220_480  # of VGG-11 as published
    assert total(network) == 9_220_480 + 513 * 4096 + 4097 * 4096 + 4097 * 10 == 28_144_010


@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
@pytest.mark.parametrize("classes", [10, 62])
def test_shapes(name: str, classes: int) -> None:
    assert built(name, classes=classes)(torch.empty(2, *CIFAR, device="meta")).shape == (2, classes)


def test_the_smallest_images() -> None:
    assert built("alexnet", (1, 15, 40))(torch.empty(2, 1, 15, 40, device="meta")).shape == (2, 10)
    for name, shape in (
        ("alexnet", (1, 14, 40)),
        ("vgg11", (3, 31, 32)),
        ("alexnet", (7,)),
        ("alexnet_imagenet", (3, 62, 63)),
    ):
        with pytest.raises(ValueError, match=rf"^{name} needs images \(C, H, W\) of at least "):
            build_network(name, input_shape=shape, num_classes=10)


def test_dropout_draws_differ_in_training_and_not_in_evaluation() -> None:
    torch.manual_seed(0)
    network, inputs = (
        build_network("alexnet", input_shape=(1, 16, 16), num_classes=3),
        torch.randn(2, 1, 16, 16),
    )
    assert not torch.equal(network(inputs), network(inputs))
    network.eval()
    assert torch.equal(network(inputs), network(inputs))
