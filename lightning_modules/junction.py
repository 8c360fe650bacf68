"""The junction: several branches' outputs merged into the input of one layer of a network.

Malandrino, Chiasserini, "Flexible parallel learning in edge scenarios", WoWMoM 2022. The
layers before the junction exist once for each source, those after it once.

Shape letters: B batch, V sources, D width of a branch's output, flat.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.classifier import Classifier
from lightning_modules.partitioned import cut_after, cut_points

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "identity": lambda values: values}
INITS = ("default", "average")


class Junction(nn.Module):
    """Linear over the concatenated outputs of all branches, then an activation.

    Its matrix is kept as one block for each source, so that a source can join or leave.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        outputs: Sequence[int],
        *,
        init: str = "default",
        activation: str = "relu",
    ) -> None:
        """`widths`: D of each source by its name, in order; `outputs`: shape of what comes out, without B.

        `init`: default (as nn.Linear) or average (block identity / V: the mean of equally wide branches).
        Raises ValueError for no source, for an unknown word, and for an average of unlike widths.
        """
        super().__init__()
        if init not in INITS or activation not in ACTIVATIONS:
            raise ValueError(f"no junction with init {init!r} and activation {activation!r}")
        self.outputs = tuple(outputs)
        self.init, self.activation = init, activation
        self.bias = nn.Parameter(torch.zeros(math.prod(outputs)))
        self.blocks = nn.ParameterDict()
        self.resize(widths)
        if init == "default":
            nn.init.uniform_(self.bias, -self._bound, self._bound)

    @property
    def widths(self) -> dict[str, int]:
        """D of each source, in order."""
        return {name: block.shape[1] for name, block in self.blocks.items()}

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, *outputs] of the branches' outputs side by side, [B, sum of D]."""
        total = self.bias.expand(len(inputs), -1)
        parts = inputs.split(list(self.widths.values()), dim=1)
        for part, block in zip(parts, self.blocks.values(), strict=True):
            total = torch.addmm(total, part, block.t())
        merged: Tensor = ACTIVATIONS[self.activation](total).unflatten(1, self.outputs)
        return merged

    def resize(self, widths: Mapping[str, int]) -> None:
        """Take these sources. Blocks of those that stay are kept as they are, new ones initialised."""
        if not widths:
            raise ValueError("a junction needs a source")
        kept = dict(self.blocks.items())
        odd = [name for name, width in widths.items() if name in kept and kept[name].shape[1] != width]
        if odd:
            raise ValueError(f"source {odd[0]}: {widths[odd[0]]} wide, was {kept[odd[0]].shape[1]}")
        self._bound = 1 / math.sqrt(sum(widths.values()))
        self.blocks = nn.ParameterDict(
            {n: kept[n] if n in kept else self._block(w, len(widths)) for n, w in widths.items()}
        )

    def norms(self) -> dict[str, float]:
        """The learned weight of each source: the Frobenius norm of its block."""
        return {name: float(block.detach().norm()) for name, block in self.blocks.items()}

    def extra_repr(self) -> str:
        return f"outputs={self.outputs}, activation={self.activation}"

    def _block(self, width: int, num_sources: int) -> nn.Parameter:
        shape = (len(self.bias), width)
        if self.init == "default":
            block = torch.empty(shape, device=self.bias.device).uniform_(-self._bound, self._bound)
        elif width == len(self.bias):
            block = torch.eye(width, device=self.bias.device) / num_sources
        else:
            raise ValueError(f"average: a branch is {width} wide, the next layer's input {len(self.bias)}")
        return nn.Parameter(block)


class Parallel(L.LightningModule):
    """Branches, and what merges them, as one network: what the sources and the server hold together."""

    def __init__(
        self,
        branches: Mapping[str, nn.Module],
        server: Classifier,
        *,
        shapes: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        """Branches may be of any type, in the order of the junction's blocks.

        `shapes`: of what each sees, where inputs are to come flat, side by side.
        """
        super().__init__()
        self.shapes = shapes
        self.branches = nn.ModuleDict(branches)
        self.server = server

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        """Logits [B, C] of what each source sees: [B, V, ...], one tensor [B, ...] for each, or flat.

        Raises ValueError for sources of different length.
        """
        seen = self._seen(inputs) if isinstance(inputs, Tensor) else inputs
        if len(seen) != len(self.branches) or len({len(one) for one in seen}) != 1:
            told = ", ".join(str(len(one)) for one in seen)
            raise ValueError(f"needs {len(self.branches)} sources of equally many examples, got {told}")
        outputs = [branch(one).flatten(1) for branch, one in zip(self.branches.values(), seen, strict=True)]
        logits: Tensor = self.server(torch.cat(outputs, dim=1))
        return logits

    def _seen(self, inputs: Tensor) -> Sequence[Tensor]:
        if self.shapes is None:
            return inputs.unbind(1)
        parts = inputs.split([math.prod(shape) for shape in self.shapes], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def training_step(self, batch: Sequence[Tensor | Sequence[Tensor]], batch_idx: int) -> Tensor:
        """The server's mean loss of a batch (inputs, targets [B] int64, anything further ignored)."""
        return self.server.loss(self(batch[0]), batch[1])  # type: ignore[arg-type]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD over all parameters."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def junction_points(network: nn.Module) -> list[str]:
    """Names of the layers that a junction may precede; empty for a network that cannot be cut."""
    names = [name for name, _ in network.named_children()]
    return [names[names.index(name) + 1] for name in cut_points(network)]


def cut_before(network: nn.Sequential, layer: str) -> tuple[nn.Sequential, nn.Sequential]:
    """(lower, upper) of the same layer objects; `layer` is the upper's first. See `cut_after`."""
    names = [name for name, _ in network.named_children()]
    return cut_after(network, names[names.index(layer) - 1])


def joined(upper: nn.Sequential, junction: Junction) -> nn.Sequential:
    """The junction and the layers after it."""
    return nn.Sequential(OrderedDict([("junction", junction), *upper.named_children()]))


def widened(upper: nn.Sequential, widths: Mapping[str, int], *, hidden: int | None = None) -> nn.Sequential:
    """The layers without a junction: their first one, fully connected, takes all sources' outputs itself.

    `hidden` changes how many values it gives to the next layer with parameters. Raises ValueError where
    either of them is not fully connected.
    """
    layers = OrderedDict(upper.named_children())
    first, *others = layers
    below = layers[first]
    if not isinstance(below, nn.Linear):
        raise ValueError(f"layer {first!r} is no fully connected layer, so it cannot be widened")
    outputs = hidden or below.out_features
    if outputs != below.out_features:
        following = next((name for name in others if list(layers[name].parameters())), first)
        above = layers[following]
        if following == first or not isinstance(above, nn.Linear):
            raise ValueError(f"no fully connected layer follows {first!r}, so its outputs cannot change")
        layers[following] = nn.Linear(outputs, above.out_features)
    layers[first] = Junction(widths, (outputs,), activation="identity")
    return nn.Sequential(layers)
