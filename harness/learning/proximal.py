"""The proximal term of FedProx (Li et al., MLSys 2020): local weights stay near where they began."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


def proximal(module: nn.Module, anchor: Mapping[str, Tensor], *, mu: float) -> Callable[[], None]:
    """Adds the gradient mu (w - anchor) of mu/2 ||w - anchor||^2 to that of every parameter in `anchor`."""
    pairs = [
        (p, anchor[name].to(p.device))
        for name, p in module.named_parameters()
        if p.requires_grad and name in anchor
    ]

    def add() -> None:
        with torch.no_grad():
            for parameter, start in pairs:
                assert parameter.grad is not None
                parameter.grad.add_(parameter - start, alpha=mu)

    return add
