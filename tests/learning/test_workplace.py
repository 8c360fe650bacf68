"""What the clients of a process share, and what they must not."""

import os

import pytest
import torch
from local_run import Points, make_place
from torch import nn

from lightning_modules.classifier import Classifier


def build() -> Classifier:
    return Classifier(nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(3, 2)))


def weights(module: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(p.contiguous() for p in module.parameters()).detach()


def test_a_process_holds_each_network_once() -> None:
    place = make_place()
    assert place.module("full", build) is place.module("full", lambda: pytest.fail("built twice"))
    assert place.module("half", build) is not place.module("full", build)


def test_initial_weights_depend_on_seed_and_purpose_alone() -> None:
    def initial(seed: int = 0, **words: str) -> torch.Tensor:
        torch.rand(1)  # whatever happened before
        return weights(make_place(f"run.seed={seed}").initial(build, **words))

    assert torch.equal(initial(), initial())
    assert not torch.equal(initial(), initial(1))
    assert not torch.equal(initial(), initial(purpose="other"))


def test_building_networks_leaves_torchs_generator_alone() -> None:
    place, before = make_place(), torch.random.get_rng_state()
    place.module("full", build)
    place.initial(build)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("channels_last", [True, False])
def test_networks_are_laid_out_as_configured(channels_last: bool) -> None:
    place = make_place(f"runtime.channels_last={str(channels_last).lower()}")
    for module in (place.module("full", build), place.initial(build)):
        kernel = next(module.parameters())
        assert kernel.is_contiguous(memory_format=torch.channels_last) is channels_last


def test_results_are_deterministic_on_whatever_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    make_place()
    assert torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    make_place("runtime.accelerator=auto")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    make_place("runtime.accelerator=auto")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_splits_need_data() -> None:
    with pytest.raises(AssertionError, match="built without data"):
        make_place(task=Points()).split("val")
