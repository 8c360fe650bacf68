"""VGG-11 for small images.

Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015,
configuration A: eight 3x3 convolutions with five poolings, three fully connected layers with dropout.
"""

from torch import nn

WIDTHS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of the convolutions before each pooling."""
HIDDEN = 4096


def vgg11(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """For images (C, H, W) of at least 32x32 pixels; at 32x32 with ten classes 28,144,010 parameters.

    Raises ValueError for other inputs.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 32:
        raise ValueError(f"vgg11 needs images (C, H, W) of at least 32x32 pixels, got {input_shape}")
    channels, *sides = input_shape
    layers: list[nn.Module] = []
    for block in WIDTHS:
        for width in block:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    rows, columns = (side // 2 ** len(WIDTHS) for side in sides)
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Linear(channels * rows * columns, HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(HIDDEN, num_classes),
    )
