"""What the methods of vertical partitions share: views, batches that all sources agree on, and the cut.

Shape letters: N examples, B batch, V sources, D width of a branch's output, flat.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.config import PartitionConfig, require
from harness.cost.cuts import Cut
from harness.data.partition import view_names
from harness.data.task import Batch, Shard, Task
from harness.data.views import apply_view
from harness.learning.evaluation import evaluate
from harness.learning.models import TrainingConfig, build_module
from harness.learning.profile import profile
from harness.learning.seeding import torch_generator
from harness.learning.workplace import Workplace
from harness.types import ConfigError
from lightning_modules.classifier import Classifier
from lightning_modules.junction import Junction, cut_before, junction_points
from lightning_modules.partitioned import Lower

SPLITS: tuple[Literal["val", "test"], ...] = ("val", "test")


def check_sources(cfg: PartitionConfig, *, method: str) -> None:
    """Raise ConfigError unless two or more sources see the same examples."""
    require(
        cfg.name == "views",
        f"partition.name must be views for method {method}, got {cfg.name}: its sources would hold different "
        "examples, of different number",
    )
    require(
        cfg.num_clients >= 2,
        f"partition.num_clients must be >= 2 for method {method}, got {cfg.num_clients}: one source has "
        "nobody to be merged with",
    )


@dataclass(frozen=True, slots=True)
class Views(Shard):
    """The examples as several sources see them: inputs [B, V, ...]."""

    views: Sequence[str] = ()
    """Name of each source's view."""

    def take(self, positions: NDArray[np.int64]) -> Batch:
        plain = Shard.take(self, positions)
        black = torch.tensor(self.task.black)
        seen = [apply_view(view, plain.inputs, ids=plain.ids, black=black) for view in self.views]
        return plain._replace(inputs=torch.stack(seen, dim=1))


def seen_by(place: Workplace, split: Literal["train", "val", "test"], sources: Sequence[int]) -> Views:
    """A whole split as these sources see it."""
    names = view_names(place.partition)
    plain = place.split(split)
    return Views(plain.task, plain.examples, plain.indices, views=[names[source] for source in sources])


def batch_rows(num_examples: int, *, cfg: TrainingConfig, generator: torch.Generator) -> list[Tensor]:
    """The rows [B] of every batch of a round, epoch after epoch; an equal generator gives equal batches."""
    size = cfg.batch_size or num_examples
    per_epoch = -(-num_examples // size)
    num_batches = cfg.local_steps or cfg.local_epochs * per_epoch
    epochs = -(-num_batches // per_epoch)
    batches = [
        b for _ in range(epochs) for b in torch.randperm(num_examples, generator=generator).split(size)
    ]
    return batches[:num_batches]


def batch_order(num_examples: int, cfg: TrainingConfig, place: Workplace, *, round: int) -> list[Tensor]:
    """The rows [B] of every batch of a round, the same for all sources and the server."""
    # Client 0's stream: a network trained at one place sees the same batches.
    generator = torch_generator(place.seed, round=round, client=0, purpose="batches")
    return batch_rows(num_examples, cfg=cfg, generator=generator)


def evaluate_together(
    whole: L.LightningModule, sources: Sequence[int], *, place: Workplace
) -> dict[str, float]:
    """`val/...` and `eval/...` (the test split) of a network that sees each image through these sources."""
    val, test = (seen_by(place, split, sources) for split in SPLITS)
    found = {f"val/{name}": value for name, value in evaluate(whole, val, place=place).items()}
    return found | {f"eval/{name}": value for name, value in evaluate(whole, test, place=place).items()}


@dataclass(frozen=True, slots=True)
class Fork:
    """A task's network cut where the sources meet."""

    layer: str
    """The first layer above."""
    branch: Lower
    """What every source holds a copy of."""
    upper: nn.Sequential
    """The rest, as it is in the whole network."""
    module: Classifier
    """The whole network, whose layers these are."""
    shape: tuple[int, ...]
    """Of a branch's output, without B."""

    @property
    def width(self) -> int:
        """D."""
        return math.prod(self.shape)


def fork(task: Task, layer: str, *, key: str = "method.junction") -> Fork:
    """The task's network, new, cut before `layer`. Raises ConfigError where there is no such cut."""
    module = build_module(task)
    network = whole_network(task, module, key=key)
    names = junction_points(network)
    require(layer in names, f"{key}: no cut before layer {layer!r}; choose one of auto, {', '.join(names)}")
    lower, upper = cut_before(network, layer)
    branch = Lower(lower)
    with torch.no_grad():
        example = torch.empty(1, *task.input_shape, device=next(lower.parameters()).device)
        shape = tuple(branch.eval()(example).shape[1:])
    branch.train()
    assert isinstance(module, Classifier)
    return Fork(layer, branch, upper, module, shape)


def cuts_of(task: Task, upper: Callable[[Fork], Classifier]) -> list[Cut]:
    """What every position of the cut asks of both sides; `upper` makes the server's part of a fork.

    Positions for which it cannot (ConfigError) are left out. Shapes alone: nothing is computed.
    """
    with torch.device("meta"):
        names = junction_points(whole_network(task, build_module(task), key="method.junction"))
    found = []
    for name in names:
        try:
            found.append(_cut(task, name, upper))
        except ConfigError:
            continue
    return found


def _cut(task: Task, name: str, upper: Callable[[Fork], Classifier]) -> Cut:
    with torch.device("meta"):
        cut = fork(task, name)
        server = upper(cut)
        widths = sum(merging(server).widths.values())
        server.example_input_array = torch.empty(1, widths)
    below = profile(lambda: cut.branch, name=name, task=task)
    above = profile(lambda: server, name=name, task=task)
    # The server needs the gradient of its input too, which the counted step leaves out: three times forward.
    return Cut(name, below.flops_train, 6 * above.macs_forward, activation_bytes=4 * cut.width)


def merging(server: Classifier) -> Junction:
    """The server's first layer, which takes what all sources send."""
    first = next(server.network.children())
    assert isinstance(first, Junction)
    return first


def whole_network(task: Task, module: L.LightningModule, *, key: str) -> nn.Sequential:
    """The layers of a task's network. Raises ConfigError where it cannot be cut."""
    network = module.network if isinstance(module, Classifier) else None
    if not isinstance(network, nn.Sequential) or not junction_points(network):
        raise ConfigError(
            f"{key}: task.model={task.cfg.model} cannot be cut; it needs an nn.Sequential with two or more "
            "layers that have parameters, such as leaf_cnn, cnn, mlp or resnet20"
        )
    return network
