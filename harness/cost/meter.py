"""FLOPs, counted by torch where torch runs them, forward and backward.

`torch.utils.flop_counter` is exact for dense convolutions and matrix products (2 FLOPs per multiply-add). It
counts 0 for element-wise work (batch norm, ReLU, pooling, optimizers) and for a CPU LSTM, and over-counts the
backward pass of grouped convolutions. Counting a step costs about a millisecond, so the count of a step
is kept under a key derived from everything that decides it, and replayed.
"""

import hashlib
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


class Meter:
    """Adds up the FLOPs of the steps that run inside `step`."""

    def __init__(self, *, exact: bool = False) -> None:
        """`exact` counts every step anew; otherwise equal steps are counted once and replayed."""
        self.exact = exact
        self._pending = 0
        self._known: dict[Hashable, int] = {}
        self._structures: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()

    @contextmanager
    def step(self, module: nn.Module, *inputs: Tensor, kind: str = "train") -> Iterator[None]:
        """Meter the block, in which `module` computes on `inputs`.

        `kind` sets apart steps of one module on equal inputs that do different work
        (`train`: forward and backward, `forward`: forward alone, or a method's own word).
        """
        key = self.key(module, *inputs, kind=kind)
        flops = None if self.exact else self._known.get(key)
        if flops is not None:
            yield
        else:
            with FlopCounterMode(display=False) as counter:
                yield
            flops = self._known[key] = int(counter.get_total_flops())
        self._pending += flops

    def key(self, module: nn.Module, *inputs: Tensor, kind: str) -> Hashable:
        """Everything that decides the FLOPs of a step."""
        structure = self._structures.get(module)
        if structure is None:
            structure = hashlib.sha256(repr(module).encode()).hexdigest()
            self._structures[module] = structure
        parameters = tuple((tuple(p.shape), p.requires_grad) for p in module.parameters())
        shapes = tuple((tuple(x.shape), x.dtype, x.requires_grad) for x in inputs)
        return structure, parameters, shapes, module.training, torch.is_grad_enabled(), kind

    def book(self, flops: int) -> None:
        """Add work that torch's counter does not see: a decomposition (harness/cost/formulas.py)."""
        self._pending += flops

    def take(self) -> int:
        """FLOPs since the last call."""
        flops, self._pending = self._pending, 0
        return flops
