"""Networks cut by width: channels in groups, submodels that keep all groups of a layer or one.

The reconstruction of MFL (Yu, Li, IEEE Network 2021) that `harness/methods/mfl.py` trains with. Channels that
are added or normalised together are one axis; an axis l of C_l channels has P_l equal contiguous groups. A
structure q keeps everything of an axis (q_l = 1) or one of its groups (q_l = P_l); an instance (q, g) says
which. In a layer from axis m to axis l it keeps the weight block [out group g_l, in group g_m]. The image and
the logits are never cut.

Axes are found by tracing the network with torch.fx, or declared: a module may have an attribute `widths` of
type `Widths`. What can be cut: convolutions, linear layers and batch norm, in sequence, flattened, added up.

Shape letters: C_l channels, P_l groups, q_l and g_l as above, L axes.
"""

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import lightning as L
import torch
from torch import Tensor, fx, nn

Slices = tuple[slice, ...]
CUT: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
JOINS: Final = (operator.add, operator.iadd, operator.sub, operator.mul, torch.add, torch.mul, "add", "add_")
"""Operations whose operands share their channels."""


@dataclass(frozen=True, slots=True)
class Widths:
    """Where the channel axes of a network lie in its weights."""

    axes: tuple[str, ...]
    """[L] name of the first module with these output channels, in the order of the forward pass; the last
    one's are the logits."""
    channels: tuple[int, ...]
    """[L] C_l."""
    modules: Mapping[str, tuple[int | None, int]]
    """Module -> (input axis, output axis); None is the image."""


@dataclass(frozen=True, slots=True)
class Structure:
    """One shape of submodel."""

    name: str
    factors: tuple[int, ...]
    """[L] q_l: 1 keeps the whole axis, more keeps one of so many groups."""

    @property
    def num_instances(self) -> int:
        """Q = prod q_l, the number of different submodels of this shape."""
        return math.prod(self.factors)

    def groups(self, instance: int) -> tuple[int, ...]:
        """[L] g_l of an instance 0..Q-1: its digits in mixed radix q, the first axis the most significant.

        Raises ValueError for an instance outside 0..Q-1.
        """
        if not 0 <= instance < self.num_instances:
            raise ValueError(f"structure {self.name} has {self.num_instances} instances, not {instance}")
        digits = []
        for factor in reversed(self.factors):
            instance, digit = divmod(instance, factor)
            digits.append(digit)
        return tuple(reversed(digits))


def widths_of(module: nn.Module) -> Widths:
    """The axes of a network, declared (`module.widths`) or traced; names are those of `module`'s parts.

    Raises ValueError for a network that cannot be cut.
    """
    prefix = ""
    while isinstance(module, L.LightningModule) and not hasattr(module, "widths"):
        children = list(module.named_children())
        if len(children) != 1:
            break
        prefix, module = f"{prefix}{children[0][0]}.", children[0][1]
    declared = getattr(module, "widths", None)
    found = declared if isinstance(declared, Widths) else _Tracer(module).widths()
    return Widths(
        axes=found.axes,
        channels=found.channels,
        modules={f"{prefix}{name}".removesuffix("."): axes for name, axes in found.modules.items()},
    )


def check_structure(widths: Widths, structure: Structure) -> None:
    """Raise ValueError, in one line, where a structure does not fit a network's axes."""
    told = f"structure {structure.name}"
    if len(structure.factors) != len(widths.axes):
        axes = ", ".join(f"{a} ({c})" for a, c in zip(widths.axes, widths.channels, strict=True))
        depth = len(widths.axes)
        raise ValueError(f"{told} has {len(structure.factors)} factors, the network {depth} layers: {axes}")
    for factor, axis, channels in zip(structure.factors, widths.axes, widths.channels, strict=True):
        if factor < 1 or channels % factor:
            raise ValueError(f"{told}: {factor} does not divide the {channels} channels of layer {axis!r}")
    if structure.factors[-1] != 1:
        raise ValueError(f"{told}: the outputs of the last layer are never cut, its factor must be 1")


def blocks(module: nn.Module, widths: Widths, structure: Structure, instance: int = 0) -> dict[str, Slices]:
    """Where an instance's weights lie: parameter or floating-point buffer of `module` -> slices of it.

    Raises ValueError for a parameter of a module without axes.
    """
    groups = structure.groups(instance)

    def part(size: int, axis: int | None) -> slice:
        if axis is None:
            return slice(0, size)
        each = size // structure.factors[axis]
        return slice(groups[axis] * each, (groups[axis] + 1) * each)

    found = {}
    for owner, name, tensor in _tensors(module):
        path = _path(owner, name)
        if owner not in widths.modules:
            raise ValueError(f"{path} belongs to no width axis: its module cannot be cut")
        source, target = widths.modules[owner]
        axes = [target, source, *[None] * tensor.dim()][: tensor.dim()]
        found[path] = tuple(part(size, axis) for size, axis in zip(tensor.shape, axes, strict=True))
    return found


def take(state: Mapping[str, Tensor], where: Mapping[str, Slices]) -> dict[str, Tensor]:
    """The weights of an instance, contiguous copies: of every entry the block that `blocks` names."""
    return {name: state[name][where[name]].clone(memory_format=torch.contiguous_format) for name in where}


def put(state: Mapping[str, Tensor], part: Mapping[str, Tensor], where: Mapping[str, Slices]) -> None:
    """Write an instance's weights back into `state`, in place: the inverse of `take`."""
    for name, slices in where.items():
        state[name][slices] = part[name]


def narrow(module: nn.Module, widths: Widths, structure: Structure) -> None:
    """Make `module` the small network of a structure, in place, with the weights of its first instance."""
    where = blocks(module, widths, structure)
    for owner, name, tensor in list(_tensors(module)):
        part = module.get_submodule(owner)
        kept = tensor.detach()[where[_path(owner, name)]].clone()
        if isinstance(tensor, nn.Parameter):
            setattr(part, name, nn.Parameter(kept, requires_grad=tensor.requires_grad))
        else:
            part.register_buffer(name, kept)
    for owner, (source, target) in widths.modules.items():
        part = module.get_submodule(owner)
        for attribute, axis in zip(_sizes(part), (source, target), strict=True):
            if attribute and axis is not None:
                setattr(part, attribute, getattr(part, attribute) // structure.factors[axis])


def _sizes(part: nn.Module) -> tuple[str, str]:
    """Names of the attributes that tell a module's input and output width."""
    if isinstance(part, NORMS):
        return "", "num_features"
    return ("in_features", "out_features") if isinstance(part, nn.Linear) else ("in_channels", "out_channels")


def _tensors(module: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """(owner, name, tensor) of every parameter and floating-point buffer."""
    for owner, part in module.named_modules():
        for name, parameter in part.named_parameters(recurse=False):
            yield owner, name, parameter
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_floating_point():
                yield owner, name, buffer


def _path(owner: str, name: str) -> str:
    return f"{owner}.{name}" if owner else name


class _Tracer:
    """Follows the channels through a network's graph. An axis is a set of producers, joined by additions."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parent: list[int] = []
        self.names: list[str] = []
        self.channels: list[int] = []
        self.spans: dict[str, tuple[int | None, int]] = {}

    def widths(self) -> Widths:
        """Raises ValueError for a network that cannot be traced or cut."""
        kind = type(self.module).__name__
        try:
            graph = fx.Tracer().trace(self.module)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{kind} cannot be traced ({reason}); declare its `widths`") from None
        axis: dict[fx.Node, int | None] = {}
        logits: int | None = None
        for node in graph.nodes:
            logits = axis[node] = self._follow(node, [axis[n] for n in node.all_input_nodes])
        if logits is None:
            raise ValueError(f"{kind} has no layer that can be cut")
        return self._numbered(self._root(logits))

    def _follow(self, node: fx.Node, sources: Sequence[int | None]) -> int | None:
        """The axis of a node's output, from those of its inputs."""
        if node.op == "call_module":
            return self._module(str(node.target), sources[0])
        distinct = {s if s is None else self._root(s) for s in sources}
        if len(distinct) > 1:
            if node.target not in JOINS or None in distinct:
                raise ValueError(f"{node.name} of different channels cannot be cut")
            first, *rest = sorted(cast("set[int]", distinct))
            for other in rest:
                self._join(first, other)
        return sources[0] if sources else None

    def _module(self, name: str, source: int | None) -> int | None:
        part = self.module.get_submodule(name)
        if isinstance(part, CUT):
            if getattr(part, "groups", 1) != 1:
                raise ValueError(f"{name}: a grouped convolution cannot be cut")
            self.parent.append(len(self.parent))
            self.names.append(name)
            self.channels.append(int(part.weight.shape[0]))
            self._span(name, source, len(self.parent) - 1)
            return self.spans[name][1]
        if isinstance(part, NORMS) and source is not None:
            self._span(name, source, source)
        elif any(True for _ in part.parameters()):
            raise ValueError(f"{name}: a {type(part).__name__} cannot be cut")
        return source

    def _span(self, name: str, source: int | None, target: int) -> None:
        if name in self.spans:
            raise ValueError(f"{name} is used twice: shared layers cannot be cut")
        self.spans[name] = source, target

    def _root(self, axis: int) -> int:
        while self.parent[axis] != axis:
            axis = self.parent[axis]
        return axis

    def _join(self, first: int, other: int) -> None:
        if self.channels[first] != self.channels[other]:
            names = self.names[first], self.names[other]
            raise ValueError(f"layers {' and '.join(names)} are added but differ in channels")
        self.parent[other] = first

    def _numbered(self, last: int) -> Widths:
        """Axes in the order of the forward pass, the logits' last."""
        roots = [*sorted({self._root(axis) for axis in range(len(self.parent))} - {last}), last]
        number = {root: position for position, root in enumerate(roots)}
        return Widths(
            axes=tuple(self.names[root] for root in roots),
            channels=tuple(self.channels[root] for root in roots),
            modules={
                name: (None if source is None else number[self._root(source)], number[self._root(target)])
                for name, (source, target) in self.spans.items()
            },
        )
