"""AlexNet: five convolutions and three fully connected layers, for small images and for ImageNet's.

Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", NIPS 2012.
The channels are those of Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
"""

from torch import nn

HIDDEN = 4096


def alexnet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """3x3 kernels throughout: 23,272,266 parameters at 32x32 with ten classes.

    For images (C, H, W) of at least 15x15 pixels; pooling rounds down. Raises ValueError for others.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 15:
        raise ValueError(f"alexnet needs images (C, H, W) of at least 15x15 pixels, got {input_shape}")
    channels, *sides = input_shape
    # The first convolution halves, rounding up; three poolings halve, rounding down.
    height, width = (((side - 1) // 2 + 1) // 8 for side in sides)
    return nn.Sequential(
        nn.Conv2d(channels, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 192, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *_head(256 * height * width, num_classes),
    )


def alexnet_imagenet(input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """ImageNet's kernels and strides: 61,100,840 parameters at 224x224 with a thousand classes.

    For images (C, H, W) of at least 63x63 pixels. Raises ValueError for others.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 63:
        raise ValueError(
            f"alexnet_imagenet needs images (C, H, W) of at least 63x63 pixels, got {input_shape}"
        )
    channels, *sides = input_shape
    height, width = (((((side - 7) // 4 + 1 - 1) // 2 - 1) // 2 - 1) // 2 for side in sides)
    return nn.Sequential(
        nn.Conv2d(channels, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Flatten(),
        *_head(256 * height * width, num_classes),
    )


def _head(features: int, num_classes: int) -> list[nn.Module]:
    """The fully connected layers."""
    return [
        nn.Dropout(0.5),
        nn.Linear(features, HIDDEN),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, num_classes),
    ]
