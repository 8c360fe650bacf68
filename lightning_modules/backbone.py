"""Taking over the trunk of a trained network: weights that another task, or other classes, made.

A network with a trunk has it as `backbone` (Yolov3: a Darknet53, Fcn: a ResNet50). Of a whole network's
weights the trunk's are those behind the last `backbone.` in their names, whatever stands before it
(`network.backbone.stem.conv.weight`); weights without any such name are taken as a trunk's own
(`stem.conv.weight`). Parameters and batch-norm statistics are taken; counters of batches are not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

PREFIX: Final = "backbone."


def backbone_of(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The part of `state` that fits `module`'s trunk, under the names of `module`'s own state.

    Raises ValueError for a module without a trunk, and, naming the first of `module`'s tensors in question,
    for one that `state` lacks or has in another shape.
    """
    wanted = {name: tensor for name, tensor in _floats(module).items() if name.startswith(PREFIX)}
    if not wanted:
        raise ValueError(f"{type(module).__name__} has no backbone; load its weights as a whole")
    whole = any(f".{PREFIX}" in f".{name}" for name in state)
    given = {
        f".{name}".rpartition(f".{PREFIX}")[2] if whole else name: tensor
        for name, tensor in state.items()
        if not whole or f".{PREFIX}" in f".{name}"
    }
    found = {}
    for name, own in wanted.items():
        tensor = given.get(name.removeprefix(PREFIX))
        if tensor is None:
            raise ValueError(f"{name}: not among the weights; they are not of this backbone")
        if tensor.shape != own.shape:
            raise ValueError(
                f"{name}: shape {tuple(tensor.shape)} of the weights does not fit {tuple(own.shape)}; "
                "the widths of both networks must be equal"
            )
        found[name] = tensor
    return found


@torch.no_grad()
def load_backbone(module: nn.Module, source: Path | Mapping[str, Tensor]) -> None:
    """Copy the trunk's part of `source` into `module`, in place; everything else stays.

    A file is what torch.save made of a state_dict, or a checkpoint of Lightning. Raises ValueError as
    `backbone_of` does and for any other file, and OSError for one that cannot be read.
    """
    own, state = _floats(module), source
    if isinstance(state, Path):
        try:
            tree = torch.load(state, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception:  # of many kinds for bytes that are not torch's own
            tree = None
        if not isinstance(tree, Mapping):
            raise ValueError(f"{state}: not what torch.save made of a state_dict or Lightning of a module")
        state = dict(tree.get("state_dict", tree))
    for name, tensor in backbone_of(state, module).items():
        own[name].copy_(tensor)


def _floats(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and floating-point buffers."""
    return {name: t for name, t in module.state_dict().items() if t.is_floating_point()}
