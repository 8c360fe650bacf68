"""Average precision of detections at one overlap, by the rule of PASCAL VOC 2010 and later.

Everingham et al., "The PASCAL Visual Object Classes (VOC) challenge", IJCV 2010, section
4.2; all-point interpolation since 2010 (development kit, VOCevaldet.m).

Letters: K detections, M true boxes, R detections of one class over all images.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

OVERLAP = 0.5
"""A detection is right from this intersection over union."""


class Found(NamedTuple):
    """The detections in one image, and what is there."""

    detections: Floats
    """[K, 6] rows (class, score, x1, y1, x2, y2); rows with score 0 are no detections."""
    truths: Floats
    """[M, 5] rows (class, cx, cy, w, h); class -1: no box; -2 - c: a difficult box of class c."""


def corners(boxes: Floats) -> Floats:
    """[M, 4] (cx, cy, w, h) -> (x1, y1, x2, y2)."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def overlaps(left: Floats, right: Floats) -> Floats:
    """[K, M] intersection over union of boxes [K, 4] and [M, 4], (x1, y1, x2, y2); 0 where both are empty."""
    low = np.maximum(left[:, None, :2], right[None, :, :2])
    high = np.minimum(left[:, None, 2:], right[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (left, right)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    found: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found


def mean_average_precision(images: Sequence[Found], *, num_classes: int, overlap: float = OVERLAP) -> float:
    """Mean of `average_precision` over the classes that have a box to be found; 0 where no class has."""
    found = []
    for label in range(num_classes):
        scores, hits, num_truths = judge(images, label=label, overlap=overlap)
        if num_truths:
            found.append(average_precision(scores, hits, num_truths=num_truths))
    return float(np.mean(found)) if found else 0.0


def judge(images: Sequence[Found], *, label: int, overlap: float) -> tuple[Floats, NDArray[np.bool_], int]:
    """Scores [R], which detections are right [R], and how many boxes of the class there are to be found.

    A detection belongs to the true box of its class that it overlaps most. Of those that overlap a box
    enough, the best-scored one is right and the others are wrong; those of a difficult box are left out.
    """
    scores: list[Floats] = [np.empty(0)]
    owner: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    num_truths = offset = 0
    for detections, truths in images:
        mine = detections[(detections[:, 0] == label) & (detections[:, 1] > 0)].astype(np.float64)
        boxes = truths[(truths[:, 0] == label) | (truths[:, 0] == -2 - label)].astype(np.float64)
        difficult = boxes[:, 0] < 0
        num_truths += int((~difficult).sum())
        where = np.full(len(mine), -1)
        if len(boxes) and len(mine):
            shared = overlaps(mine[:, 2:], corners(boxes[:, 1:]))
            best = shared.argmax(axis=1)
            enough = shared.max(axis=1) >= overlap
            where = np.where(enough, best + offset, -1)
            skipped = enough & difficult[best]
            mine, where = mine[~skipped], where[~skipped]
        scores.append(mine[:, 1])
        owner.append(where)
        offset += len(boxes)
    return _first_of_each(np.concatenate(scores), np.concatenate(owner), num_truths)


def _first_of_each(
    scores: Floats, owner: NDArray[np.int64], num_truths: int
) -> tuple[Floats, NDArray[np.bool_], int]:
    """Right is the best-scored detection of each box (`owner` >= 0); of equal scores the first."""
    order = np.argsort(-scores, kind="stable")
    scores, owner = scores[order], owner[order]
    boxes, first = np.unique(owner, return_index=True)
    hits = np.zeros(len(scores), np.bool_)
    hits[first[boxes >= 0]] = True
    return scores, hits, num_truths


def average_precision(scores: Floats, hits: NDArray[np.bool_], *, num_truths: int) -> float:
    """Area under precision over recall, precision made monotone: at each recall the best one from there on.

    `scores` [R] and `hits` [R] need no order; `num_truths` >= 1.
    """
    right = np.cumsum(hits[np.argsort(-scores, kind="stable")])
    precision = right / np.arange(1, len(hits) + 1)
    recall = right / num_truths
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())
