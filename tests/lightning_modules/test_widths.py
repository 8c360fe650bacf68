"""Cutting by width: counts of MFL's CNN, exact inverses, uniform coverage, what cannot be cut."""

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.classifier import Classifier
from lightning_modules.networks import build_network
from lightning_modules.widths import Structure, Widths, blocks, check_structure, narrow, put, take, widths_of

L = Structure("L", (1, 1, 1, 1))
M = Structure("M", (1, 2, 1, 1))
S = Structure("S", (1, 2, 2, 1))
T = Structure("T", (2, 2, 2, 1))
PAPER = (L, M, S, T)
RGB = (3, 16, 16)
MNIST = (1, 28, 28)


def network(name: str, shape: tuple[int, ...] = MNIST) -> nn.Module:
    torch.manual_seed(0)
    return build_network(name, input_shape=shape, num_classes=10)


def state(module: nn.Module) -> dict[str, Tensor]:
    found = {name: p.detach() for name, p in module.named_parameters()}
    return found | {n: b for n, b in module.named_buffers() if b.is_floating_point()}


def everywhere(widths: Widths) -> Structure:
    return Structure("half", tuple([2] * (len(widths.axes) - 1) + [1]))


def structures_of(widths: Widths) -> Iterator[Structure]:
    """All combinations of cutting an axis in two or not, at most 32 of them."""
    free = len(widths.axes) - 1
    for factors in itertools.islice(
        itertools.product((1, 2), repeat=free), 0, 1 << free, max(1, 2**free // 32)
    ):
        yield Structure("q", (*factors, 1))


# --- MFL's CNN, counted


@pytest.mark.parametrize(
    ("structure", "widths", "params", "macs"),
    [
        (L, (16, 32, 32, 10), 16_938, 5_673_024),
        (M, (16, 16, 32, 10), 10_010, 2_963_520),
        # 9(1*16 + 16*16 + 16*16 + 16*10) + 58 biases; 784 * 9(16 + 256) + 196 * 9 * 256 + 49 * 9 * 160
        (S, (16, 16, 16, 10), 6_250, 2_441_376),
        # 9(1*8 + 8*16 + 16*16 + 16*10) + 50 biases; 784 * 9(8 + 128) + 196 * 9 * 256 + 49 * 9 * 160
        (T, (8, 16, 16, 10), 5_018, 1_481_760),
    ],
)
def test_the_submodels_of_mfl(structure: Structure, widths: tuple[int, ...], params: int, macs: int) -> None:
    with torch.device("meta"):
        module = network("mfl_cnn")
        found = widths_of(module)
        narrow(module, found, structure)
    assert tuple(m.out_channels for m in module.modules() if isinstance(m, nn.Conv2d)) == widths
    assert sum(p.numel() for p in module.parameters()) == params
    with FlopCounterMode(display=False) as counter:
        assert module(torch.empty(1, *MNIST, device="meta")).shape == (1, 10)
    assert counter.get_total_flops() == 2 * macs
    assert structure.num_instances == dict(zip("LMST", (1, 2, 4, 8), strict=True))[structure.name]


@pytest.mark.parametrize(
    ("structure", "weights", "biases"),
    [
        (L, (1, 1, 1, 1), (1, 1, 1, 1)),
        (M, (2, 1, 1, 2), (2, 1, 2, 2)),
        (S, (4, 2, 1, 2), (4, 2, 2, 4)),
        (T, (4, 2, 2, 4), (4, 4, 4, 8)),
    ],
)
def test_a_complete_set_covers_each_layer_uniformly(
    structure: Structure, weights: tuple[int, ...], biases: tuple[int, ...]
) -> None:
    covered = coverage(network("mfl_cnn"), structure)
    for layer, weight, bias in zip(("0", "2", "5", "8"), weights, biases, strict=True):
        assert set(covered[f"{layer}.weight"].flatten().tolist()) == {weight}
        assert set(covered[f"{layer}.bias"].flatten().tolist()) == {bias}


def coverage(module: nn.Module, structure: Structure) -> dict[str, Tensor]:
    """How often one complete set of instances holds each scalar."""
    widths = widths_of(module)
    counts = {name: torch.zeros_like(t) for name, t in state(module).items()}
    for instance in range(structure.num_instances):
        for name, where in blocks(module, widths, structure, instance).items():
            counts[name][where] += 1
    return counts


# --- any network


NETWORKS = [("mfl_cnn", MNIST), ("lenet", MNIST), ("cnn", (1, 8, 8)), ("resnet4", RGB), ("resnet8", RGB)]


@pytest.mark.parametrize(("name", "shape"), NETWORKS)
def test_coverage_is_uniform_in_every_network(name: str, shape: tuple[int, ...]) -> None:
    """Q / (q_in q_out) for weights, Q / q_out for biases and batch norm."""
    module = network(name, shape)
    widths = widths_of(module)
    structure = everywhere(widths)
    for path, counts in coverage(module, structure).items():
        source, target = widths.modules[path.rpartition(".")[0]]
        factor = structure.factors[target]
        if counts.dim() > 1 and source is not None:
            factor *= structure.factors[source]
        assert set(counts.flatten().tolist()) == {structure.num_instances / factor}


@pytest.mark.parametrize(("name", "shape"), NETWORKS)
def test_slice_and_scatter_are_exact_inverses(name: str, shape: tuple[int, ...]) -> None:
    module = network(name, shape)
    widths = widths_of(module)
    whole = state(module)
    for structure in structures_of(widths):
        rebuilt = {n: torch.full_like(t, math.nan) for n, t in whole.items()}
        for instance in {0, structure.num_instances // 2, structure.num_instances - 1}:
            where = blocks(module, widths, structure, instance)
            part = take(whole, where)
            put(rebuilt, part, where)
            again = take(rebuilt, where)
            assert all(torch.equal(part[n], again[n]) for n in part)
        if structure.num_instances <= 4:
            for instance in range(structure.num_instances):
                where = blocks(module, widths, structure, instance)
                put(rebuilt, take(whole, where), where)
            assert all(torch.equal(rebuilt[n], whole[n]) for n in whole)


@pytest.mark.parametrize(("name", "shape"), NETWORKS)
def test_the_small_network_holds_the_first_block_and_learns(name: str, shape: tuple[int, ...]) -> None:
    module, small = Classifier(network(name, shape)), Classifier(network(name, shape))
    widths = widths_of(module)
    structure = everywhere(widths)
    narrow(small, widths, structure)
    part = take(state(module), blocks(module, widths, structure))
    own = state(small)
    assert own.keys() == part.keys()
    assert all(torch.equal(own[n], part[n]) for n in part)
    loss = small.training_step((torch.randn(4, *shape), torch.arange(4)), 0)
    loss.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


def test_a_residual_stream_is_one_axis() -> None:
    """conv2 is added to the stem's output: both share the first axis, and so do their batch norms."""
    widths = widths_of(network("resnet4", RGB))
    assert widths.axes == ("stem.conv", "stage1.0.conv1", "fc")
    assert widths.modules["stage1.0.conv2"] == (1, 0)
    assert widths.modules["stage1.0.bn2"] == (0, 0)
    assert widths.modules["fc"] == (0, 2)


def test_a_block_acts_as_the_whole_with_all_else_at_zero() -> None:
    """Cut channels are those of the whole network: zero the others and both give the same logits."""
    whole, small = network("mfl_cnn"), network("mfl_cnn")
    widths = widths_of(whole)
    narrow(small, widths, S)
    x = torch.randn(3, *MNIST)
    for instance in range(S.num_instances):
        where = blocks(whole, widths, S, instance)
        part = take(state(whole), where)
        masked = network("mfl_cnn")
        with torch.no_grad():
            for tensor in state(masked).values():
                tensor.zero_()
            put(state(masked), part, where)
            small.load_state_dict(part)
            assert torch.allclose(small(x), masked(x), atol=1e-6)


# --- instances


def test_instances_are_counted_with_the_first_layer_most_significant() -> None:
    assert [T.groups(i) for i in range(8)] == [(*bits, 0) for bits in itertools.product((0, 1), repeat=3)]
    assert Structure("x", (1, 3, 2, 1)).groups(5) == (0, 2, 1, 0)
    with pytest.raises(ValueError, match="structure T has 8 instances, not 8"):
        T.groups(8)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_every_instance_is_another_choice_of_groups(factors: list[int]) -> None:
    structure = Structure("x", tuple(factors))
    found = {structure.groups(i) for i in range(structure.num_instances)}
    assert len(found) == structure.num_instances
    assert all(g < q for groups in found for g, q in zip(groups, factors, strict=True))


# --- what does not fit


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ((1, 3, 1, 1), "3 does not divide the 32 channels of layer '2'"),
        ((0, 1, 1, 1), "0 does not divide the 16 channels of layer '0'"),
        ((2, 2, 1), r"has 3 factors, the network 4 layers: 0 \(16\), 2 \(32\), 5 \(32\), 8 \(10\)"),
        ((1, 1, 1, 2), "the outputs of the last layer are never cut"),
    ],
)
def test_structures_that_do_not_fit(factors: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_structure(widths_of(network("mfl_cnn")), Structure("X", factors))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.one(x)
        return y if y.sum() > 0 else -y


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), "0: a grouped convolution cannot be cut"),
        (nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4)), "1: a GroupNorm cannot be cut"),
        (nn.Sequential(*[nn.Linear(4, 4)] * 2), "used twice"),
        (nn.Sequential(nn.ReLU()), "no layer that can be cut"),
        (Gated(), "Gated cannot be traced .* declare its `widths`"),
    ],
)
def test_networks_that_cannot_be_cut(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        widths_of(module)


def test_a_declared_network_need_not_be_traced() -> None:
    module = Gated()
    module.widths = Widths(("one",), (4,), {"one": (None, 0)})  # type: ignore[assignment]
    assert widths_of(Classifier(module)).modules == {"network.one": (None, 0)}
