"""What each source of a vertical partition sees of one image: the five transforms of FPL, and others.

Malandrino and Chiasserini, WoWMoM 2022: blur, erasing, two flips, crop; the parameters are torchvision's
usual ones. Erasing and crop are drawn from a hash of the row's id: an image looks the same in every
epoch, batch and process. Sources of partial quality: `noise` sees nothing, `few_classes` a fifth of the
classes; a source of another type: `sensor` sees a vector. B batch, C channels, H and W pixels.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from harness.config import nearest, require
from harness.data.boxes import crop_at, erase_box

CROP_PAD = 4
BLUR_SIGMA = 1.0
ERASE_AREA = (0.02, 0.33)
ERASE_RATIO = (0.3, 3.3)
ERASE_TRIES = 10

KEPT_EVERY = 5
"""few_classes sees classes 0, 5, 10, ... well."""

View = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(inputs [B, C, H, W], ids [B] int64, black [C], classes [B] int64) -> [B, ...] by `seen_shape`."""


def identity(inputs: Tensor, ids: Tensor, black: Tensor, classes: Tensor) -> Tensor:
    """The image itself."""
    return inputs


def blur(inputs: Tensor, ids: Tensor, black: Tensor, classes: Tensor) -> Tensor:
    """Gaussian, 5x5, sigma 1, edges mirrored.

    Sums of shifted images rather than a convolution: it stands for the source's optics, and a meter of
    network operations should not see it.
    """
    weights = torch.exp(-(torch.arange(-2.0, 3.0) ** 2) / (2 * BLUR_SIGMA**2))
    weights /= weights.sum()
    taps = weights.tolist()
    height, width = inputs.shape[2:]
    padded = F.pad(inputs, (2, 2, 2, 2), mode="reflect")
    rows = sum((w * padded[:, :, i : i + height] for i, w in enumerate(taps)), torch.zeros(()).to(inputs))
    return sum((w * rows[..., i : i + width] for i, w in enumerate(taps)), torch.zeros(()).to(inputs))


def erase(inputs: Tensor, ids: Tensor, black: Tensor, classes: Tensor) -> Tensor:
    """Blacken one box of .02-.33 of the area and .3-3.3 aspect (Zhong et al., AAAI 2020).

    As in torchvision's `RandomErasing`: up to ten draws of a size until one fits, else the image stays.
    """
    height, width = inputs.shape[2:]
    u = _uniforms(ids, stream=1, count=2 * ERASE_TRIES + 2)
    area = height * width * _between(u[:, :ERASE_TRIES], *ERASE_AREA)
    ratio = torch.exp(_between(u[:, ERASE_TRIES:-2], math.log(ERASE_RATIO[0]), math.log(ERASE_RATIO[1])))
    tall, wide = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (tall < height) & (wide < width)
    first = fits.int().argmax(1, keepdim=True)
    tall = (tall * fits).gather(1, first).squeeze(1)
    wide = (wide * fits).gather(1, first).squeeze(1)
    top = (u[:, -2] * (height - tall + 1)).long()
    left = (u[:, -1] * (width - wide + 1)).long()
    place = {"top": top, "left": left, "height": tall, "width": wide}
    return erase_box(inputs, **{key: value.to(inputs.device) for key, value in place.items()}, fill=black)


def hflip(inputs: Tensor, ids: Tensor, black: Tensor, classes: Tensor) -> Tensor:
    """Mirrored left and right."""
    return inputs.flip(3)


def vflip(inputs: Tensor, ids: Tensor, black: Tensor, classes: Tensor) -> Tensor:
    """Upside down."""
    return inputs.flip(2)


def crop(inputs: Tensor, ids: Tensor, black: Tensor, classes: Tensor) -> Tensor:
    """A window of the same size somewhere in the image padded by 4 black pixels."""
    place = (_uniforms(ids, stream=2, count=2) * (2 * CROP_PAD + 1)).long().to(inputs.device)
    return crop_at(inputs, top=place[:, 0], left=place[:, 1], pad=CROP_PAD, black=black)


def noise(inputs: Tensor, ids: Tensor, black: Tensor, classes: Tensor) -> Tensor:
    """Nothing of the image: a broken source, uniform noise of mean 0 and variance 1 drawn per image."""
    u = _uniforms(ids, stream=3, count=inputs[0].numel()).to(inputs)
    return ((u - 0.5) * math.sqrt(12)).view_as(inputs)


def few_classes(inputs: Tensor, ids: Tensor, black: Tensor, classes: Tensor) -> Tensor:
    """The image itself for every fifth class, noise for all others: a source made for some things alone.

    That it sees noise tells that the class is another one, so it is not without worth.
    """
    kept = (classes % KEPT_EVERY == 0).to(inputs.device)
    return torch.where(kept[:, None, None, None], inputs, noise(inputs, ids, black, classes))


def sensor(inputs: Tensor, ids: Tensor, black: Tensor, classes: Tensor) -> Tensor:
    """No image but a vector: the mean of every row and of every column, as light barriers give them."""
    return torch.cat([inputs.mean(dim=3), inputs.mean(dim=2)], dim=2).flatten(1)


VIEWS: dict[str, View] = {
    "blur": blur,
    "erase": erase,
    "hflip": hflip,
    "vflip": vflip,
    "crop": crop,
    "identity": identity,
    "noise": noise,
    "few_classes": few_classes,
    "sensor": sensor,
}
"""What `partition.views` may list."""
DEGRADED = ("noise", "few_classes")
"""Views of poor quality."""
VECTORS = ("sensor",)
"""Views that are no images."""

FPL_VIEWS = ("blur", "erase", "hflip", "vflip", "crop")
"""Source i of FPL sees every image through the i-th of these."""


def check_names(names: Sequence[str]) -> None:
    """Raise ConfigError for a name that is no view."""
    for name in names:
        require(name in VIEWS, f"partition.views: unknown view {name!r}{nearest(name, list(VIEWS))}")


def apply_view(name: str, inputs: Tensor, *, ids: Tensor, black: Tensor, classes: Tensor) -> Tensor:
    """Inputs [B, C, H, W] as the source with view `name` sees them; ids [B]: their rows in the split.

    `black` [C]: a zero pixel as the network sees it; `classes` [B]: their labels.
    """
    return VIEWS[name](inputs, ids, black, classes)


def seen_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of one example of `shape` (C, H, W) as the source with view `name` sees it."""
    return (shape[0] * (shape[1] + shape[2]),) if name in VECTORS else shape


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * u


def _uniforms(ids: Tensor, *, stream: int, count: int) -> Tensor:
    """[B, count] float64 in [0, 1), a pure function of (id, stream, column): SplitMix64 of a counter.

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    columns = np.arange(count, dtype=np.uint64)
    rows: NDArray[np.uint64] = ids.cpu().numpy().astype(np.uint64)[:, None] * np.uint64(count)
    z: NDArray[np.uint64] = (rows + columns + np.uint64(stream << 48)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-53)
