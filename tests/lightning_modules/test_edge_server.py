"""Edge and server: what they compute, what they train on, and both under an ordinary Trainer."""

import lightning as L
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.distillation import kl_t
from lightning_modules.edge import Edge
from lightning_modules.resnet import EdgeHead, Extractor, ServerNet
from lightning_modules.server import Server

SHAPE, CLASSES = (1, 8, 8), 3


def edge(**settings: float) -> Edge:
    torch.manual_seed(0)
    return Edge(Extractor(SHAPE), EdgeHead("resnet4", CLASSES), **settings)  # type: ignore[arg-type]


def server(**settings: float) -> Server:
    torch.manual_seed(0)
    return Server(ServerNet(11, CLASSES), **settings)  # type: ignore[arg-type]


def test_the_edge_gives_features_and_the_logits_of_those_features() -> None:
    module, inputs = edge().eval(), torch.randn(2, *SHAPE)
    features, logits = module.extract(inputs)
    assert features.shape == (2, 16, 8, 8)
    assert torch.equal(logits, module(inputs))
    assert torch.equal(logits, module.classifier(features))


@pytest.mark.parametrize("module", [edge(alpha=0.5, temperature=2.0), server(alpha=0.5, temperature=2.0)])
def test_losses_with_and_without_a_teacher(module: Edge | Server) -> None:
    module.eval()  # so that two passes see the same batch norm
    inputs = torch.randn(4, *(SHAPE if isinstance(module, Edge) else (16, 8, 8)))
    targets, teacher = torch.arange(4) % CLASSES, torch.randn(4, CLASSES)
    logits = module(inputs)
    plain = F.cross_entropy(logits, targets)
    assert torch.equal(module.training_step((inputs, targets, None), 0), plain)
    assert torch.equal(module.training_step((inputs, targets, torch.arange(4)), 0), plain)
    taught = module.training_step((inputs, targets, teacher), 0)
    torch.testing.assert_close(taught, plain + 0.5 * kl_t(logits, teacher, temperature=2.0))


def test_the_default_optimizer_is_the_papers() -> None:
    for module in (edge(), server()):
        optimizer = module.configure_optimizers()
        assert isinstance(optimizer, torch.optim.Adam)
        found = {key: optimizer.defaults[key] for key in ("lr", "weight_decay", "amsgrad")}
        assert found == {"lr": 1e-3, "weight_decay": 1e-4, "amsgrad": True}
        assert len(optimizer.param_groups[0]["params"]) == len(list(module.parameters()))


@pytest.mark.parametrize("build", [edge, server])
def test_fits_under_a_trainer_unchanged(build: type[Edge] | type[Server]) -> None:
    module = build()
    before = [p.detach().clone() for p in module.parameters()]
    shape = SHAPE if isinstance(module, Edge) else (16, 8, 8)
    data = TensorDataset(torch.randn(8, *shape), torch.arange(8) % CLASSES, torch.randn(8, CLASSES))
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


@pytest.mark.parametrize("build", [edge, server])
def test_zero_temperature_is_refused_before_any_training(build: type[Edge] | type[Server]) -> None:
    with pytest.raises(ValueError, match=r"temperature must be > 0, got 0\.0"):
        build(temperature=0.0)  # type: ignore[call-arg]
