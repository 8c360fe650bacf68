"""What the methods of vertical partitions share: views, batches that all sources agree on, and the cut.

Shape letters: N examples, B batch, V sources, D width of a branch's output, flat.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.config import PartitionConfig, require
from harness.cost.cuts import Cut
from harness.cost.submodel import SubmodelProfile
from harness.data.partition import view_names
from harness.data.task import Batch, Shard, Task
from harness.data.views import VECTORS, apply_view, seen_shape
from harness.learning.cuts import whole_network
from harness.learning.evaluation import evaluate
from harness.learning.models import TrainingConfig, build_module
from harness.learning.profile import profile
from harness.learning.seeding import torch_generator
from harness.learning.training import batch_sizes
from harness.learning.workplace import Workplace
from harness.types import ConfigError, SubmodelId
from lightning_modules.classifier import Classifier
from lightning_modules.junction import Junction, Parallel, cut_before, junction_points
from lightning_modules.networks import build_network
from lightning_modules.partitioned import Lower

BRANCH = SubmodelId("branch")
"""What a source holds that has no network of its own."""
SPLITS: tuple[Literal["val", "test"], ...] = ("val", "test")


def check_sources(cfg: PartitionConfig, *, method: str, vectors: bool = False) -> None:
    """Raise ConfigError unless two or more sources see the same examples, as images unless `vectors`."""
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
    odd = [view for view in cfg.views if view in VECTORS and not vectors]
    require(
        not odd, f"partition.views: method {method} needs images, and {odd[:1]} gives vectors; use fpl or sl"
    )


@dataclass(frozen=True, slots=True)
class Views(Shard):
    """The examples as several sources see them: inputs [B, V, ...], or flat, side by side, if they differ."""

    views: Sequence[str] = ()
    """Name of each source's view."""

    def take(self, positions: NDArray[np.int64]) -> Batch:
        plain = Shard.take(self, positions)
        black = torch.tensor(self.task.black)
        told = {"ids": plain.ids, "black": black, "classes": plain.targets}
        seen = [apply_view(view, plain.inputs, **told) for view in self.views]
        alike = len({one.shape for one in seen}) == 1
        together = torch.stack(seen, dim=1) if alike else torch.cat([one.flatten(1) for one in seen], dim=1)
        return plain._replace(inputs=together)


def seen_by(place: Workplace, split: Literal["train", "val", "test"], sources: Sequence[int]) -> Views:
    """A whole split as these sources see it."""
    names = view_names(place.partition)
    plain = place.split(split)
    return Views(plain.task, plain.examples, plain.indices, views=[names[source] for source in sources])


def batch_rows(num_examples: int, *, cfg: TrainingConfig, generator: torch.Generator) -> list[Tensor]:
    """The rows [B] of every batch of a round, epoch after epoch; an equal generator gives equal batches."""
    size = cfg.batch_size or num_examples

    def epochs() -> Iterator[Tensor]:
        while True:
            yield from torch.randperm(num_examples, generator=generator).split(size)

    return list(islice(epochs(), len(batch_sizes(num_examples, cfg=cfg))))


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
    assert isinstance(module, Classifier)
    return Fork(layer, branch, upper, module, output_shape(branch, task.input_shape))


def output_shape(branch: Lower, seen: tuple[int, ...]) -> tuple[int, ...]:
    """Of one example of shape `seen`, without B."""
    with torch.no_grad():
        example = torch.empty(1, *seen, device=next(branch.parameters()).device)
        shape = tuple(branch.eval()(example).shape[1:])
    branch.train()
    return shape


VECTOR_NETWORK = "mlp"
"""Of a source that sees vectors, where none is named for it."""


def branch_of(task: Task, layer: str, *, view: str | None, named: Mapping[str, str]) -> Lower:
    """What the source with this view holds, new: the layers below the cut, or the network named for it."""
    default = VECTOR_NETWORK if view in VECTORS else None
    network = named.get(view, default) if view is not None else None
    return fork(task, layer).branch if view is None or network is None else own_branch(task, view, network)


def own_branch(task: Task, view: str, network: str) -> Lower:
    """A network by name for what `view` shows, new, without its last layer. ConfigError for a misfit."""
    seen = seen_shape(view, task.input_shape)
    key = f"method.branches: {view}: {network}"
    try:
        built = build_network(network, input_shape=seen, num_classes=task.num_classes)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    names = junction_points(built)
    require(bool(names), f"{key}: it needs two or more layers that have parameters, such as mlp or cnn")
    assert isinstance(built, nn.Sequential)
    branch = Lower(cut_before(built, names[-1])[0])
    branch.example_input_array = torch.empty(1, *seen)
    return branch


class Branches:
    """What the sources of a run hold: copies of the layers below the cut, or networks of their own."""

    def __init__(self, task: Task, views: Sequence[str], named: Mapping[str, str]) -> None:
        """`named`: network of each view that has its own. Raises ConfigError for one that no source has."""
        odd = [view for view in named if view not in views]
        told = ", ".join(dict.fromkeys(views))
        require(not odd, f"method.branches: no source has view {odd[:1]}; choose some of {told}")
        self.task, self.views, self.named = task, views, named
        self.own: dict[str, tuple[int, ...]] = {}
        """View -> shape of its branch's output, where it is no copy."""
        for view in dict.fromkeys(views):
            if view in VECTORS or view in named:
                with torch.device("meta"):
                    branch = branch_of(task, "", view=view, named=named)
                    self.own[view] = output_shape(branch, seen_shape(view, task.input_shape))

    def build(self, source: int, layer: str) -> Lower:
        """A new branch of one source."""
        return branch_of(self.task, layer, view=self.views[source], named=self.named)

    def shape(self, source: int, cut: Fork) -> tuple[int, ...]:
        """Of what one source sends of an example."""
        return self.own.get(self.views[source], cut.shape)

    def widths(self, sources: Sequence[int], cut: Fork) -> dict[str, int]:
        """D of these sources by name, in order."""
        return {str(source): math.prod(self.shape(source, cut)) for source in sources}

    def name(self, source: int) -> SubmodelId:
        """Of what one source holds: branch, or branch-<view>."""
        view = self.views[source]
        return SubmodelId(f"{BRANCH}-{view}") if view in self.own else BRANCH

    def together(self, branches: Mapping[int, L.LightningModule], server: Classifier) -> Parallel:
        """Branches by source and the server's part as one network over what `Views` gives."""
        shapes = [seen_shape(self.views[source], self.task.input_shape) for source in branches]
        alike = len(set(shapes)) == 1
        named = {str(source): branch for source, branch in branches.items()}
        whole = Parallel(named, server, shapes=None if alike else shapes)
        size = (len(shapes), *shapes[0]) if alike else (sum(map(math.prod, shapes)),)
        whole.example_input_array = torch.empty(1, *size)
        return whole

    def profiles(self, layer: str) -> list[SubmodelProfile]:
        """[K] of each source's branch."""
        found = {view: self._profile(self.views.index(view), layer) for view in dict.fromkeys(self.views)}
        return [found[view] for view in self.views]

    def _profile(self, source: int, layer: str) -> SubmodelProfile:
        return profile(lambda: self.build(source, layer), name=layer, task=self.task)


def cuts_of(held: Branches, upper: Callable[[Fork], Classifier]) -> list[Cut]:
    """What every position of the cut asks of both sides; `upper` makes the server's part of a fork.

    Positions for which it cannot (ConfigError) are left out. Shapes alone: nothing is computed.
    """
    task = held.task
    with torch.device("meta"):
        names = junction_points(whole_network(task, build_module(task), key="method.junction"))
    found = []
    for name in names:
        try:
            found.append(_cut(held, name, upper))
        except ConfigError:
            continue
    return found


def _cut(held: Branches, name: str, upper: Callable[[Fork], Classifier]) -> Cut:
    with torch.device("meta"):
        cut = fork(held.task, name)
        server = upper(cut)
        widths = list(merging(server).widths.values())
        server.example_input_array = torch.empty(1, sum(widths))
    below = held.profiles(name)
    above = profile(lambda: server, name=name, task=held.task)
    # The server needs the gradient of its input too, which the counted step leaves out: three times forward.
    return Cut(
        name,
        source_flops=np.array([one.flops_train for one in below]),
        server_flops=6 * above.macs_forward,
        activation_bytes=4 * np.array(widths),
        forward_flops=np.array([2 * one.macs_forward for one in below]),
    )


def merging(server: Classifier) -> Junction:
    """The server's first layer, which takes what all sources send."""
    first = next(server.network.children())
    assert isinstance(first, Junction)
    return first
