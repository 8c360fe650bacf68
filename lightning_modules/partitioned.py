"""A sequential network cut in two: the lower part at a client, the upper part at a server.

Gupta, Raskar, "Distributed learning of deep neural network over multiple agents", Journal of Network and
Computer Applications 2018.

Shape letters: B batch.
"""

from collections import OrderedDict
from collections.abc import Sequence

import lightning as L
import torch
from torch import Tensor, nn


class Lower(L.LightningModule):
    """The layers below a cut. They have no loss: gradients come from whoever holds the rest."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Activations [B, ...] of inputs [B, ...]."""
        activations: Tensor = self.network(inputs)
        return activations

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """The sum of all activations: any gradient at the cut costs as much as this one's, which is 1."""
        activations: Tensor = self(batch[0])
        return activations.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD over all parameters."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def cut_points(network: nn.Module) -> list[str]:
    """Names of the layers after which `network` may be cut so that both parts have something to learn.

    Empty for a network that is no nn.Sequential, or has fewer than two layers with parameters.
    """
    learning = _learning(network) if isinstance(network, nn.Sequential) else []
    names = [name for name, _ in network.named_children()]
    return names[learning[0] : learning[-1]] if learning else []


def default_cut(network: nn.Sequential) -> str:
    """The last layer before the second one with parameters; the stem of a ResNet. See `cut_points`."""
    names = [name for name, _ in network.named_children()]
    return names[_learning(network)[1] - 1]


def cut_after(network: nn.Sequential, layer: str) -> tuple[nn.Sequential, nn.Sequential]:
    """(lower, upper), made of the same layer objects under the same names; `layer` is the lower's last.

    Raises ValueError for a layer after which no cut is possible.
    """
    if layer not in cut_points(network):
        raise ValueError(f"cannot cut after {layer!r}; choose one of {', '.join(cut_points(network))}")
    layers = list(network.named_children())
    end = [name for name, _ in layers].index(layer) + 1
    return nn.Sequential(OrderedDict(layers[:end])), nn.Sequential(OrderedDict(layers[end:]))


def _learning(network: nn.Sequential) -> list[int]:
    """Positions of the layers with parameters."""
    return [i for i, layer in enumerate(network.children()) if any(True for _ in layer.parameters())]
