"""YOLOv3: published counts, FLOPs by hand, what is refused, and that it learns to find drawn shapes."""

from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from harness.data.scores import Precision
from lightning_modules.darknet import Darknet53
from lightning_modules.networks import build_network
from lightning_modules.yolov3 import Yolov3

SMALL = (3, 64, 64)
OBJECTS = torch.tensor(
    [[[0, 0.3, 0.3, 0.4, 0.3], [1, 0.7, 0.6, 0.3, 0.5]], [[1, 0.5, 0.5, 0.9, 0.9], 5 * [-1]]]
)


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def tiny(num_classes: int = 2) -> Yolov3:
    torch.manual_seed(0)
    return Yolov3(SMALL, num_classes, width=1 / 32)


def kernels_of(module: nn.Module) -> list[Tensor]:
    return [m.weight for m in module.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize(
    ("num_classes", "full", "pooled", "everything"),
    [
        # Redmon and Farhadi's yolov3.weights holds 62,001,757 numbers: these and 2 x 26,304 statistics.
        (80, 61_895_776, 12_382_560, 62_001_757 - 2 * 26_304),
        (20, 61_573_216, 12_060_000, 61_626_049),
    ],
)
def test_published_counts(num_classes: int, full: int, pooled: int, everything: int) -> None:
    with torch.device("meta"):
        module = build_network("yolov3", input_shape=(3, 416, 416), num_classes=num_classes)
    kernels = kernels_of(module)
    assert len(kernels) == 75
    assert sum(k.numel() for k in kernels) == full
    assert sum(k.shape[0] * k.shape[1] for k in kernels) == pooled  # one number for each k x k
    assert sum(p.numel() for p in module.parameters()) == everything


def branch(inputs: int, planes: int, outputs: int) -> int:
    """Multiply-adds per pixel: five convolutions, two more, and the output."""
    wide = 2 * planes
    return inputs * planes + 2 * planes * wide + 3 * 9 * planes * wide + wide * outputs


def test_flops_by_hand() -> None:
    """The trunk has a test of its own; here the heads, at 3x4, 6x8 and 12x16 pixels."""
    shape = (2, 3, 96, 128)
    with torch.device("meta"):
        module, trunk = Yolov3(shape[1:], 20), Darknet53()
        with FlopCounterMode(display=False) as alone:
            trunk(torch.empty(shape))
        with FlopCounterMode(display=False) as counter:
            outputs = module(torch.empty(shape))
        with FlopCounterMode(display=False) as rest:
            module.loss(outputs, torch.empty(2, 4, 5))
    macs = 12 * (branch(1024, 512, 75) + 512 * 256)
    macs += 48 * (branch(768, 256, 75) + 256 * 128)
    macs += 192 * branch(384, 128, 75)
    assert counter.get_total_flops() == alone.get_total_flops() + 2 * 2 * macs
    assert rest.get_total_flops() == 0
    assert [tuple(o.shape) for o in outputs] == [(2, 75, 3, 4), (2, 75, 6, 8), (2, 75, 12, 16)]


def test_heads_have_the_papers_anchors_large_to_small() -> None:
    anchors = torch.tensor(tiny().anchors) * 416
    assert anchors[0].tolist() == [[116, 90], [156, 198], [373, 326]]
    assert anchors[2].tolist() == [[10, 13], [16, 30], [33, 23]]
    own = [(side / 10, 0.5) for side in range(1, 10)]
    assert Yolov3(SMALL, 2, width=1 / 32, anchors=own).anchors == [own[6:], own[3:6], own[:3]]
    with pytest.raises(ValueError, match="needs 9 anchors, small to large, got 2"):
        Yolov3(SMALL, 2, width=1 / 32, anchors=own[:2])


@pytest.mark.parametrize("shape", [(3, 65, 64), (3, 32, 64), (3, 416, 400)])
def test_sides_must_be_multiples_of_32(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"multiples of 32 from 64 on, got {shape[1]}x{shape[2]}; resize"):
        Yolov3(shape, 2)
    with pytest.raises(ValueError, match=r"needs images \(C, H, W\), got input shape \(7,\)"):
        Yolov3((7,), 2)


def test_labels_are_no_boxes() -> None:
    module = tiny()
    with pytest.raises(ValueError, match=r"needs targets \[B, M, 5\].*got \[2\]; use it on a detection task"):
        module.loss(module(torch.zeros(2, *SMALL)), torch.zeros(2))


def test_only_what_learns_and_statistics_travel() -> None:
    """Anchors are constants: a buffer would be sent to every client, and averaged."""
    module = tiny()
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())
    assert sum(b.is_floating_point() for b in module.buffers()) == 2 * norms == 2 * 72


@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_parameter_learns(batch_size: int) -> None:
    module = tiny()
    module.training_step((torch.rand(batch_size, *SMALL), OBJECTS[:batch_size]), 0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in module.parameters())


@pytest.mark.usefixtures("deterministic")
def test_bf16_channels_last_and_deterministic() -> None:
    """As a client of the harness runs it."""
    fabric = L.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    losses = []
    for _ in range(2):
        module = tiny().to(memory_format=torch.channels_last)
        model, optimizer = fabric.setup(module, module.configure_optimizers())
        images = torch.rand(2, *SMALL, generator=torch.Generator().manual_seed(1))
        for step in range(2):
            with fabric.autocast():
                loss = model.training_step((images.to(memory_format=torch.channels_last), OBJECTS), step)
            fabric.backward(loss)
            optimizer.step()
        losses.append(loss.item())
        assert loss.dtype == torch.float32
    assert losses[0] == losses[1]


def test_runs_under_the_trainer(tmp_path: Path) -> None:
    module = tiny()
    before = module.fine.head.weight.clone()
    batches = DataLoader(TensorDataset(torch.rand(2, *SMALL), OBJECTS), batch_size=2)
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(max_steps=2, accelerator="cpu", default_root_dir=tmp_path, **silent)
    trainer.fit(module, batches)
    assert trainer.global_step == 2
    assert not torch.equal(before, module.fine.head.weight)


def drawn(num_images: int, side: int) -> tuple[Tensor, Tensor]:
    """A bright rectangle (class 0) and a bright disc (1), left and right, on a dark plain background."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    images = torch.rand(num_images, 3, 1, 1, generator=generator).mul(0.3).repeat(1, 1, side, side)
    objects = torch.empty(num_images, 2, 5)
    for image in range(num_images):
        for half in range(2):
            label = (image + half) % 2
            width, height = torch.randint(side // 5, side // 3, (2,), generator=generator).tolist()
            height = width if label else height
            left, top = torch.rand(2, generator=generator).tolist()
            across, down = left * (side // 2 - width) + half * side // 2 + width / 2, top * (side - height)
            u, v = (x - across) / (width / 2), (y - down - height / 2) / (height / 2)
            inside = u.square() + v.square() <= 1 if label else torch.maximum(u.abs(), v.abs()) <= 1
            colour = 0.5 + 0.5 * torch.rand(3, 1, 1, generator=generator)
            images[image] = torch.where(inside, colour, images[image])
            box = [across / side, (down + height / 2) / side, width / side, height / side]
            objects[image, half] = torch.tensor([label, *box])
    return images, objects


def test_learns_eight_images_by_heart() -> None:
    images, objects = drawn(8, side=64)
    torch.manual_seed(0)
    module = build_network("yolov3_narrow", input_shape=SMALL, num_classes=2)
    assert isinstance(module, Yolov3)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.5  # statistics that keep up with so few steps
    optimizer = torch.optim.Adam(module.parameters(), lr=4e-3, fused=True)
    for step in range(40):
        module.training_step((images, objects), step).backward()
        optimizer.step()
        optimizer.zero_grad()
    module.eval()
    found = module.predict(images)
    assert found.shape == (8, 100, 6)
    assert found.dtype == torch.float32
    assert torch.equal(found[..., 1], found[..., 1].sort(dim=1, descending=True).values)
    precision = Precision(num_classes=2)
    precision.update(found, objects)
    assert precision.compute()["map50"] >= 0.9
