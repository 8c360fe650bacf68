import pytest
import torch
from torch import Tensor

from harness.data.augment import AUGMENTATIONS, augment, check_names
from harness.types import ConfigError

BLACK = torch.tensor([-1.0, -2.0])


def batch(size: int = 64, side: int = 32) -> Tensor:
    """Two channels; no two pixels of an example are equal, none is black."""
    pixels = torch.arange(1, side * side + 1.0).view(1, 1, side, side)
    return pixels.repeat(size, 2, 1, 1) + torch.tensor([0.0, 5000.0]).view(1, 2, 1, 1)


def run(*names: str, inputs: Tensor | None = None, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return augment(batch() if inputs is None else inputs, names=names, generator=generator, black=BLACK)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_seeded_and_per_example(name: str) -> None:
    inputs = batch()
    kept = inputs.clone()
    got = run(name, inputs=inputs)
    assert torch.equal(inputs, kept)
    assert got.shape == inputs.shape
    assert got.dtype == inputs.dtype
    assert torch.equal(got, run(name))
    assert not torch.equal(got, run(name, seed=1))
    assert any(not torch.equal(got[0], other) for other in got)


def test_no_names_is_the_identity_and_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    assert torch.equal(augment(batch(), names=(), generator=generator, black=BLACK), batch())
    assert torch.equal(generator.get_state(), state)


def test_order_matters() -> None:
    assert not torch.equal(run("crop", "hflip"), run("hflip", "crop"))


def test_hflip_mirrors_about_half() -> None:
    inputs = batch(400)
    got = run("hflip", inputs=inputs)
    same = torch.tensor([torch.equal(a, b) for a, b in zip(got, inputs, strict=True)])
    mirrored = torch.tensor([torch.equal(a, b.flip(2)) for a, b in zip(got, inputs, strict=True)])
    assert (same ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_crop_is_a_window_of_the_padded_image() -> None:
    inputs = batch(600, side=12)
    got = run("crop", inputs=inputs)
    padded = BLACK.view(1, 2, 1, 1).repeat(600, 1, 20, 20)
    padded[:, :, 4:16, 4:16] = inputs
    windows = [padded[:, :, y : y + 12, x : x + 12] for y in range(9) for x in range(9)]
    matches = torch.stack([(window == got).flatten(1).all(1) for window in windows])
    assert (matches.sum(0) == 1).all()
    assert matches.any(1).all()  # all 81 places are drawn


def test_cutout_blanks_one_square_in_all_channels() -> None:
    inputs = batch(200)
    got = run("cutout", inputs=inputs)
    gone = got == 0
    assert torch.equal(got[~gone], inputs[~gone])
    assert torch.equal(gone[:, 0], gone[:, 1])
    rows, columns = gone[:, 0].any(2).sum(1), gone[:, 0].any(1).sum(1)
    assert torch.equal(gone[:, 0].sum((1, 2)), rows * columns)
    # Full inside, cut off where the centre is near the border.
    assert rows.max() == columns.max() == 16
    assert rows.min() >= 8
    assert ((rows < 16) | (columns < 16)).any()


def test_unknown_name() -> None:
    check_names(["crop", "hflip", "cutout"])
    with pytest.raises(
        ConfigError, match=r"task.augment: unknown augmentation 'cutuot'; did you mean cutout\?"
    ):
        check_names(["crop", "cutuot"])
