"""Crops and boxes placed per example, without a loop over examples. B batch, C channels, H and W pixels."""

import torch
from torch import Tensor


def crop_at(inputs: Tensor, *, top: Tensor, left: Tensor, pad: int, black: Tensor) -> Tensor:
    """Each example's [H, W] window of itself padded by `pad`, at its own (top, left) in 0..2*pad.

    `black` [C] is what padding is filled with.
    """
    size, _, height, width = inputs.shape
    padded = black.to(inputs).view(1, -1, 1, 1).repeat(size, 1, height + 2 * pad, width + 2 * pad)
    padded[:, :, pad : pad + height, pad : pad + width] = inputs
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(size, device=inputs.device), :, top, left]


def erase_box(
    inputs: Tensor, *, top: Tensor, left: Tensor, height: Tensor, width: Tensor, fill: Tensor
) -> Tensor:
    """Overwrite rows top..top+height and columns left..left+width, all [B], with `fill` [C]; clipped."""
    y = torch.arange(inputs.shape[2], device=inputs.device)
    x = torch.arange(inputs.shape[3], device=inputs.device)
    in_rows = (y >= top[:, None]) & (y < (top + height)[:, None])
    in_columns = (x >= left[:, None]) & (x < (left + width)[:, None])
    inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    return torch.where(inside, fill.to(inputs).view(1, -1, 1, 1), inputs)
