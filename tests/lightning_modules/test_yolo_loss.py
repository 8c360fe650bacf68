"""The loss on cases done by hand: every logit 0 costs ln 2."""

import math

import pytest
import torch
from torch import Tensor

from lightning_modules.yolo_decode import places_of
from lightning_modules.yolo_loss import assign, yolo_loss

LN2 = math.log(2)
SQUARE = places_of([torch.zeros(1, 6, 2, 2)], [[(0.5, 0.5)]])
"""Four cells, one anchor that fills its cell, one class."""
OBJECT = [0.0, 0.25, 0.25, 0.5, 0.5]
"""Class 0, exactly the first cell."""
PADDING = [-1.0, 0.0, 0.0, 0.0, 0.0]


def loss_of(*images: list[list[float]], raw: Tensor | None = None, ignore: float = 0.5) -> float:
    raw = torch.zeros(len(images), 4, 6) if raw is None else raw
    return float(yolo_loss(raw, SQUARE, torch.tensor(images), ignore=ignore))


def test_an_object_that_fits_its_place() -> None:
    """Centre 2 ln 2, weighted by 2 - 1/4; size 0; its class and four objectnesses ln 2 each."""
    assert loss_of([OBJECT]) == pytest.approx((1.75 * 2 + 1 + 4) * LN2)


def test_an_empty_image_and_padding() -> None:
    assert loss_of([PADDING]) == pytest.approx(4 * LN2)
    assert loss_of([OBJECT, PADDING, PADDING]) == pytest.approx(loss_of([OBJECT]))
    assert float(yolo_loss(torch.zeros(1, 4, 6), SQUARE, torch.zeros(1, 0, 5))) == pytest.approx(4 * LN2)


def test_mean_over_images() -> None:
    both = loss_of([OBJECT], [PADDING])
    assert both == pytest.approx((loss_of([OBJECT]) + loss_of([PADDING])) / 2)


def test_sizes_are_log_ratios_and_small_boxes_weigh_more() -> None:
    small = [0.0, 0.25, 0.25, 0.25, 0.125]
    sizes = 0.5 * (math.log(0.5) ** 2 + math.log(0.25) ** 2)
    assert loss_of([small]) == pytest.approx((2 - 1 / 32) * (2 * LN2 + sizes) + 5 * LN2)


def test_right_answers_cost_nothing() -> None:
    raw = torch.full((1, 4, 6), -30.0)
    raw[0, 0] = torch.tensor([0.0, 0.0, 0.0, 0.0, 30.0, 30.0])
    # The entropy of a centre in the middle of its cell stays.
    assert loss_of([OBJECT], raw=raw) == pytest.approx(1.75 * 2 * LN2, rel=1e-5)


def test_a_near_miss_is_not_told_to_be_empty() -> None:
    """The second place's box, moved to the middle, overlaps the object by 1/3."""
    raw = torch.zeros(1, 4, 6)
    raw[0, 1, 0] = -30.0
    assert loss_of([OBJECT], raw=raw, ignore=0.34) == pytest.approx(8.5 * LN2)
    assert loss_of([OBJECT], raw=raw, ignore=0.33) == pytest.approx(7.5 * LN2)
    raw.requires_grad_()
    yolo_loss(raw, SQUARE, torch.tensor([[OBJECT]]), ignore=0.33).backward()
    assert raw.grad is not None
    assert raw.grad[0, :, 4].tolist() == [-0.5, 0.0, 0.5, 0.5]


def test_a_difficult_object_trains_nothing_and_forgives() -> None:
    """The first place overlaps it entirely: three objectnesses are left."""
    assert loss_of([[-2.0, *OBJECT[1:]]]) == pytest.approx(3 * LN2)
    assert loss_of([[-3.0, 0.75, 0.75, 0.1, 0.1]]) == pytest.approx(4 * LN2)


def test_two_objects_in_one_place_both_pull() -> None:
    raw = torch.zeros(1, 4, 6, requires_grad=True)
    apart = [[0.0, 0.125, 0.25, 0.5, 0.5], [0.0, 0.375, 0.25, 0.5, 0.5]]  # a quarter left and right
    yolo_loss(raw, SQUARE, torch.tensor([apart])).backward()
    assert raw.grad is not None
    assert raw.grad[0, 0].tolist() == pytest.approx([0, 0, 0, 0, -0.5, -1])


def test_the_best_shape_of_all_heads_gets_the_object() -> None:
    """Heads of 1 and 4 cells, two anchors each; index: head, anchor, row, column."""
    heads = [torch.zeros(1, 12, 1, 1), torch.zeros(1, 12, 2, 2)]
    places = places_of(heads, [[(0.9, 0.9), (0.9, 0.3)], [(0.2, 0.2), (0.1, 0.4)]])
    truth = [[0.5, 0.5, 0.8, 0.8], [0.1, 0.1, 1.0, 0.3], [0.9, 0.1, 0.2, 0.2], [0.1, 0.9, 0.1, 0.5]]
    truth += [[1.0, 1.0, 0.1, 0.1], [0.0, 0.0, 0.2, 0.2]]  # the edges belong to the cells beside them
    assert assign(torch.tensor([truth]), places).tolist() == [[0, 1, 3, 8, 5, 2]]


def test_classes_are_independent() -> None:
    places = places_of([torch.zeros(1, 8, 1, 1)], [[(1.0, 1.0)]])
    raw = torch.zeros(1, 1, 8, requires_grad=True)
    yolo_loss(raw, places, torch.tensor([[[2.0, 0.5, 0.5, 1.0, 1.0]]])).backward()
    assert raw.grad is not None
    assert raw.grad[0, 0].tolist() == pytest.approx([0, 0, 0, 0, -0.5, 0.5, 0.5, -0.5])


def test_a_flat_object_has_a_finite_loss() -> None:
    raw = torch.zeros(1, 4, 6, requires_grad=True)
    loss = yolo_loss(raw, SQUARE, torch.tensor([[[0.0, 0.5, 0.5, 0.0, 0.3]]]))
    loss.backward()
    assert loss.isfinite()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
