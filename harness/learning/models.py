"""From configuration to LightningModule: networks by name, optimizers by TrainingConfig."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import nn

from harness.config import nearest, require
from harness.cost.work import LocalWork
from harness.data.task import Task
from harness.types import ConfigError
from lightning_modules.classifier import Classifier
from lightning_modules.networks import build_network, network_names

Parameters = Iterable[nn.Parameter]


@dataclass(frozen=True, slots=True)
class TrainingConfig(LocalWork):
    """Local training: what every method that trains at clients shares. Extend it, or override defaults."""

    optimizer: str = "sgd"
    """sgd or adam."""
    lr: float = 0.1
    """Learning rate."""
    lr_decay: float = 1.0
    """Factor on lr per round."""
    momentum: float = 0.0
    """Momentum of sgd."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: float = 0.0
    """L2 coefficient inside the optimizer."""
    amsgrad: bool = False
    """Variant of adam."""

    @property
    def num_slots(self) -> int:
        """Numbers that the optimizer keeps per parameter."""
        if self.optimizer == "adam":
            return 3 if self.amsgrad else 2
        return 1 if self.momentum else 0

    def check(self) -> None:
        """Raise ConfigError for values no training can use."""
        require(self.optimizer in OPTIMIZERS, f"method.optimizer: unknown value {self.optimizer!r}"
                + nearest(self.optimizer, list(OPTIMIZERS)))  # fmt: skip
        require(self.lr > 0, f"method.lr must be > 0, got {self.lr}")
        require(0 < self.lr_decay <= 1, f"method.lr_decay must be in (0, 1], got {self.lr_decay}")
        require(0 <= self.momentum < 1, f"method.momentum must be in [0, 1), got {self.momentum}")
        require(not self.nesterov or self.momentum > 0, "method.nesterov needs method.momentum > 0")
        require(self.batch_size >= 0, f"method.batch_size must be >= 0, got {self.batch_size}")
        require(self.local_epochs >= 1, f"method.local_epochs must be >= 1, got {self.local_epochs}")
        steps = self.local_steps
        require(steps is None or steps >= 1, f"method.local_steps must be >= 1, got {steps}")


def _sgd(parameters: Parameters, cfg: TrainingConfig, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters,
        lr=lr,
        momentum=cfg.momentum,
        nesterov=cfg.nesterov,
        weight_decay=cfg.weight_decay,
        fused=True,
    )


def _adam(parameters: Parameters, cfg: TrainingConfig, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=lr, weight_decay=cfg.weight_decay, amsgrad=cfg.amsgrad, fused=True)


OPTIMIZERS: dict[str, Callable[[Parameters, TrainingConfig, float], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
}


def make_optimizer(parameters: Parameters, cfg: TrainingConfig, *, round: int) -> torch.optim.Optimizer:
    """The configured optimizer with this round's learning rate, lr * lr_decay^round."""
    return OPTIMIZERS[cfg.optimizer](parameters, cfg, cfg.lr * cfg.lr_decay**round)


def set_lr(optimizer: torch.optim.Optimizer, cfg: TrainingConfig, *, round: int) -> None:
    """Give an optimizer that outlives rounds this round's learning rate, lr * lr_decay^round."""
    for group in optimizer.param_groups:
        group["lr"] = cfg.lr * cfg.lr_decay**round


def take_step(optimizer: torch.optim.Optimizer, cfg: TrainingConfig, *, round: int) -> None:
    """One step with this round's learning rate; the gradients are gone after it."""
    set_lr(optimizer, cfg, round=round)
    optimizer.step()
    optimizer.zero_grad()


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[int, Any]:
    """Its moments per parameter; learning rate and the like come from the configuration again."""
    return dict(optimizer.state_dict()["state"])


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[int, Any]) -> None:
    """Take up what `optimizer_state` gave."""
    optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(state)})


def build_module(task: Task) -> L.LightningModule:
    """The task's network (`task.model`) with its loss.

    A user's `package.module:Class` is called as Class(input_shape=..., num_classes=...); an nn.Module that
    is no LightningModule is wrapped into a Classifier. Raises ConfigError for an unknown name or a shape that
    does not fit.
    """
    name = task.default_model if task.cfg.model == "auto" else task.cfg.model
    built = _network(name, task)
    module = built if isinstance(built, L.LightningModule) else Classifier(built)
    # What gives anything but logits [B, C] says how to read it.
    gives = "class logits" if not hasattr(module, "decode") else "boxes or a class per pixel"
    require(
        hasattr(module, "decode") == (task.kind != "classification"),
        f"task.model={name} gives {gives}, but task.name={task.cfg.name} is {task.kind}; "
        f"task.model=auto takes {task.default_model}",
    )
    return module


def _network(name: str, task: Task) -> nn.Module:
    if ":" in name:
        make = import_object(name, key="task.model")
        own: nn.Module = make(input_shape=task.input_shape, num_classes=task.num_classes)
        return own
    if name.partition("@")[0] not in network_names():
        raise ConfigError(f"task.model: unknown network {name!r}{nearest(name, network_names())}")
    try:
        return build_network(name, input_shape=task.input_shape, num_classes=task.num_classes)
    except ValueError as error:
        raise ConfigError(f"task.model={name} does not fit task.name={task.cfg.name}: {error}") from None


def import_object(path: str, *, key: str) -> Callable[..., Any]:
    """The object named `package.module:Class`, from the user's own code."""
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"{key}={path}: cannot import {module_name} ({error}); run from its folder or set PYTHONPATH"
        ) from None
    found = getattr(module, attribute, None)
    if not callable(found):
        hint = nearest(attribute, dir(module))
        raise ConfigError(f"{key}={path}: {module_name} has no class {attribute}{hint}")
    return found  # type: ignore[no-any-return]
