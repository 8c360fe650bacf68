"""Trunks move between networks: what is taken, under which names, and what is refused."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_modules.backbone import backbone_of, load_backbone
from lightning_modules.fcn import Fcn
from lightning_modules.yolov3 import Yolov3

SMALL = (3, 64, 64)


def tiny(num_classes: int = 2) -> Yolov3:
    torch.manual_seed(0)
    return Yolov3(SMALL, num_classes, width=1 / 32)


def test_the_backbone_moves_to_a_network_of_other_classes(tmp_path: Path) -> None:
    source, module = tiny(num_classes=5), tiny()
    with torch.no_grad():
        for tensor in source.state_dict().values():
            tensor.add_(1)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    torch.save({"state_dict": source.state_dict()}, tmp_path / "weights.pt")
    load_backbone(module, tmp_path / "weights.pt")
    for name, tensor in module.state_dict().items():
        moved = name.startswith("backbone.") and tensor.is_floating_point()
        assert torch.equal(tensor, source.state_dict()[name] if moved else before[name])


def test_a_backbone_by_any_name_but_of_one_shape() -> None:
    module = tiny()
    trunk = module.backbone.state_dict()
    own = backbone_of(module.state_dict(), module)
    for state in (trunk, {f"network.backbone.{name}": t for name, t in trunk.items()} | {"fc.bias": trunk}):
        found = backbone_of(state, module)
        assert found.keys() == own.keys()
        assert all(torch.equal(found[name], own[name]) for name in own)
    with pytest.raises(
        ValueError, match=r"^backbone\.stem\.conv\.weight: shape \(2, 3, 3, 3\) .* fit \(1, 3"
    ):
        backbone_of(Yolov3(SMALL, 2, width=1 / 16).state_dict(), module)
    del trunk["stages.1.0.bn.weight"]
    with pytest.raises(ValueError, match=r"^backbone\.stages\.1\.0\.bn\.weight: not among the weights"):
        backbone_of(trunk, module)
    with pytest.raises(ValueError, match="Linear has no backbone"):
        backbone_of(trunk, nn.Linear(1, 1))


def test_the_trunk_of_a_segmentation_network() -> None:
    source, module = (Fcn(SMALL, classes, width=1 / 32) for classes in (4, 2))
    load_backbone(module, source.state_dict())
    images = torch.rand(2, *SMALL)
    assert torch.equal(module.backbone(images), source.backbone(images))
    with pytest.raises(ValueError, match=r"^backbone\.conv\.weight: not among the weights"):
        load_backbone(module, tiny().state_dict())


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    for content in (b"no weights", b""):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"weights.pt: not what torch.save made"):
            load_backbone(nn.Linear(1, 1), file)
    torch.save([1, 2], file)
    with pytest.raises(ValueError, match=r"weights.pt: not what torch.save made"):
        load_backbone(nn.Linear(1, 1), file)
