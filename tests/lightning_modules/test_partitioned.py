"""A network in two parts computes, learns and costs what it does in one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.networks import build_network
from lightning_modules.partitioned import Lower, cut_after, cut_points, default_cut

SHAPE = (1, 12, 12)
CUTS = [
    (name, cut)
    for name, cuts in {"cnn": "012345678", "mlp": "1234", "lenet": "05", "fedavg_cnn": "2"}.items()
    for cut in cuts
] + [("resnet4", "stem"), ("resnet8", "stage1"), ("resnet20", "stem"), ("resnet20", "stage2")]


def build(name: str) -> nn.Sequential:
    torch.manual_seed(0)
    network = build_network(name, input_shape=SHAPE, num_classes=3)
    assert isinstance(network, nn.Sequential)
    return network


@pytest.mark.parametrize(
    ("name", "points", "default"),
    [
        ("mlp", ["1", "2", "3", "4"], "2"),
        ("cnn", ["0", "1", "2", "3", "4", "5", "6", "7", "8"], "2"),
        ("lenet", ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"], "2"),
        ("resnet8", ["stem", "stage1", "pool"], "stem"),
        ("resnet56", ["stem", "stage1", "stage2", "stage3", "pool"], "stem"),
    ],
)
def test_where_networks_can_be_cut(name: str, points: list[str], default: str) -> None:
    with torch.device("meta"):
        network = build(name)
    assert cut_points(network) == points
    assert default_cut(network) == default


def test_networks_that_cannot_be_cut() -> None:
    assert cut_points(build("logistic")) == []
    assert cut_points(nn.Linear(2, 2)) == []
    assert cut_points(nn.Sequential(nn.ReLU())) == []
    with pytest.raises(ValueError, match="cannot cut after 'stage9'; choose one of stem, stage1, pool"):
        cut_after(build("resnet8"), "stage9")


@pytest.mark.parametrize(("name", "cut"), CUTS)
def test_gradients_and_flops_equal_those_of_the_whole(name: str, cut: str) -> None:
    inputs, targets = torch.randn(4, *SHAPE), torch.arange(4) % 3
    whole = build(name)
    with FlopCounterMode(display=False) as at_once:
        loss = F.cross_entropy(whole(inputs), targets)
        loss.backward()
    lower, upper = cut_after(build(name), cut)
    with FlopCounterMode(display=False) as forward:
        activations = lower(inputs)
    received = activations.detach().requires_grad_()
    with FlopCounterMode(display=False) as above:
        F.cross_entropy(upper(received), targets).backward()
    with FlopCounterMode(display=False) as backward:
        activations.backward(received.grad)
    parts = {**dict(lower.named_parameters()), **dict(upper.named_parameters())}
    assert parts.keys() == dict(whole.named_parameters()).keys()
    for key, parameter in whole.named_parameters():
        assert torch.equal(parts[key].grad, parameter.grad)  # type: ignore[arg-type]
    found = [counter.get_total_flops() for counter in (forward, above, backward)]
    assert min(found) > 0
    assert sum(found) == at_once.get_total_flops()


def test_the_parts_are_the_layers_themselves() -> None:
    whole = build("resnet4")
    lower, upper = cut_after(whole, "stem")
    assert [name for name, _ in [*lower.named_children(), *upper.named_children()]] == list(whole._modules)
    assert lower.stem is whole.stem
    assert upper.fc is whole.fc


def test_the_lower_part_alone() -> None:
    """Its own training step only stands for a gradient from above: all ones."""
    module = Lower(nn.Linear(2, 3, bias=False))
    inputs = torch.tensor([[1.0, 2.0]])
    assert module(inputs).shape == (1, 3)
    loss = module.training_step((inputs,), 0)
    loss.backward()
    assert loss.item() == pytest.approx(module(inputs).sum().item())
    assert module.network.weight.grad.tolist() == [[1.0, 2.0]] * 3
    assert isinstance(module.configure_optimizers(), torch.optim.SGD)
