"""Boxes and suppression on cases small enough to do by hand, and against a plain loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_modules.yolo_decode import (
    boxes_of,
    corners,
    detections,
    flatten,
    keep_best,
    overlap,
    places_of,
)

HALF, QUARTER = (0.5, 0.5), (0.25, 0.25)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def raw_place(*classes: float, objectness: float = 1 - 1e-9, centre: float = 0.5) -> list[float]:
    """Raw values of a place at its anchor's size: probabilities given."""
    return [logit(centre), logit(centre), 0.0, 0.0, logit(objectness), *map(logit, classes)]


def test_places_and_raw_values_have_one_order() -> None:
    """Head, anchor, row, column; a head of 2 rows and 3 columns with two anchors, one of a single cell."""
    wide = torch.zeros(1, 2 * 6, 2, 3)
    wide[0, 6 + 4, 1, 2] = 7.0  # objectness of the second anchor, last row, last column
    places = places_of([wide, torch.zeros(1, 12, 1, 1)], [[HALF, QUARTER], [HALF, (0.1, 0.2)]])
    assert places.cells[:6].tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
    assert places.cells[6:12].equal(places.cells[:6])
    assert places.grids.tolist() == 12 * [[3, 2]] + 2 * [[1, 1]]
    assert places.anchors[[0, 6, 12]].tolist() == [[0.5, 0.5], [0.25, 0.25], [0.5, 0.5]]
    assert places.anchors[13].tolist() == pytest.approx([0.1, 0.2])
    raw = flatten([wide, torch.zeros(1, 12, 1, 1)], num_classes=1)
    assert raw.shape == (1, 14, 6)
    assert raw.nonzero().tolist() == [[0, 11, 4]]


def test_boxes_by_hand() -> None:
    places = places_of([torch.zeros(1, 6, 2, 2)], [[(0.5, 0.25)]])
    raw = torch.zeros(4, 6)
    raw[1, :4] = torch.tensor([logit(0.25), logit(0.75), math.log(2), math.log(0.5)])
    raw[2, 2] = 1e6
    found = boxes_of(raw, places)
    assert found[0].tolist() == pytest.approx([0.25, 0.25, 0.5, 0.25])
    assert found[1].tolist() == pytest.approx([(0.25 + 1) / 2, 0.75 / 2, 1.0, 0.125])
    assert found[2, 2] == pytest.approx(500, rel=1e-4)  # a thousand anchors, not infinitely many
    assert corners(found[:1]).tolist() == [pytest.approx([0.0, 0.125, 0.5, 0.375])]


def test_overlap_by_hand() -> None:
    box = torch.tensor([0.0, 0.0, 0.5, 0.5])
    others = torch.tensor([[0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5], [0.5, 0.5, 1, 1], [0.1, 0.1, 0.1, 0.1]])
    assert overlap(box, others).tolist() == pytest.approx([1, 1 / 3, 0, 0])
    assert overlap(torch.zeros(4), torch.zeros(4)) == 0


def test_suppression_by_hand() -> None:
    """The second goes by the first; the third overlaps only the second, now gone; another class stays."""
    boxes = torch.tensor([[0, 0, 4, 1], [1, 0, 5, 1], [2, 0, 6, 1], [0, 0, 4, 1]]).float()[None]
    classes, wanted = torch.tensor([[0, 0, 0, 1]]), torch.ones(1, 4, dtype=torch.bool)
    # Neighbours share 3 of 5, the first and the third 2 of 6.
    assert keep_best(boxes, classes, wanted, threshold=0.5).tolist() == [[True, False, True, True]]
    assert keep_best(boxes, classes, wanted, threshold=0.7).tolist() == [[True, True, True, True]]
    wanted[0, 0] = False  # what is not wanted suppresses nothing
    assert keep_best(boxes, classes, wanted, threshold=0.5).tolist() == [[False, True, False, True]]


def slow_keep(boxes: Tensor, classes: list[int], threshold: float) -> list[bool]:
    kept: list[int] = []
    for i in range(len(boxes)):
        rivals = [j for j in kept if classes[j] == classes[i]]
        if all(float(overlap(boxes[i], boxes[j])) <= threshold for j in rivals):
            kept.append(i)
    return [i in kept for i in range(len(boxes))]


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.1, 0.45, 0.9]))
def test_suppression_equals_a_plain_loop(seed: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(2, 12, 2, generator=generator)
    boxes = torch.cat([low, low + 0.1 + torch.rand(2, 12, 2, generator=generator)], dim=-1)
    classes = torch.randint(2, (2, 12), generator=generator)
    kept = keep_best(boxes, classes, torch.ones(2, 12, dtype=torch.bool), threshold=threshold)
    for image in range(2):
        assert kept[image].tolist() == slow_keep(boxes[image], classes[image].tolist(), threshold)


def test_detections_by_hand() -> None:
    """Two anchors in one cell see the same object; a place may speak for two classes; the rest is padding."""
    places = places_of([torch.zeros(2, 2 * 7, 1, 2)], [[(0.5, 0.5), (0.5, 0.45)]])
    nothing = raw_place(0.5, 0.5, objectness=1e-6)
    first = [raw_place(0.9, 0.01), raw_place(0.001, 0.001), raw_place(0.8, 0.02), raw_place(0.3, 0.6)]
    found = detections(torch.tensor([first, 4 * [nothing]]), places, most=5, least_score=0.015)
    assert found.shape == (2, 5, 6)
    assert found[0, :, :2].flatten().tolist() == pytest.approx(
        [0, 0.9, 1, 0.6, 0, 0.3, 1, 0.02, 0, 0], abs=1e-6
    )
    assert found[0, 0, 2:].tolist() == pytest.approx([0, 0.25, 0.5, 0.75])
    assert found[0, 1, 2:].tolist() == pytest.approx([0.5, 0.275, 1.0, 0.725])
    assert not found[0, 4].any()
    assert not found[1].any()


def test_no_more_than_asked_for_and_boxes_end_at_the_edge() -> None:
    places = places_of([torch.zeros(1, 6, 4, 4)], [[(0.9, 0.1)]])
    raw = torch.tensor([[raw_place(0.5 + place / 100) for place in range(16)]])
    found = detections(raw, places, most=3)
    # Within a row the last covers 0.425 to 1: it drops the third (0.175 to 1), not the second (0 to 0.825).
    assert found[0, :, 1].tolist() == pytest.approx([0.65, 0.63, 0.61], abs=1e-6)
    assert found[..., 2:].min() >= 0
    assert found[..., 2:].max() <= 1
    assert detections(raw, places, most=20, candidates=2)[0, :, 1].count_nonzero() == 1
