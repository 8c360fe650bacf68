"""The loss by hand, the optimizer, and the module under an ordinary Trainer."""

import math

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.classifier import Classifier, squared_error
from lightning_modules.networks import NETWORKS, build_network


def test_the_loss_is_the_mean_cross_entropy_of_the_first_two_elements() -> None:
    module = Classifier(nn.Identity())
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    batch = (logits, torch.tensor([0, 2]), torch.tensor([17, 4]))
    loss = module.training_step(batch, 0)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)
    assert torch.equal(module(logits), logits)


def test_the_squared_error_is_half_the_squared_distance_to_the_label() -> None:
    module = Classifier(nn.Identity(), loss=squared_error)
    outputs = torch.tensor([[1.0, 0.0, 2.0], [0.5, 0.5, 0.5]])
    # 1/2 (0 + 0 + 4) and 1/2 (1/4 + 1/4 + 1/4)
    assert module.training_step((outputs, torch.tensor([0, 1])), 0).item() == (2 + 0.375) / 2


def test_the_default_optimizer_is_sgd_at_one_hundredth() -> None:
    module = Classifier(nn.Linear(2, 2))
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.01, 0)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in module.parameters()]


def test_each_call_makes_a_fresh_optimizer_of_the_given_kind() -> None:
    module = Classifier(nn.Linear(2, 2), optimizer=lambda params: torch.optim.Adam(params, lr=0.5))
    one, two = module.configure_optimizers(), module.configure_optimizers()
    assert isinstance(one, torch.optim.Adam)
    assert one.defaults["lr"] == 0.5
    assert one is not two


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_fits_under_a_trainer_unchanged(name: str) -> None:
    torch.manual_seed(0)
    side = {"alexnet": 32, "alexnet_imagenet": 63, "vgg11": 32}.get(name, 12)
    module = Classifier(build_network(name, input_shape=(1, side, side), num_classes=3))
    before = [p.detach().clone() for p in module.parameters()]
    data = TensorDataset(torch.randn(8, 1, side, side), torch.arange(8) % 3)
    trainer = L.Trainer(
        max_steps=2,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data, batch_size=4))
    assert trainer.global_step == 2
    assert all(not torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))


def test_two_trainer_steps_equal_two_steps_by_hand() -> None:
    inputs, targets = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    module = Classifier(nn.Linear(2, 2, bias=False))
    nn.init.zeros_(module.network.weight)
    weight = torch.zeros(2, 2)
    for _ in range(2):
        errors = torch.softmax(inputs @ weight.T, dim=1) - torch.eye(2)[targets]
        weight -= 0.01 * errors.T @ inputs / 2
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(inputs, targets), batch_size=2))
    torch.testing.assert_close(module.network.weight.detach(), weight)
