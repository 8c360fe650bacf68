"""The segmentation network: the published count, FLOPs by hand, the enlargement, void, and that it learns."""

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from harness.data.scores import Overlap
from lightning_modules.fcn import VOID, Fcn, enlarged, interpolation
from lightning_modules.networks import build_network

SMALL = (3, 64, 64)


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def tiny(num_classes: int = 3) -> Fcn:
    torch.manual_seed(0)
    return Fcn(SMALL, num_classes, width=1 / 16)


def batch_of(num_images: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    masks = torch.randint(3, (num_images, 64, 64), generator=generator)
    masks[:, :5] = VOID
    return torch.rand(num_images, *SMALL, generator=generator), masks


@pytest.mark.parametrize("output_stride", [8, 32])
def test_the_papers_count(output_stride: int) -> None:
    """RPN, ECAI 2020: biases of convolutions, scale and shift of norms, and a score layer 2048 -> 21."""
    with torch.device("meta"):
        module = Fcn((3, 512, 512), 21, output_stride=output_stride)
    convolutions = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 54
    assert sum(p.numel() for p in module.parameters()) == 23_577_621
    pooled = sum(c.weight.numel() - c.weight[..., 0, 0].numel() for c in convolutions)
    assert 23_577_621 - pooled == 13_508_629  # 42.71 % less; the paper prints 13,325,281


def test_the_trunk_has_resnet50s_own_count() -> None:
    """25,557,032 parameters, biases of its 1000 classes alone among them; ours come on top."""
    with torch.device("meta"):
        trunk = build_network("fcn_resnet50", input_shape=SMALL, num_classes=21).get_submodule("backbone")
    biases = sum(m.bias.numel() for m in trunk.modules() if isinstance(m, nn.Conv2d) and m.bias is not None)
    assert biases == 26_560
    assert sum(p.numel() for p in trunk.parameters()) - biases == 25_557_032 - (2048 * 1000 + 1000)


def stage(inputs: int, planes: int, blocks: int, side: int, entered: int) -> int:
    """Multiply-adds of bottlenecks on side x side maps; the first 1x1 works on what enters."""
    wide = 4 * planes
    first = inputs * planes * entered**2 + (9 * planes * planes + planes * wide + inputs * wide) * side**2
    return first + (blocks - 1) * (2 * wide * planes + 9 * planes * planes) * side**2


@pytest.mark.parametrize(("output_stride", "sides"), [(8, (16, 8, 8, 8)), (32, (16, 8, 4, 2))])
def test_flops_by_hand(output_stride: int, sides: tuple[int, ...]) -> None:
    with torch.device("meta"):
        module = Fcn(SMALL, 21, output_stride=output_stride)
        with FlopCounterMode(display=False) as counter:
            logits = module(torch.empty(2, *SMALL))
        with FlopCounterMode(display=False) as rest:
            module.loss(logits, torch.empty(2, 64, 64, dtype=torch.int64))
    macs, inputs, entered = 3 * 64 * 49 * 32**2, 64, 16
    for planes, blocks, side in zip((64, 128, 256, 512), (3, 4, 6, 3), sides, strict=True):
        macs += stage(inputs, planes, blocks, side, entered)
        inputs, entered = 4 * planes, side
    macs += 2048 * 21 * entered**2
    macs += 21 * (entered * 64 * entered + 64 * 64 * entered)  # columns, then rows
    assert counter.get_total_flops() == 2 * 2 * macs
    assert rest.get_total_flops() == 0
    assert logits.shape == (2, 21, 64, 64)


@pytest.mark.parametrize("size", [(40, 56), (11, 13), (5, 7), (3, 4), (1, 1)])
def test_the_enlargement_is_bilinear_interpolation(size: tuple[int, int]) -> None:
    maps = torch.rand(2, 3, 5, 7)
    assert torch.allclose(enlarged(maps, *size), F.interpolate(maps, size, mode="bilinear"), atol=1e-6)


def test_interpolation_by_hand() -> None:
    weights = interpolation(2, 4, like=torch.zeros(1))
    assert weights.tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]


def test_void_counts_nowhere() -> None:
    module = tiny()
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    targets = torch.randint(3, (2, 4, 4))
    targets[0, 0] = VOID
    loss = module.loss(logits, targets)
    assert loss.item() == pytest.approx(F.cross_entropy(logits, targets, ignore_index=VOID).item())
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[0, :, 0].any()
    assert module.loss(logits, torch.full_like(targets, VOID)) == 0


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="needs images of more than 8 pixels a side, got 64x8; use larger"):
        Fcn((3, 64, 8), 2)
    with pytest.raises(ValueError, match=r"needs images \(C, H, W\), got input shape \(7,\)"):
        Fcn((7,), 2)
    with pytest.raises(ValueError, match=r"output_stride must be one of \(4, 8, 16, 32\), got 2"):
        Fcn(SMALL, 2, output_stride=2)
    module = tiny()
    with pytest.raises(ValueError, match=r"needs targets \[B, H, W\] .* got \[2\]; use it on a segmentation"):
        module.loss(module(torch.zeros(2, *SMALL)), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(1, 3, 9, 9), (2, 1, 50, 75)])
def test_any_size_trains_and_everything_but_idle_biases_learns(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = Fcn(shape[1:], 3, width=1 / 16)
    targets = torch.randint(3, (shape[0], *shape[2:]))
    module.training_step((torch.rand(shape), targets), 0).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        idle = name.endswith("bias") and ".bn" not in name and name != "score.bias"
        assert idle or parameter.grad.any(), name


@pytest.mark.usefixtures("deterministic")
def test_bf16_channels_last_and_deterministic() -> None:
    """As a client of the harness runs it."""
    fabric = L.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    images, masks = batch_of(2)
    losses = []
    for _ in range(2):
        module = tiny().to(memory_format=torch.channels_last)
        model, optimizer = fabric.setup(module, module.configure_optimizers())
        for step in range(2):
            with fabric.autocast():
                loss = model.training_step((images.to(memory_format=torch.channels_last), masks), step)
            fabric.backward(loss)
            optimizer.step()
        losses.append(loss.item())
        assert loss.dtype == torch.float32
    assert losses[0] == losses[1]


def test_runs_under_the_trainer(tmp_path: Path) -> None:
    module = tiny()
    before = module.score.weight.clone()
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_steps=2, accelerator="cpu", default_root_dir=tmp_path, **silent)
    trainer.fit(module, DataLoader(TensorDataset(*batch_of(2)), batch_size=2))
    assert trainer.global_step == 2
    assert not torch.equal(before, module.score.weight)


def drawn(num_images: int, side: int) -> tuple[Tensor, Tensor]:
    """A bright rectangle (class 1) and a bright disc (2), left and right, on a dark plain background."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    images = torch.rand(num_images, 3, 1, 1, generator=generator).mul(0.3).repeat(1, 1, side, side)
    masks = torch.zeros(num_images, side, side, dtype=torch.int64)
    for image in range(num_images):
        for half in range(2):
            label = 1 + (image + half) % 2
            low, high = torch.rand(2, generator=generator).mul(0.15).tolist()
            u, v = (x / side - half / 2 - 0.2 - low) / 0.18, (y / side - 0.4 - high) / 0.22
            inside = u.square() + v.square() <= 1 if label == 2 else torch.maximum(u.abs(), v.abs()) <= 1
            colour = 0.5 + 0.5 * torch.rand(3, 1, 1, generator=generator)
            images[image] = torch.where(inside, colour, images[image])
            masks[image][inside] = label
    return images, masks


def test_learns_eight_images_by_heart() -> None:
    images, masks = drawn(8, side=64)
    torch.manual_seed(0)
    module = build_network("fcn_narrow", input_shape=SMALL, num_classes=3)
    assert isinstance(module, Fcn)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.5  # statistics that keep up with so few steps
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3, fused=True)
    for step in range(35):
        module.training_step((images, masks), step).backward()
        optimizer.step()
        optimizer.zero_grad()
    module.eval()
    overlap = Overlap(num_classes=3)
    overlap.update(module.predict(images), masks)
    assert overlap.compute()["miou"] >= 0.9
