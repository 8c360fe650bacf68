"""ResNets for small images, whole and in the parts that FedGKT spreads over edge and server.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, section 4.2, with bottleneck
blocks (their figure 5, right) and 1x1 shortcuts where the shape changes. He, Annavaram, Avestimehr, "Group
knowledge transfer", NeurIPS 2020, cuts them after the stem and gives the edges small ones of their own.

A whole network is a Sequential of named layers, so that its parts keep their names:
`whole.load_state_dict({**Extractor(...).state_dict(), **ServerNet(...).state_dict()})`.

Shape letters: B batch, C classes, H and W pixels.
"""

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

M = TypeVar("M", bound=nn.Module)

STEM_CHANNELS: Final = 16
"""Channels at the cut after the stem."""
EXPANSION: Final = 4
"""Output channels of a bottleneck per plane."""
STAGES: Final = ((16, 1), (32, 2), (64, 2))
"""Planes and stride of each stage."""
SMALLEST_IMAGE: Final = 8
"""Pixels: below, the last stage has one pixel, and batch norm cannot train on a batch of one."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and an identity shortcut."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, planes, H, W] to the same shape."""
        inner = F.relu(self.bn1(self.conv1(inputs)))
        return F.relu(self.bn2(self.conv2(inner)) + inputs)


class Bottleneck(nn.Module):
    """1x1 to `planes`, 3x3 with the stride, 1x1 to 4 * `planes`; a 1x1 shortcut where the shape changes."""

    def __init__(
        self, channels: int, planes: int, *, stride: int = 1, dilation: int = 1, bias: bool = False
    ) -> None:
        super().__init__()
        outputs = EXPANSION * planes
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=bias)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(
            planes, planes, 3, stride=stride, padding=dilation, dilation=dilation, bias=bias
        )
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=bias)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != outputs:
            self.shortcut.append(nn.Conv2d(channels, outputs, 1, stride=stride, bias=bias))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, 4 planes, H / stride, W / stride], rounded up."""
        inner = F.relu(self.bn1(self.conv1(inputs)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        return F.relu(self.bn3(self.conv3(inner)) + self.shortcut(inputs))


class GlobalAverage(nn.Module):
    """Mean over all pixels."""

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, channels]."""
        return inputs.mean(dim=(2, 3))


class Extractor(nn.Sequential):
    """The stem: images [B, *input_shape] to features [B, 16, H, W]. 464 parameters on RGB images."""

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        """Raises ValueError for an `input_shape` that is no (channels, H, W) of at least 8x8 pixels."""
        super().__init__(_stem("Extractor", input_shape))
        initialise(self)


class EdgeHead(nn.Sequential):
    """An edge's local classifier: features [B, 16, H, W] to logits [B, C]."""

    def __init__(self, name: str, num_classes: int) -> None:
        """`name` is resnet4, resnet6 or resnet8: the network that stem and head make together.

        Raises ValueError for another name.
        """
        if name not in EDGES:
            raise ValueError(f"unknown edge {name!r}; choose one of {', '.join(EDGES)}")
        super().__init__(_edge_head(name, num_classes))
        initialise(self)


class ServerNet(nn.Sequential):
    """A ResNet without its stem: features [B, 16, H, W] to logits [B, C]."""

    def __init__(self, depth: int, num_classes: int) -> None:
        """`depth` is that of the whole network (see SERVERS): 9 b + 2 for b bottlenecks per stage.

        Raises ValueError for a depth of another form.
        """
        super().__init__(_trunk(depth, num_classes))
        initialise(self)


EDGES: Final = ("resnet4", "resnet6", "resnet8")
"""Names of `EdgeHead`."""
SERVERS: Final[Mapping[str, int]] = MappingProxyType({"resnet19": 20, "resnet55": 56, "resnet109": 110})
"""Name of a server's network -> depth of the whole network, stem included."""


def resnet(depth: int, input_shape: tuple[int, ...], num_classes: int) -> nn.Sequential:
    """A whole network: 4, 6 and 8 as on the edges, else 9 b + 2 layers with b bottlenecks per stage.

    Maps images [B, *input_shape] to logits [B, num_classes]. Raises ValueError for a depth of another form
    and for an `input_shape` that is no (channels, H, W) of at least 8x8 pixels.
    """
    name = f"resnet{depth}"
    stem = _stem(name, input_shape)
    rest = _edge_head(name, num_classes) if name in EDGES else _trunk(depth, num_classes)
    return initialise(nn.Sequential(OrderedDict([*stem.items(), *rest.items()])))


def feature_shape(input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, H, W) at the cut after the stem. Raises ValueError for shapes that are no images."""
    _, height, width = _image("Extractor", input_shape)
    return STEM_CHANNELS, height, width


def initialise(network: M) -> M:
    """Convolutions Kaiming-normal over their outputs; batch norm starts as the identity, as torch has it."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


Layers = OrderedDict[str, nn.Module]


def _stem(name: str, input_shape: tuple[int, ...]) -> Layers:
    channels, _, _ = _image(name, input_shape)
    convolution = nn.Conv2d(channels, STEM_CHANNELS, 3, padding=1, bias=False)
    parts = {"conv": convolution, "bn": nn.BatchNorm2d(STEM_CHANNELS), "relu": nn.ReLU()}
    return OrderedDict(stem=nn.Sequential(OrderedDict(parts)))


def _trunk(depth: int, num_classes: int) -> Layers:
    blocks, odd = divmod(depth - 2, 9)
    if blocks < 1 or odd:
        raise ValueError(f"a ResNet of bottlenecks has 9 b + 2 layers, such as 20, 56 or 110; got {depth}")
    layers: Layers = OrderedDict()
    channels = STEM_CHANNELS
    for number, (planes, stride) in enumerate(STAGES, start=1):
        layers[f"stage{number}"] = _bottlenecks(channels, planes, blocks=blocks, stride=stride)
        channels = EXPANSION * planes
    layers["pool"] = GlobalAverage()
    layers["fc"] = nn.Linear(channels, num_classes)
    return layers


def _edge_head(name: str, num_classes: int) -> Layers:
    stage: nn.Module
    if name == "resnet8":
        stage = _bottlenecks(STEM_CHANNELS, STEM_CHANNELS, blocks=2, stride=1)
        channels = EXPANSION * STEM_CHANNELS
    else:
        blocks = 1 if name == "resnet4" else 2
        stage = nn.Sequential(*(BasicBlock(STEM_CHANNELS) for _ in range(blocks)))
        channels = STEM_CHANNELS
    return OrderedDict(stage1=stage, pool=GlobalAverage(), fc=nn.Linear(channels, num_classes))


def _bottlenecks(channels: int, planes: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(channels, planes, stride=stride)
    return nn.Sequential(first, *(Bottleneck(EXPANSION * planes, planes) for _ in range(blocks - 1)))


def _image(name: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(input_shape) != 3:
        raise ValueError(f"{name} needs images (C, H, W), got input shape {input_shape}; use mlp or logistic")
    channels, height, width = input_shape
    if min(height, width) < SMALLEST_IMAGE:
        raise ValueError(
            f"{name} needs images of at least {SMALLEST_IMAGE}x{SMALLEST_IMAGE} pixels, "
            f"got {height}x{width}; use larger images, mlp or logistic"
        )
    return channels, height, width
