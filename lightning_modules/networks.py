"""Networks by name: built from the shape of an example and the number of classes.

A classifier maps inputs [B, *input_shape] to logits [B, num_classes]; networks for detection and segmentation
are LightningModules with a loss of their own. Each can be built on any torch device, `meta` included.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

from torch import nn

from lightning_modules.alexnet import alexnet, alexnet_imagenet
from lightning_modules.fcn import Fcn
from lightning_modules.resnet import GlobalAverage, resnet
from lightning_modules.vgg import vgg11
from lightning_modules.yolov3 import Yolov3

Builder = Callable[[tuple[int, ...], int], nn.Module]


def build_network(name: str, *, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The network called `name`, freshly initialised from torch's global generator.

    `input_shape` is (C, H, W) of an image or (D,) of a vector. `yolov3@0.25` is yolov3 with a quarter of the
    channels; only the networks of `SCALED` take a width. Raises ValueError for an unknown name or a width
    that is no positive number, for a convolutional network over vectors, and for images that a network
    shrinks to nothing.
    """
    base, at, width = NARROW.get(name, name).partition("@")
    if base in SCALED:
        return SCALED[base](input_shape, num_classes, width=_width(width) if at else 1.0)
    if base not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose one of {', '.join(network_names())}")
    if at:
        raise ValueError(f"{base} takes no width, got {name!r}; {', '.join(SCALED)} do")
    return NETWORKS[base](input_shape, num_classes)


def network_names() -> list[str]:
    """Names that `build_network` knows (without widths), sorted."""
    return sorted([*NETWORKS, *SCALED, *NARROW])


def logistic(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Multinomial logistic regression: one linear layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), num_classes))


def mlp(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The 2NN of McMahan et al. (AISTATS 2017): two hidden layers of 200; 199,210 parameters on MNIST."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), 200),
        nn.ReLU(),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, num_classes),
    )


def cnn(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A network that trains fast on CPUs: 3x3 convolutions of 16 and 32 channels, 64 hidden units."""
    channels, height, width = _image("cnn", input_shape, smallest=8)
    return nn.Sequential(
        *_conv(channels, 16, 3, padding=1),
        nn.MaxPool2d(2),
        *_conv(16, 32, 3, padding=1),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 64),
        nn.ReLU(),
        nn.Linear(64, num_classes),
    )


def fedavg_cnn(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The CNN of McMahan et al. (AISTATS 2017): 1,663,370 parameters on MNIST.

    5x5 convolutions of 32 and 64 channels, each with 2x2 max pooling, and 512 hidden units. The paper does
    not state the padding; the count it gives needs outputs of the input's size.
    """
    channels, height, width = _image("fedavg_cnn", input_shape, smallest=4)
    return nn.Sequential(
        *_conv(channels, 32, 5, padding=2),
        nn.MaxPool2d(2),
        *_conv(32, 64, 5, padding=2),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 512),
        nn.ReLU(),
        nn.Linear(512, num_classes),
    )


def leaf_cnn(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """LEAF's CNN for FEMNIST (Caldas et al. 2018): 6,603,710 parameters at 28x28x1 and 62 classes.

    As `fedavg_cnn` with 2048 hidden units. Its layers have names: c1, c2, f1, f2 are those with parameters.
    """
    channels, height, width = _image("leaf_cnn", input_shape, smallest=4)
    layers = {
        "c1": nn.Conv2d(channels, 32, 5, padding=2),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),
        "c2": nn.Conv2d(32, 64, 5, padding=2),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(2),
        "flatten": nn.Flatten(),
        "f1": nn.Linear(64 * (height // 4) * (width // 4), 2048),
        "relu3": nn.ReLU(),
        "f2": nn.Linear(2048, num_classes),
    }
    return nn.Sequential(OrderedDict(layers))


def bench_cnn(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Two 3x3 convolutions without padding, one pooling, 128 hidden units; 12,544 features at 32x32."""
    channels, height, width = _image("bench_cnn", input_shape, smallest=6)
    return nn.Sequential(
        *_conv(channels, 32, 3),
        *_conv(32, 64, 3),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )


def lenet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """LeNet-5 (LeCun et al., Proceedings of the IEEE 1998) with ReLU, max pooling and full connections.

    The first convolution pads images below 32x32 by 2, as the paper pads MNIST to 32x32.
    """
    channels, height, width = _image("lenet", input_shape, smallest=12)
    padding = 2 if min(height, width) < 32 else 0
    rows, columns = (((side + 2 * padding - 4) // 2 - 4) // 2 for side in (height, width))
    return nn.Sequential(
        *_conv(channels, 6, 5, padding=padding),
        nn.MaxPool2d(2),
        *_conv(6, 16, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * rows * columns, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, num_classes),
    )


def mfl_cnn(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The CNN of MFL (Yu, Li, IEEE Network 2021): 16C3-32C3-MP2-32C3-MP2-10C3-GAP, 16,938 parameters.

    3x3 convolutions of the input's size, no fully connected layer: the last one has a channel per class.
    """
    channels, _, _ = _image("mfl_cnn", input_shape, smallest=4)
    return nn.Sequential(
        *_conv(channels, 16, 3, padding=1),
        *_conv(16, 32, 3, padding=1),
        nn.MaxPool2d(2),
        *_conv(32, 32, 3, padding=1),
        nn.MaxPool2d(2),
        nn.Conv2d(32, num_classes, 3, padding=1),
        GlobalAverage(),
    )


NETWORKS: Final[Mapping[str, Builder]] = MappingProxyType(
    {
        "logistic": logistic,
        "mlp": mlp,
        "cnn": cnn,
        "fedavg_cnn": fedavg_cnn,
        "leaf_cnn": leaf_cnn,
        "bench_cnn": bench_cnn,
        "lenet": lenet,
        "mfl_cnn": mfl_cnn,
        "alexnet": alexnet,
        "alexnet_imagenet": alexnet_imagenet,
        "vgg11": vgg11,
        **{f"resnet{depth}": partial(resnet, depth) for depth in (4, 6, 8, 20, 56, 110)},
    }
)
"""Classifiers."""
SCALED: Final[Mapping[str, Callable[..., nn.Module]]] = MappingProxyType(
    {"yolov3": Yolov3, "fcn_resnet50": Fcn}
)
"""Networks whose channels a `width` scales: detection and segmentation."""
NARROW: Final[Mapping[str, str]] = MappingProxyType(
    {"yolov3_narrow": "yolov3@0.125", "fcn_narrow": "fcn_resnet50@0.125"}
)
"""The same for a CPU: about 1/64 of the parameters and FLOPs."""


def _width(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"a width is a number, as in yolov3@0.25; got {text!r}") from None


def _image(name: str, input_shape: tuple[int, ...], *, smallest: int) -> tuple[int, int, int]:
    if len(input_shape) != 3:
        raise ValueError(f"{name} needs images (C, H, W), got input shape {input_shape}; use mlp or logistic")
    channels, height, width = input_shape
    if min(height, width) < smallest:
        raise ValueError(
            f"{name} needs images of at least {smallest}x{smallest} pixels, got {height}x{width}; "
            "use larger images, mlp or logistic"
        )
    return channels, height, width


def _conv(inputs: int, outputs: int, kernel: int, *, padding: int = 0) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.ReLU()
