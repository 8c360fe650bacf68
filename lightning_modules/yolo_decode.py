"""From YOLOv3's raw outputs to boxes, and from many boxes to a few: pure functions.

Redmon, Farhadi, "YOLOv3: an incremental improvement", arXiv 1804.02767, 2018, section 2.1 (what an output
means). Non-maximum suppression is the greedy one, per class.

All run on the meta device too, and give the same for the same on any device: sorting is stable.

Shape letters: B images, H heads, A anchors per head, N places (all anchors in all cells of all heads),
C classes, K boxes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

BOX: Final = 5
"""Numbers of a place before those of its classes: x, y, w, h, objectness."""
LARGEST: Final = math.log(1000.0)
"""A box is at most exp(this) times its anchor, so that a bad training step does not overflow."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the N predictions for an image lie, in order of head, anchor, row and column."""

    cells: Tensor
    """[N, 2] float32: column and row of the cell."""
    grids: Tensor
    """[N, 2] float32: columns and rows of the head."""
    anchors: Tensor
    """[N, 2] float32: width and height of the anchor, as parts of the image's."""


def places_of(outputs: Sequence[Tensor], anchors: Sequence[Sequence[tuple[float, float]]]) -> Places:
    """Places of H raw outputs [B, A (5 + C), rows, columns]; each head's A anchors are parts of the image."""
    cells, grids, sizes = [], [], []
    for output, own in zip(outputs, anchors, strict=True):
        rows, columns = output.shape[2:]
        number = torch.arange(rows * columns, device=output.device)
        cells.append(torch.stack([number % columns, number // columns], dim=1).float().repeat(len(own), 1))
        grids.append(torch.tensor([[columns, rows]], device=output.device).float().expand_as(cells[-1]))
        sizes.append(torch.tensor(own, device=output.device).repeat_interleave(rows * columns, dim=0))
    return Places(cells=torch.cat(cells), grids=torch.cat(grids), anchors=torch.cat(sizes))


def flatten(outputs: Sequence[Tensor], num_classes: int) -> Tensor:
    """Raw outputs [B, A (5 + C), rows, columns] of heads as float32 [B, N, 5 + C], ordered as `Places`."""
    flat = []
    for output in outputs:
        batch, _, rows, columns = output.shape
        split = output.view(batch, -1, BOX + num_classes, rows, columns)
        flat.append(split.permute(0, 1, 3, 4, 2).reshape(batch, -1, BOX + num_classes).float())
    return torch.cat(flat, dim=1)


def boxes_of(raw: Tensor, places: Places) -> Tensor:
    """Boxes [..., N, 4] (cx, cy, w, h), as parts of the image, of raw values [..., N, 5 + C].

    Centre: (sigmoid(t) + cell) / grid; size: anchor * exp(t).
    """
    centres = (raw[..., 0:2].sigmoid() + places.cells) / places.grids
    return torch.cat([centres, places.anchors * raw[..., 2:4].clamp(max=LARGEST).exp()], dim=-1)


def corners(boxes: Tensor) -> Tensor:
    """(cx, cy, w, h) to (x1, y1, x2, y2), both [..., 4]."""
    centres, halves = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centres - halves, centres + halves], dim=-1)


def overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (x1, y1, x2, y2), broadcast over [..., 4]; 0 where both are empty."""
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(b[..., 2:] - b[..., :2]).prod(dim=-1) for b in (boxes, others)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-12)


def detections(
    raw: Tensor,
    places: Places,
    *,
    most: int = 100,
    least_score: float = 0.005,
    overlap_threshold: float = 0.45,
    candidates: int = 300,
) -> Tensor:
    """Rows (class, score, x1, y1, x2, y2) [B, most, 6], best first, of raw values [B, N, 5 + C].

    A score is objectness times class probability; a place may speak for several classes. Of the best
    `candidates` pairs of place and class of each image, those below `least_score` and those that
    suppression drops are gone: rows of zeros fill up. Boxes are cut at the image's edge.
    """
    scores = raw[..., 4:5].sigmoid() * raw[..., BOX:].sigmoid()
    num_classes = scores.shape[-1]
    ordered, order = scores.flatten(1).sort(dim=1, descending=True, stable=True)
    ordered, order = ordered[:, :candidates], order[:, :candidates]
    boxes = corners(boxes_of(raw, places)).clamp(0, 1)
    boxes = boxes.gather(1, (order // num_classes)[..., None].expand(-1, -1, 4))
    kept = keep_best(boxes, order % num_classes, ordered >= least_score, threshold=overlap_threshold)
    rows = torch.cat([torch.stack([order % num_classes, ordered], dim=-1), boxes], dim=-1)
    rows = rows * kept[..., None]
    front = kept.int().sort(dim=1, descending=True, stable=True).indices[:, :most]
    rows = rows.gather(1, front[..., None].expand(-1, -1, rows.shape[-1]))
    return F.pad(rows, (0, 0, 0, most - rows.shape[1]))


def keep_best(boxes: Tensor, classes: Tensor, wanted: Tensor, *, threshold: float) -> Tensor:
    """Greedy non-maximum suppression: which [B, K] bool of `boxes` [B, K, 4], given best first, stay.

    A wanted box goes if it overlaps a better one that stays, of its own class [B, K], by more than
    `threshold`.
    """
    same = classes[:, :, None] == classes[:, None, :]
    beats = same & (overlap(boxes[:, :, None], boxes[:, None, :]) > threshold)
    kept = wanted.clone()
    for one in range(boxes.shape[1] - 1):
        kept[:, one + 1 :] &= ~(beats[:, one, one + 1 :] & kept[:, one, None])
    return kept
