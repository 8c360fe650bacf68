"""The junction: hand-sized merges, sources that come and go, exact counts, gradients in parts and at once."""

from collections import OrderedDict

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.classifier import Classifier
from lightning_modules.junction import (
    Junction,
    Parallel,
    cut_before,
    joined,
    junction_points,
    widened,
)
from lightning_modules.networks import build_network


def leaf(num_classes: int = 62) -> nn.Sequential:
    network = build_network("leaf_cnn", input_shape=(1, 28, 28), num_classes=num_classes)
    assert isinstance(network, nn.Sequential)
    return network


def params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_it_weighs_every_source_with_a_block_of_its_own() -> None:
    junction = Junction({"a": 2, "b": 1}, (2,))
    with torch.no_grad():
        junction.blocks["a"].copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        junction.blocks["b"].copy_(torch.tensor([[3.0], [4.0]]))
        junction.bias.copy_(torch.tensor([0.5, -8.0]))
    found = junction(torch.tensor([[1.0, 1.0, 2.0]]))
    assert found.tolist() == [[9.5, 0.0]]  # relu of -1 + 8 - 8
    assert junction.norms() == {"a": pytest.approx(6**0.5), "b": pytest.approx(5.0)}
    junction.activation = "identity"
    assert junction(torch.tensor([[1.0, 1.0, 2.0]])).tolist() == [[9.5, -1.0]]


def test_it_is_one_linear_layer_over_all_outputs() -> None:
    torch.manual_seed(0)
    junction = Junction({"a": 3, "b": 4}, (2, 5))
    inputs = torch.randn(6, 7)
    whole = F.linear(inputs, torch.cat(list(junction.blocks.values()), dim=1), junction.bias)
    torch.testing.assert_close(junction(inputs), F.relu(whole).view(6, 2, 5))


def test_by_default_it_starts_as_a_linear_layer_of_that_many_inputs() -> None:
    torch.manual_seed(0)
    junction = Junction({"a": 30, "b": 70}, (200,))
    for tensor in (*junction.blocks.values(), junction.bias):
        assert 0.09 < float(tensor.detach().abs().max()) <= 0.1


def test_average_gives_equal_branches_the_one_branchs_output() -> None:
    """Five times the same values, none negative, come out as they went in."""
    junction = Junction(dict.fromkeys("abcde", 4), (4,), init="average")
    values = torch.rand(3, 4)
    torch.testing.assert_close(junction(values.repeat(1, 5)), values)


def test_five_equal_branches_are_one_network_to_begin_with() -> None:
    torch.manual_seed(0)
    network = build_network("cnn", input_shape=(1, 8, 8), num_classes=3)
    assert isinstance(network, nn.Sequential)
    lower, upper = cut_before(network, "7")
    junction = Junction(dict.fromkeys("abcde", 128), (128,), init="average")
    whole = Parallel(dict.fromkeys("abcde", lower), Classifier(joined(upper, junction)))
    image = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(whole(torch.stack([image] * 5, dim=1)), network(image))


def test_a_source_joins_and_another_leaves() -> None:
    junction = Junction({"a": 2, "b": 3}, (4,))
    kept, bias = junction.blocks["b"], junction.bias
    junction.resize({"b": 3, "c": 5})
    assert junction.widths == {"b": 3, "c": 5}
    assert junction.blocks["b"] is kept
    assert junction.bias is bias
    assert junction.blocks["c"].any()
    assert junction(torch.zeros(2, 8)).shape == (2, 4)
    with pytest.raises(ValueError, match="source b: 9 wide, was 3"):
        junction.resize({"b": 9})
    with pytest.raises(ValueError, match="needs a source"):
        junction.resize({})


@pytest.mark.parametrize(("layer", "expected"), [("f1", 55_987_710), ("f2", 53_483_966)])
def test_parameters_of_the_papers_network(layer: str, expected: int) -> None:
    """Five branches; J of V D^2 + D; the rest once. The second is 5 (C1 + C2 + F1) + 5 2048^2 + 2048 + F2."""
    with torch.device("meta"):
        lower, upper = cut_before(leaf(), layer)
        width = {"f1": 3136, "f2": 2048}[layer]
        junction = Junction(dict.fromkeys("abcde", width), (width,))
        branches = {name: cut_before(leaf(), layer)[0] for name in "abcde"}
        whole = Parallel(branches, Classifier(joined(upper, junction)))
    assert lower(torch.empty(1, 1, 28, 28, device="meta")).shape == (1, width)
    assert params(whole) == expected
    assert params(junction) == 5 * width * width + width


def test_parameters_without_a_junction() -> None:
    """Vertical split learning: 5 (832 + 51,264) + 15,680 * 2048 + 2048 + 127,038."""
    with torch.device("meta"):
        assert [params(layer) for layer in leaf() if params(layer)] == [832, 51_264, 6_424_576, 127_038]
        assert params(leaf()) == 6_603_710
        _, upper = cut_before(leaf(), "f1")
        wide = widened(upper, dict.fromkeys("abcde", 3136))
    assert params(wide) == 32_241_726
    assert 5 * (832 + 51_264) + params(wide) == 32_502_206


def test_a_wider_hidden_layer_goes_on_into_the_next() -> None:
    _, upper = cut_before(leaf(10), "f1")
    wide = widened(upper, {"a": 6, "b": 4}, hidden=3)
    assert wide(torch.randn(2, 10)).shape == (2, 10)
    assert params(wide) == 10 * 3 + 3 + 3 * 10 + 10


class Network(nn.Module):
    """A branch for images."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten())

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.layers(inputs)
        return found


def unlike() -> Parallel:
    """A camera of 6x6 pixels and a sensor of 3 numbers."""
    torch.manual_seed(0)
    head = nn.Sequential(OrderedDict(f=nn.Linear(5, 2)))
    junction = Junction({"camera": 32, "sensor": 4}, (5,))
    branches = {"camera": Network(), "sensor": nn.Sequential(nn.Linear(3, 4), nn.ReLU())}
    return Parallel(branches, Classifier(joined(head, junction)))


def test_sources_of_different_type_learn_together() -> None:
    whole = unlike()
    camera, sensor = torch.randn(8, 1, 6, 6), torch.randn(8, 3)
    targets = (sensor[:, 0] > 0).long()
    optimizer = torch.optim.Adam(whole.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        loss = whole.training_step(([camera, sensor], targets), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    assert all(p.grad is not None for p in whole.parameters())


def test_it_fits_under_a_trainer() -> None:
    torch.manual_seed(0)
    junction = Junction({"a": 4, "b": 4}, (3,))
    server = Classifier(joined(nn.Sequential(OrderedDict(f=nn.Linear(3, 2))), junction))
    whole = Parallel({"a": nn.Flatten(), "b": nn.Flatten()}, server)
    before = junction.bias.detach().clone()
    data = DataLoader(TensorDataset(torch.randn(4, 2, 2, 2), torch.tensor([0, 1, 0, 1])), batch_size=2)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(whole, data)
    assert not torch.equal(before, junction.bias)


def test_a_branch_and_the_rest_have_the_gradients_of_the_whole() -> None:
    """Activations up, gradients down: the same numbers as one backward pass through everything."""
    whole, parts = unlike(), unlike()
    camera, sensor, targets = torch.randn(4, 1, 6, 6), torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    whole.training_step(([camera, sensor], targets), 0).backward()
    outputs = [parts.branches["camera"](camera), parts.branches["sensor"](sensor)]
    received = torch.cat([one.detach() for one in outputs], dim=1).requires_grad_()
    parts.server.training_step((received, targets), 0).backward()
    assert received.grad is not None
    for output, gradient in zip(outputs, received.grad.split([32, 4], dim=1), strict=True):
        output.backward(gradient)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad, other.grad)


def test_where_it_can_stand() -> None:
    with torch.device("meta"):
        assert junction_points(leaf()) == [
            *("relu1", "pool1", "c2", "relu2", "pool2", "flatten", "f1", "relu3", "f2"),
        ]
    assert junction_points(nn.Linear(2, 2)) == []


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="no junction with init 'zero'"):
        Junction({"a": 1}, (1,), init="zero")
    with pytest.raises(ValueError, match="a branch is 2 wide, the next layer's input 3"):
        Junction({"a": 2}, (3,), init="average")
    whole = unlike()
    with pytest.raises(ValueError, match="needs 2 sources of equally many examples, got 4, 5"):
        whole([torch.randn(4, 1, 6, 6), torch.randn(5, 3)])
    with pytest.raises(ValueError, match="'relu3' is no fully connected layer"):
        widened(cut_before(leaf(10), "relu3")[1], {"a": 2048})
    with pytest.raises(ValueError, match="no fully connected layer follows 'f2'"):
        widened(cut_before(leaf(10), "f2")[1], {"a": 2048}, hidden=7)
