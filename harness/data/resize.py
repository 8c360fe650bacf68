"""Resizing of stored images, done once before they are cached."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray


def resize(images: NDArray[np.generic], *, size: int) -> NDArray[np.uint8]:
    """[N, H, W, C] uint8 -> [N, size, size, C] uint8, bilinear, antialiased where it shrinks."""
    planes = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float()
    shrinks = size < max(planes.shape[2:])
    scaled = F.interpolate(planes, (size, size), mode="bilinear", antialias=shrinks, align_corners=False)
    pixels: NDArray[np.uint8] = scaled.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    return pixels
