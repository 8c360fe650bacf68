"""The loss of YOLOv3.

Redmon, Farhadi, "YOLOv3: an incremental improvement", arXiv 1804.02767, 2018, sections 2.1 and 2.2. Each
object has one place: of all anchors in the cells that hold its centre, the one whose shape overlaps it best.
That place learns box, classes and objectness 1; every other place learns objectness 0, unless its predicted
box overlaps some object by more than the threshold (0.5). Classes are independent logistic units.

What the paper leaves open is as in the authors' code: centres by binary cross-entropy of sigmoid(t), whose
gradient is the paper's difference of target and output; sizes by half the squared error of t; both weighted
by 2 - w h, so that small boxes count more; "overlaps" means the predicted box, where the text says the prior.
Of two objects in one place, their code keeps the last one's box: here both pull.

Shape letters: B images, M objects (padded), N places, C classes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.yolo_decode import BOX, Places, boxes_of, corners, overlap

SMALLEST = 1e-4
"""Part of the image: narrower objects count as so wide (the logarithm of a size must be finite)."""


def yolo_loss(raw: Tensor, places: Places, targets: Tensor, *, ignore: float = 0.5) -> Tensor:
    """Sum over places, mean over images, of raw values [B, N, 5 + C] against objects [B, M, 5].

    An object is (class, cx, cy, w, h), as parts of the image. Class -1 marks padding; an object of a class
    below (a "difficult" one) trains nothing, but places that overlap it are not told that they are empty.
    Element-wise work alone: no FLOPs that torch counts.
    """
    # One more row of padding, so that no reduction is over nothing.
    targets = F.pad(targets.float(), (0, 0, 0, 1), value=-1.0)
    real, padding = targets[..., 0] >= 0, targets[..., 0] == -1
    truth = torch.where(padding[..., None], 0.5, targets[..., 1:])
    truth = torch.cat([truth[..., :2], truth[..., 2:].clamp(min=SMALLEST)], dim=-1)
    chosen = assign(truth, places)
    picked = raw.gather(1, chosen[..., None].expand(-1, -1, raw.shape[-1]))
    objects = _box_loss(picked, truth, chosen, places) + _class_loss(picked, targets[..., 0])
    with torch.no_grad():
        numbers = torch.arange(raw.shape[1], device=raw.device)
        holds = ((chosen[..., None] == numbers) & real[..., None]).any(dim=1)
        shared = overlap(corners(boxes_of(raw, places))[:, None], corners(truth)[:, :, None])
        near = torch.where(padding[..., None], 0.0, shared).amax(dim=1) > ignore
    presence = F.binary_cross_entropy_with_logits(raw[..., 4], holds.float(), reduction="none")
    per_image = (objects * real).sum(dim=1) + (presence * (holds | ~near)).sum(dim=1)
    return per_image.mean()


def assign(truth: Tensor, places: Places) -> Tensor:
    """The place [B, M] int64 of each object [B, M, 4] (cx, cy, w, h); the first of equals."""
    inside = (_cell(truth[..., None, :2], places.grids) == places.cells).all(dim=-1)
    sizes = truth[..., None, 2:]
    shared = torch.minimum(sizes, places.anchors).prod(dim=-1)
    shape = shared / (sizes.prod(dim=-1) + places.anchors.prod(dim=-1) - shared)
    return torch.where(inside, shape, -1.0).argmax(dim=-1)


def _cell(centres: Tensor, grids: Tensor) -> Tensor:
    """Column and row of the cell that holds a centre; the last one holds the image's far edge."""
    return torch.minimum((centres * grids).floor().clamp(min=0), grids - 1)


def _box_loss(picked: Tensor, truth: Tensor, chosen: Tensor, places: Places) -> Tensor:
    """[B, M]: how far the chosen places' raw values [B, M, 5 + C] are from their objects' boxes."""
    grids, cells = places.grids[chosen], places.cells[chosen]
    centres = truth[..., :2] * grids - cells
    sizes = (truth[..., 2:] / places.anchors[chosen]).log()
    off = F.binary_cross_entropy_with_logits(picked[..., :2], centres, reduction="none").sum(dim=-1)
    off = off + 0.5 * (picked[..., 2:4] - sizes).square().sum(dim=-1)
    return (2 - truth[..., 2:].prod(dim=-1)) * off


def _class_loss(picked: Tensor, classes: Tensor) -> Tensor:
    """[B, M]: binary cross-entropy of all classes, summed."""
    scores = picked[..., BOX:]
    wanted = (classes[..., None] == torch.arange(scores.shape[-1], device=scores.device)).float()
    return F.binary_cross_entropy_with_logits(scores, wanted, reduction="none").sum(dim=-1)
