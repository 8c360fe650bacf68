import math

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.data.views import FPL_VIEWS, VIEWS, apply_view, check_names, seen_shape
from harness.types import ConfigError

BLACK = torch.tensor([-0.5, 2.0])


def images(count: int = 32, side: int = 28) -> Tensor:
    return torch.rand(count, 2, side, side, generator=torch.Generator().manual_seed(1)) + 10


def see(name: str, inputs: Tensor, ids: Tensor) -> Tensor:
    return apply_view(name, inputs, ids=ids, black=BLACK, classes=ids % 7)


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_a_view_of_a_row_does_not_depend_on_its_batch(name: str) -> None:
    inputs, ids = images(), torch.arange(100, 132)
    whole = see(name, inputs, ids)
    assert tuple(whole.shape[1:]) == seen_shape(name, tuple(inputs.shape[1:]))
    some = torch.tensor([30, 2, 17])
    assert torch.equal(see(name, inputs[some], ids[some]), whole[some])


def test_the_five_of_the_paper_in_order() -> None:
    assert FPL_VIEWS == ("blur", "erase", "hflip", "vflip", "crop")


def test_flips_and_identity() -> None:
    inputs, ids = images(), torch.arange(32)
    assert torch.equal(see("identity", inputs, ids), inputs)
    assert torch.equal(see("hflip", inputs, ids)[:, :, :, 0], inputs[:, :, :, 27])
    assert torch.equal(see("vflip", inputs, ids)[:, :, 0], inputs[:, :, 27])


def test_few_classes_sees_a_fifth_of_them_and_noise_else() -> None:
    inputs, ids, classes = images(12), torch.arange(12), torch.arange(12) % 7
    got = apply_view("few_classes", inputs, ids=ids, black=BLACK, classes=classes)
    kept = torch.tensor([0, 5, 7])
    assert torch.equal(got[kept], inputs[kept])
    rest = torch.tensor([i for i in range(12) if i not in kept])
    assert torch.equal(got[rest], see("noise", inputs, ids)[rest])


def test_the_sensor_sees_means_of_rows_and_columns() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    got = see("sensor", image, torch.zeros(1, dtype=torch.long))
    assert got.tolist() == [[1.5, 5.5, 9.5, 4.0, 5.0, 6.0, 7.0]]


def test_blur_of_a_point_is_the_gaussian() -> None:
    point = torch.zeros(1, 2, 9, 9)
    point[0, :, 4, 4] = 1
    got = see("blur", point, torch.zeros(1, dtype=torch.long))
    line = np.exp(-(np.array([-2, -1, 0, 1, 2]) ** 2) / 2)
    line /= line.sum()
    np.testing.assert_allclose(got[0, 0, 2:7, 2:7], np.outer(line, line), atol=1e-7)
    assert got.sum().item() == pytest.approx(2, abs=1e-5)
    assert got[0, :, 0].abs().max() == 0


def test_blur_keeps_a_flat_image_up_to_its_border() -> None:
    flat = torch.full((2, 2, 6, 6), 3.0)
    torch.testing.assert_close(see("blur", flat, torch.arange(2)), flat)


def test_erase_blackens_one_box_of_the_given_sizes() -> None:
    inputs = images(400)
    got = see("erase", inputs, torch.arange(400))
    black = got == BLACK.view(1, 2, 1, 1)
    assert torch.equal(got[~black], inputs[~black])
    assert torch.equal(black[:, 0], black[:, 1])
    rows = black[:, 0].any(2).sum(1).double()
    columns = black[:, 0].any(1).sum(1).double()
    assert torch.equal(black[:, 0].sum((1, 2)).double(), rows * columns)
    assert rows.min() >= 1
    # Sides are rounded to whole pixels: each may be off by a half.
    assert ((rows + 0.5) * (columns + 0.5) >= 0.02 * 784).all()
    assert ((rows - 0.5) * (columns - 0.5) <= 0.33 * 784).all()
    assert ((rows + 0.5) / (columns - 0.5) >= 0.3).all()
    assert ((rows - 0.5) / (columns + 0.5) <= 3.3).all()
    area = (rows * columns / 784).mean().item()
    assert area == pytest.approx((0.02 + 0.33) / 2, abs=0.02)
    ratio = (rows / columns).log().mean().item()
    assert ratio == pytest.approx(math.log(0.3 * 3.3) / 2, abs=0.1)


def test_crop_shifts_by_up_to_four_and_pads_black() -> None:
    inputs = images(500)
    got = see("crop", inputs, torch.arange(500))
    padded = BLACK.view(1, 2, 1, 1).repeat(500, 1, 36, 36)
    padded[:, :, 4:32, 4:32] = inputs
    windows = [padded[:, :, y : y + 28, x : x + 28] for y in range(9) for x in range(9)]
    matches = torch.stack([(window == got).flatten(1).all(1) for window in windows])
    assert (matches.sum(0) == 1).all()  # each image is one of the 81 windows
    assert matches.any(1).sum() > 75


@pytest.mark.parametrize("name", ["erase", "crop"])
def test_rows_get_draws_of_their_own(name: str) -> None:
    one = images(1).repeat(50, 1, 1, 1)
    got = see(name, one, torch.arange(50))
    assert len({row.numpy().tobytes() for row in got}) > 28
    assert torch.equal(got, see(name, one, torch.arange(50)))


def test_unknown_view() -> None:
    with pytest.raises(ConfigError, match=r"partition.views: unknown view 'vfilp'; did you mean vflip\?"):
        check_names(["crop", "vfilp"])


def test_noise_shows_nothing_of_the_image() -> None:
    """Uniform of mean 0 and variance 1: within sqrt(3) of 0, whatever the image."""
    ids = torch.arange(200)
    got = see("noise", images(200), ids)
    assert torch.equal(got, see("noise", torch.zeros(200, 2, 28, 28), ids))
    assert float(got.abs().max()) <= math.sqrt(3)
    assert float(got.mean()) == pytest.approx(0, abs=0.01)
    assert float(got.var()) == pytest.approx(1, abs=0.01)
