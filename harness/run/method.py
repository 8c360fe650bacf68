"""The contract of a method, and how one is found by name."""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar, get_args

import lightning as L

from harness.config import MethodConfig, nearest, require
from harness.cost.submodel import SubmodelProfile
from harness.data.task import Kind
from harness.exchange.client import Client
from harness.exchange.cohort import Cohort
from harness.exchange.payloads import FULL as FULL
from harness.exchange.payloads import Payload
from harness.learning.models import TrainingConfig, import_object
from harness.learning.profile import profile
from harness.learning.workplace import Workplace
from harness.types import ConfigError, SubmodelId

C = TypeVar("C", bound=Client[Any])
CfgT = TypeVar("CfgT", bound=MethodConfig)
Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call of an endpoint, as payloads of meta tensors: shapes without data."""

    endpoint: Callable[..., Payload]
    submodel: SubmodelId
    down: Payload
    up: Payload
    times: int = 1
    """Calls per client and round."""


class Method(ABC, Generic[C, CfgT]):
    """A federated-learning method: the server's side, and the one place that reads like its paper."""

    Config: ClassVar[type[MethodConfig]]
    """Its hyper-parameters, with sources."""
    Client: ClassVar[type[Client[Any]]]
    """Its clients' side."""
    kinds: ClassVar[tuple[Kind, ...]] = get_args(Kind)
    """Of tasks that it works on; one that looks at logits, or cuts a network, names classification alone."""

    def __init__(self, cfg: CfgT, place: Workplace) -> None:
        """Cheap and free of data: `describe` builds methods too. Raises ConfigError for a bad `cfg`."""
        self.cfg = cfg
        self.place = place
        task = place.task
        require(
            task.kind in self.kinds,
            f"task.name={task.cfg.name}: {type(self).__name__} works on {' and '.join(self.kinds)}, got a "
            f"{task.kind} task; use another method, such as fedavg",
        )

    @abstractmethod
    def models(self) -> Mapping[str, Callable[[], L.LightningModule]]:
        """Every network of the method as configured, submodels first, by the name `describe` prints."""

    def submodels(self) -> Mapping[SubmodelId, SubmodelProfile]:
        """What the scheduler may assign; by default the first network."""
        name, build = next(iter(self.models().items()))
        return {SubmodelId(name): self.profile(name, build)}

    def profile(self, name: str, build: Callable[[], L.LightningModule]) -> SubmodelProfile:
        """What one network costs, its memory with this method's batches and optimizer."""
        found = profile(build, name=name, task=self.place.task)
        if not isinstance(self.cfg, TrainingConfig):
            return found
        held = found.memory_bytes(batch_size=self.cfg.batch_size or 1, optimizer_slots=self.cfg.num_slots)
        return replace(found, train_bytes=held)

    @abstractmethod
    def exchanges(self, num_examples: int) -> Sequence[Exchange]:
        """What one client with so many examples exchanges per round, built on torch's meta device."""

    def required(self) -> frozenset[SubmodelId]:
        """Submodels that somebody must play from the first round on: checked before a run begins."""
        return frozenset()

    @property
    def done(self) -> bool:
        """Nothing is gained by another round: the run ends. Read after each one; part of the state."""
        return False

    def tables(self) -> Mapping[str, list[dict[str, Any]]]:
        """What `describe` shows beside models and exchanges: rows of equal keys by the table's name."""
        return {}

    def start(self) -> None:
        """Make the initial state (weights, optimizers). Called once, before the first round or a restore."""

    @abstractmethod
    def round(self, cohort: Cohort[C]) -> Metrics:
        """One round of training. Returned values go into the record as they are named."""

    @abstractmethod
    def evaluate(self, cohort: Cohort[C]) -> Metrics:
        """`val/<metric>` and `eval/<metric>` of the current state; booked under the eval phase."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything a later round depends on: tensors and plain values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that `state_dict` gave."""


def method_names() -> list[str]:
    """One per file in harness/methods."""
    package = importlib.import_module("harness.methods")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def load_method(name: str) -> type[Method[Any, Any]]:
    """The Method class in harness/methods/<name>.py, or a user's `package.module:Class`."""
    if ":" in name:
        found = import_object(name, key="method.name")
        if not (isinstance(found, type) and issubclass(found, Method)):
            raise ConfigError(f"method.name={name}: must be a subclass of harness.run.method.Method")
        return found
    if name not in method_names():
        raise ConfigError(f"method.name: unknown method {name!r}{nearest(name, method_names())}")
    module = importlib.import_module(f"harness.methods.{name}")
    classes = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and issubclass(item, Method) and item.__module__ == module.__name__
    ]
    assert len(classes) == 1, f"harness/methods/{name}.py must define exactly one Method"
    return classes[0]


def method_config(name: str) -> type[MethodConfig]:
    """The Config class of a method: what `loading.load` checks the method section against."""
    return load_method(name).Config
