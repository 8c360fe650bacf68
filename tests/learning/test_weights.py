"""A network's state on its way out and in."""

import lightning as L
import pytest
import torch
from torch import nn

from harness.learning.weights import load_state, meta, snapshot, state_of


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    return net.to(memory_format=torch.channels_last)


def test_parameters_and_statistics_travel_and_step_counters_do_not() -> None:
    assert list(state_of(network())) == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "3.weight",
        "3.bias",
        "1.running_mean",
        "1.running_var",
    ]


def test_state_of_is_a_view_without_gradients_and_a_snapshot_is_not() -> None:
    net = network()
    view, copy = state_of(net), snapshot(net)
    with torch.no_grad():
        next(net.parameters()).fill_(7)
    assert bool((view["0.weight"] == 7).all())
    assert not bool((copy["0.weight"] == 7).any())
    assert not any(t.requires_grad for t in (*view.values(), *copy.values()))


def test_a_snapshot_is_contiguous_whatever_the_layout() -> None:
    net = network()
    assert not state_of(net)["0.weight"].is_contiguous()
    assert all(t.is_contiguous() for t in snapshot(net).values())


def test_loading_a_snapshot_restores_values_in_place_and_keeps_the_layout() -> None:
    net, other = network(), network()
    with torch.no_grad():
        for tensor in state_of(other).values():
            tensor.add_(1)
    before = [p.data_ptr() for p in net.parameters()]
    load_state(net, snapshot(other))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    assert torch.equal(net[1].running_var, other[1].running_var)  # type: ignore[index]
    assert [p.data_ptr() for p in net.parameters()] == before
    assert next(net.parameters()).is_contiguous(memory_format=torch.channels_last)


def test_names_that_do_not_fit_are_refused_before_anything_is_written() -> None:
    net = network()
    state = {name: tensor + 1 for name, tensor in snapshot(net).items()}
    odd = {**state, "extra": torch.zeros(1)}
    before = snapshot(net)
    with pytest.raises(ValueError, match=r"Sequential: \['extra'\] on one side only"):
        load_state(net, odd)
    del state["3.bias"]
    with pytest.raises(ValueError, match=r"\['3.bias'\] on one side only"):
        load_state(net, state)
    assert all(torch.equal(before[name], tensor) for name, tensor in state_of(net).items())


def test_shapes_that_do_not_fit_are_refused() -> None:
    net = network()
    state = snapshot(net) | {"3.weight": torch.zeros(2, 5)}
    with pytest.raises(ValueError, match=r"3.weight: shape \(2, 5\) does not fit \(2, 4\)"):
        load_state(net, state)


def test_meta_keeps_shapes_and_dtypes_alone() -> None:
    state = snapshot(L.LightningModule()) | {"x": torch.zeros(2, 3, dtype=torch.float16)}
    shadow = meta(state)["x"]
    assert (shadow.shape, shadow.dtype, shadow.device.type) == ((2, 3), torch.float16, "meta")
