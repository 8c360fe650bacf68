"""A network's state as it travels: parameters and floating-point buffers, by name."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Views of parameters and floating-point buffers: batch-norm statistics travel, step counters do not."""
    found = {name: p.detach() for name, p in module.named_parameters()}
    found.update((name, b) for name, b in module.named_buffers() if b.is_floating_point())
    return found


@torch.no_grad()
def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into `module`, in place. Raises ValueError where names or shapes differ."""
    own = state_of(module)
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())
        raise ValueError(f"weights do not fit {type(module).__name__}: {odd[:3]} on one side only")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise ValueError(f"{name}: shape {tuple(state[name].shape)} does not fit {tuple(tensor.shape)}")
        tensor.copy_(state[name])


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Contiguous copies of `state_of`, on the CPU."""
    state = state_of(module)
    return {name: t.cpu().clone(memory_format=torch.contiguous_format) for name, t in state.items()}


def meta(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same shapes and dtypes without data."""
    return {name: torch.empty_like(t, device="meta") for name, t in state.items()}
