"""What a network costs, found on torch's meta device: shapes alone, no data, no arithmetic."""

from collections.abc import Callable, Hashable
from dataclasses import replace

import lightning as L
import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.cost.submodel import SubmodelProfile
from harness.data.task import Task
from harness.learning.weights import state_of
from harness.types import ConfigError, SubmodelId

BATCH = 2
"""Examples in the counted step; batch norm needs more than one."""
_COUNTED: dict[Hashable, SubmodelProfile] = {}
"""What steps cost, by what makes them equal: a deep one takes a second, and cells of a sweep share a few."""


def profile(build: Callable[[], L.LightningModule], *, name: str, task: Task) -> SubmodelProfile:
    """Count one training step of a task's network with torch's own counter.

    A network that sees something else than the task's inputs says so by Lightning's `example_input_array`.
    Raises ConfigError for one that refuses the task's targets.
    """
    with torch.device("meta"):
        module = build().to("meta")
        example = module.example_input_array
        shape = task.input_shape if not isinstance(example, torch.Tensor) else example.shape[1:]
        inputs = torch.empty(BATCH, *shape)
        targets = torch.empty(BATCH, *task.target_shape, dtype=task.target_dtype)
    key = (
        *(type(module), repr(module), tuple(inputs.shape), tuple(targets.shape)),
        tuple((n, tuple(p.shape), p.requires_grad) for n, p in module.named_parameters()),
    )
    if key not in _COUNTED:
        try:
            _COUNTED[key] = _count(module, inputs, targets)
        except ValueError as error:  # a network for targets of another kind
            raise ConfigError(f"task.model does not fit task.name={task.cfg.name}: {error}") from error
    return replace(_COUNTED[key], name=SubmodelId(name))


def _count(module: L.LightningModule, inputs: torch.Tensor, targets: torch.Tensor) -> SubmodelProfile:
    ids = torch.empty(BATCH, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as forward:
        module(inputs)
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() and tensor.shape[0] == BATCH:
            saved[id(tensor)] = tensor.numel() * tensor.element_size()
        return tensor

    with FlopCounterMode(display=False) as both, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = module.training_step((inputs, targets, ids), 0)
        assert isinstance(loss, torch.Tensor), "a training_step must return the loss"
        loss.backward()
    return SubmodelProfile(
        name=SubmodelId("counted"),
        params=sum(p.numel() for p in module.parameters() if p.requires_grad),
        macs_forward=int(forward.get_total_flops()) // 2 // BATCH,
        flops_train=int(both.get_total_flops()) // BATCH,
        num_bytes=sum(t.numel() * t.element_size() for t in state_of(module).values()),
        activation_bytes=sum(saved.values()) // BATCH,
        capacity=tuple(p.numel() // p.shape[1] for p in module.parameters() if p.dim() >= 2),
    )
