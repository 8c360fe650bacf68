from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.data.precision import Found, average_precision, corners, judge, mean_average_precision, overlaps


def found(detections: Sequence[Sequence[float]], truths: Sequence[Sequence[float]]) -> Found:
    """Rows (class, score, x1, y1, x2, y2), and (class, x1, y1, x2, y2) turned into centre and size."""
    given = np.array(truths, np.float64).reshape(-1, 5)
    centred = np.concatenate(
        [given[:, :1], (given[:, 1:3] + given[:, 3:]) / 2, given[:, 3:] - given[:, 1:3]], axis=1
    )
    return Found(np.array(detections, np.float64).reshape(-1, 6), centred)


LEFT, RIGHT = (0.0, 0.0, 0.4, 1.0), (0.6, 0.0, 1.0, 1.0)


def test_overlaps() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6], [7, 7, 7, 7]], float)
    shared = overlaps(boxes, boxes)
    # Two squares of 4 share 1 of 7.
    assert shared[0, 1] == pytest.approx(1 / 7)
    assert shared[0, 2] == 0
    assert shared.diagonal().tolist() == [1, 1, 1, 0]


def test_corners() -> None:
    assert corners(np.array([[0.5, 0.5, 0.2, 0.4]])).tolist() == [pytest.approx([0.4, 0.3, 0.6, 0.7])]


def test_area_under_the_monotone_curve() -> None:
    # Precision 1, 1/2, 2/3, 1/2 at recall 1/3, 1/3, 2/3, 2/3; made monotone 1, 2/3, 2/3, 1/2.
    scores, hits = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(scores, hits, num_truths=3) == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    # Order does not matter; VOC 2007's eleven points would give (4 * 1 + 3 * 2/3) / 11 instead.
    back = average_precision(scores[::-1], hits[::-1], num_truths=3)
    assert back == pytest.approx(5 / 9)
    assert average_precision(np.empty(0), np.empty(0, np.bool_), num_truths=2) == 0


def test_only_the_best_detection_of_a_box_is_right() -> None:
    images = [found([(0, 0.5, *LEFT), (0, 0.9, *LEFT), (0, 0.7, *RIGHT)], [(0, *LEFT), (0, *RIGHT)])]
    scores, hits, num_truths = judge(images, label=0, overlap=0.5)
    assert (scores.tolist(), hits.tolist(), num_truths) == ([0.9, 0.7, 0.5], [True, True, False], 2)


def test_a_detection_belongs_to_the_box_it_overlaps_most() -> None:
    # Both overlap the one box more than the other: the second is wrong though the other box is free.
    wide, narrow = (0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 0.6, 1.0)
    images = [found([(0, 0.9, *wide), (0, 0.8, *wide)], [(0, *wide), (0, *narrow)])]
    assert judge(images, label=0, overlap=0.5)[1].tolist() == [True, False]


def test_an_overlap_of_exactly_a_half_is_enough() -> None:
    images = [found([(0, 0.9, 0, 0, 0.5, 1)], [(0, 0, 0, 1, 1)])]
    assert mean_average_precision(images, num_classes=1) == 1
    assert mean_average_precision(images, num_classes=1, overlap=0.51) == 0


def test_a_difficult_box_is_neither_counted_nor_penalised() -> None:
    easy = found([(0, 0.9, *LEFT)], [(0, *LEFT)])
    difficult = found([(0, 0.95, *RIGHT), (0, 0.94, *RIGHT)], [(-2, *RIGHT)])
    assert mean_average_precision([easy, difficult], num_classes=1) == 1
    # Without the difficult box the two would be wrong: precision 1/3 at recall 1.
    nothing = found([(0, 0.95, *RIGHT), (0, 0.94, *RIGHT)], [])
    assert mean_average_precision([easy, nothing], num_classes=1) == pytest.approx(1 / 3)


def test_the_mean_runs_over_classes_that_are_there() -> None:
    images = [found([(0, 0.9, *LEFT), (2, 0.9, *RIGHT)], [(0, *LEFT), (1, *RIGHT), (-1, *LEFT)])]
    # Class 0 is found, class 1 is not, class 2 does not exist, and a row of -1 is no box.
    assert mean_average_precision(images, num_classes=3) == pytest.approx(1 / 2)
    assert mean_average_precision([found([(0, 0.9, *LEFT)], [])], num_classes=3) == 0


def test_rows_without_a_score_are_no_detections() -> None:
    images = [found([(0, 0.9, *LEFT), (0, 0.0, *RIGHT)], [(0, *LEFT)])]
    assert judge(images, label=0, overlap=0.5)[1].tolist() == [True]


def voc_loop(images: Sequence[Found], label: int) -> float:
    """VOCevaldet.m of the development kit 2012, line by line: the slow twin."""
    truths = [
        [
            (box, row[0] < 0)
            for row, box in zip(t, corners(t[:, 1:]), strict=True)
            if row[0] in (label, -2 - label)
        ]
        for _, t in images
    ]
    taken = [[False] * len(t) for t in truths]
    num = sum(not difficult for t in truths for _, difficult in t)
    if not num:
        return float("nan")
    all_found = [
        (row[1], i, row[2:]) for i, (d, _) in enumerate(images) for row in d if row[0] == label and row[1] > 0
    ]
    all_found.sort(key=lambda one: -one[0])
    tp, fp = [], []
    for _, image, box in all_found:
        best, where = -np.inf, -1
        for j, (truth, _) in enumerate(truths[image]):
            shared = float(overlaps(np.array([box]), np.array([truth]))[0, 0])
            if shared > best:
                best, where = shared, j
        hit = miss = 0
        if best >= 0.5:
            if not truths[image][where][1]:
                hit, miss = (0, 1) if taken[image][where] else (1, 0)
                taken[image][where] = True
        else:
            miss = 1
        tp.append(hit)
        fp.append(miss)
    right, wrong = np.cumsum(tp), np.cumsum(fp)
    recall = [0.0, *(right / num), 1.0]
    precision = [
        0.0,
        *np.divide(right, right + wrong, out=np.zeros(len(right)), where=right + wrong > 0),
        0.0,
    ]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


def scene(rng: np.random.Generator) -> Found:
    def boxes(count: int) -> NDArray[np.float64]:
        low = rng.integers(0, 4, (count, 2)) / 8
        return np.concatenate([low, low + rng.integers(2, 5, (count, 2)) / 8], axis=1)

    k, m = rng.integers(0, 6), rng.integers(0, 4)
    detections = np.concatenate([rng.integers(0, 2, (k, 1)), rng.random((k, 1)), boxes(k)], axis=1)
    corner = boxes(m)
    centred = np.concatenate([(corner[:, :2] + corner[:, 2:]) / 2, corner[:, 2:] - corner[:, :2]], axis=1)
    return Found(detections, np.concatenate([rng.choice([0, 1, -2, -3, -1], (m, 1)), centred], axis=1))


@given(st.integers(0, 2**32 - 1))
def test_it_equals_the_loop_of_the_development_kit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [scene(rng) for _ in range(3)]
    wanted = [voc_loop(images, label) for label in (0, 1)]
    present = [value for value in wanted if not np.isnan(value)]
    got = mean_average_precision(images, num_classes=2)
    assert got == pytest.approx(np.mean(present) if present else 0.0)
