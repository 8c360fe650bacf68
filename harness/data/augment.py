"""Random transforms of a training batch [B, C, H, W], each example drawn on its own.

All draws come from the generator that is handed in, so a batch can be augmented again to the same bits.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.config import nearest, require
from harness.data.boxes import crop_at, erase_box

CROP_PAD = 4
CUTOUT_SIDE = 16

Augmentation = Callable[[Tensor, torch.Generator, Tensor], Tensor]
"""(inputs [B, C, H, W], generator, black [C]) -> [B, C, H, W]."""


def crop(inputs: Tensor, generator: torch.Generator, black: Tensor) -> Tensor:
    """A random window of the image padded by 4 black pixels (He et al., CVPR 2016, section 4.2)."""
    top = _integers(inputs, generator, 2 * CROP_PAD + 1)
    left = _integers(inputs, generator, 2 * CROP_PAD + 1)
    return crop_at(inputs, top=top, left=left, pad=CROP_PAD, black=black)


def hflip(inputs: Tensor, generator: torch.Generator, black: Tensor) -> Tensor:
    """Mirror left and right with probability 1/2."""
    flipped = _integers(inputs, generator, 2).bool()
    return torch.where(flipped[:, None, None, None], inputs.flip(3), inputs)


def cutout(inputs: Tensor, generator: torch.Generator, black: Tensor) -> Tensor:
    """Blank a 16x16 square around a random pixel, cut off at the border (DeVries and Taylor, 2017).

    As in their work the square becomes 0 after normalisation, the mean colour, not black.
    """
    side = torch.full((len(inputs),), CUTOUT_SIDE, device=inputs.device)
    top = _integers(inputs, generator, inputs.shape[2]) - CUTOUT_SIDE // 2
    left = _integers(inputs, generator, inputs.shape[3]) - CUTOUT_SIDE // 2
    return erase_box(inputs, top=top, left=left, height=side, width=side, fill=torch.zeros_like(black))


AUGMENTATIONS: dict[str, Augmentation] = {"crop": crop, "hflip": hflip, "cutout": cutout}
"""What `task.augment` may list."""


def check_names(names: Sequence[str]) -> None:
    """Raise ConfigError for a name that is no augmentation."""
    for name in names:
        known = list(AUGMENTATIONS)
        require(name in known, f"task.augment: unknown augmentation {name!r}{nearest(name, known)}")


def augment(inputs: Tensor, *, names: Sequence[str], generator: torch.Generator, black: Tensor) -> Tensor:
    """Apply the named augmentations in order. `black` [C]: a zero pixel as the network sees it."""
    for name in names:
        inputs = AUGMENTATIONS[name](inputs, generator, black)
    return inputs


def _integers(inputs: Tensor, generator: torch.Generator, stop: int) -> Tensor:
    """[B] int64 in 0..stop-1, drawn where the generator lives, so a batch on a GPU sees the same draws."""
    drawn = torch.randint(stop, (len(inputs),), generator=generator, device=generator.device)
    return drawn.to(inputs.device)
