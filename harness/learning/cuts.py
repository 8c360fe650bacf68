"""A task's network in two parts, for split learning."""

import lightning as L
import torch
from torch import nn

from harness.config import require
from harness.data.task import Task
from harness.learning.models import build_module
from harness.types import ConfigError
from lightning_modules.classifier import Classifier
from lightning_modules.partitioned import Lower, cut_after, cut_points, default_cut


def cut_network(task: Task, cut: str) -> tuple[Lower, Classifier]:
    """(lower, upper) of a new network of the task. Raises ConfigError where `cut` names no possible cut."""
    lower, upper = cut_module(build_module(task), cut, task=task)
    with torch.no_grad():
        example = torch.empty(1, *task.input_shape, device=next(lower.parameters()).device)
        upper.example_input_array = lower.eval()(example)
    lower.train()
    return lower, upper


def cut_module(module: L.LightningModule, cut: str, *, task: Task) -> tuple[Lower, Classifier]:
    """(lower, upper) of `module`, sharing its layers. Raises ConfigError like `cut_network`."""
    network = whole_network(task, module, key="method.cut")
    names = cut_points(network)
    chosen = default_cut(network) if cut == "auto" else cut
    require(
        chosen in names, f"method.cut: no cut after layer {cut!r}; choose one of auto, {', '.join(names)}"
    )
    lower, upper = cut_after(network, chosen)
    assert isinstance(module, Classifier)
    return Lower(lower), Classifier(upper, loss=module.loss)


def whole_network(task: Task, module: L.LightningModule, *, key: str) -> nn.Sequential:
    """The layers of a task's network. Raises ConfigError where it cannot be cut."""
    network = module.network if isinstance(module, Classifier) else None
    if not isinstance(network, nn.Sequential) or not cut_points(network):
        raise ConfigError(
            f"{key}: task.model={task.cfg.model} cannot be cut; it needs an nn.Sequential with two or more "
            "layers that have parameters, such as leaf_cnn, cnn, mlp or resnet20"
        )
    return network
