"""Schedules on plateaus, and extractors out of whole networks."""

from pathlib import Path

import pytest
import torch
from torch import nn

from harness.learning.transfer import Plateau, load_extractor
from harness.types import ConfigError
from lightning_modules.resnet import Extractor, resnet


def test_plateaus_are_those_of_torch() -> None:
    parameter = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.1, patience=10)
    ours = Plateau()
    generator = torch.Generator().manual_seed(0)
    factors = []
    for step in range(80):
        # Better for a while, then noise below what was reached.
        value = min(step, 20) / 40 + float(torch.rand((), generator=generator)) * (
            0.001 if step < 20 else -0.1
        )
        theirs.step(value)
        ours.observe(value)
        factors.append(ours.factor)
        assert ours.factor == pytest.approx(optimizer.param_groups[0]["lr"])
    assert len(set(factors)) > 3


def test_an_extractor_is_found_by_the_ends_of_names() -> None:
    whole = resnet(8, (3, 8, 8), 4)
    extractor = Extractor((3, 8, 8))
    state = {f"network.{name}": value for name, value in whole.state_dict().items()}
    load_extractor(extractor, state, source=Path("x.pt"))
    for name, value in extractor.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, whole.state_dict()[name])


def test_two_candidates_are_none() -> None:
    whole = resnet(8, (3, 8, 8), 4).state_dict()
    twice = {f"{copy}.{name}": value for copy in "ab" for name, value in whole.items()}
    with pytest.raises(ConfigError, match=r"method.init_extractor=x.pt: has no weights called stem.bn.bias"):
        load_extractor(Extractor((3, 8, 8)), twice, source=Path("x.pt"))
