"""What knowledge transfer between unlike networks needs: both sides' networks, and a schedule on plateaus.

He, Annavaram, Avestimehr, "Group knowledge transfer", NeurIPS 2020.

Shape letters: B batch, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.config import nearest, require
from harness.data.task import Task
from harness.learning.models import TrainingConfig, import_object
from harness.learning.weights import load_state
from harness.types import ConfigError
from lightning_modules.classifier import Classifier
from lightning_modules.edge import Edge
from lightning_modules.resnet import EDGES, SERVERS, EdgeHead, Extractor, ServerNet
from lightning_modules.server import Server

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""How features may travel."""
_FITTING: set[tuple[object, ...]] = set()
"""Edge, server, input shape and classes that fit: a run of a deep server on shapes takes 0.2 s."""


@dataclass(frozen=True, slots=True)
class TransferConfig(TrainingConfig):
    """Networks and training on both sides. Defaults: the paper's IID setting; T, alpha from its release."""

    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    amsgrad: bool = True
    batch_size: int = 256
    edge: str = "resnet8"
    """A client's network: resnet4, resnet6, resnet8, or `package.module:function` of extractor and head."""
    server: str = "resnet55"
    """The server's network: resnet19, resnet55, resnet109, or `package.module:function`."""
    temperature: float = 3.0
    """T of both distillations."""
    alpha: float = 1.0
    """Weight of both distillations."""
    server_epochs: int = 20
    """E_s: the server's passes over the features it received."""
    shuffle_clients: bool = True
    """Batches of the server mix all clients; else client after client."""
    recompute_logits: bool = False
    """Soft labels from a pass after the last epoch, as Algorithm 1 prints, instead of from within it."""
    feature_dtype: str = "fp32"
    """fp32, bf16 or fp16: how features travel and are kept."""
    memory_budget_mb: float = 8000.0
    """Features to train on beyond so much lie in a file, 1e6 bytes; what is on its way comes on top."""

    def check(self) -> None:
        """Raise ConfigError for values no training can use."""
        TrainingConfig.check(self)
        dtype = self.feature_dtype
        require(
            dtype in DTYPES, f"method.feature_dtype: unknown value {dtype!r}{nearest(dtype, list(DTYPES))}"
        )
        require(self.temperature > 0, f"method.temperature must be > 0, got {self.temperature}")
        require(self.alpha >= 0, f"method.alpha must be >= 0, got {self.alpha}")
        require(self.server_epochs >= 1, f"method.server_epochs must be >= 1, got {self.server_epochs}")
        budget = self.memory_budget_mb
        require(budget >= 0, f"method.memory_budget_mb must be >= 0, got {budget}")


@dataclass(frozen=True, slots=True)
class Networks:
    """Builders of both sides' networks, and of what is deployed: a client's extractor below the server's."""

    cfg: TransferConfig
    task: Task

    def edge(self) -> Edge:
        """Extractor and local classifier."""
        extractor, head = self._edge_parts()
        return Edge(extractor, head, alpha=self.cfg.alpha, temperature=self.cfg.temperature)

    def server(self) -> Server:
        """The network over features."""
        module = Server(self._trunk(), alpha=self.cfg.alpha, temperature=self.cfg.temperature)
        module.example_input_array = torch.empty(1, *self.feature_shape)
        return module

    def deployed(self) -> Classifier:
        """What classifies in the end; the local classifier is thrown away."""
        return Classifier(nn.Sequential(self._edge_parts()[0], self._trunk()))

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Of one example at the cut, by a run of the extractor on shapes alone."""
        with torch.device("meta"), torch.no_grad():
            found: Tensor = self._edge_parts()[0].eval()(torch.empty(1, *self.task.input_shape))
        return tuple(found.shape[1:])

    def check(self) -> None:
        """Raise ConfigError where the edge's features do not fit a network that is to read them."""
        key = (self.cfg.edge, self.cfg.server, self.task.input_shape, self.task.num_classes)
        if key not in _FITTING:
            self._check_readers()
            _FITTING.add(key)

    def _check_readers(self) -> None:
        classes, shape = self.task.num_classes, self.feature_shape
        readers: dict[str, Callable[[], nn.Module]] = {"edge": self._head, "server": self._trunk}
        for name, build in readers.items():
            try:
                with torch.device("meta"), torch.no_grad():
                    out = build().eval()(torch.empty(1, *shape))
                problem = "" if out.shape == (1, classes) else f"it gives {tuple(out.shape[1:])}"
            except (RuntimeError, ValueError) as error:
                problem = str(error).splitlines()[0]
            if problem:
                raise ConfigError(
                    f"method.{name}={getattr(self.cfg, name)}: must lead from the edge's features "
                    f"{shape} to {classes} classes; {problem}"
                )

    def _edge_parts(self) -> tuple[nn.Module, nn.Module]:
        name, shape, classes = self.cfg.edge, self.task.input_shape, self.task.num_classes
        if ":" in name:
            extractor, head = import_object(name, key="method.edge")(input_shape=shape, num_classes=classes)
            return extractor, head
        if name not in EDGES:
            raise ConfigError(f"method.edge: unknown network {name!r}{nearest(name, EDGES)}")
        return _built(lambda: Extractor(shape), task=self.task), EdgeHead(name, classes)

    def _head(self) -> nn.Module:
        return self._edge_parts()[1]

    def _trunk(self) -> nn.Module:
        name, classes = self.cfg.server, self.task.num_classes
        if ":" in name:
            shape = self.feature_shape
            trunk: nn.Module = import_object(name, key="method.server")(
                feature_shape=shape, num_classes=classes
            )
            return trunk
        if name not in SERVERS:
            raise ConfigError(f"method.server: unknown network {name!r}{nearest(name, list(SERVERS))}")
        return ServerNet(SERVERS[name], classes)


def _built(build: Callable[[], nn.Module], *, task: Task) -> nn.Module:
    try:
        return build()
    except ValueError as error:
        raise ConfigError(f"task.name={task.cfg.name} does not fit method.edge: {error}") from None


def load_extractor(extractor: nn.Module, state: Mapping[str, Tensor], *, source: Path) -> None:
    """Take an extractor's weights out of those of a whole network, by the ends of their names.

    Raises ConfigError where one is missing or of another shape.
    """
    found: dict[str, Tensor] = {}
    for name in extractor.state_dict():
        matches = [value for key, value in state.items() if f".{key}".endswith(f".{name}")]
        if len(matches) == 1:
            found[name] = matches[0]
    wanted = {name for name, t in extractor.state_dict().items() if t.is_floating_point()}
    missing = sorted(wanted - found.keys())
    if missing:
        raise ConfigError(f"method.init_extractor={source}: has no weights called {', '.join(missing)}")
    try:
        load_state(extractor, {name: found[name] for name in wanted})
    except ValueError as error:
        raise ConfigError(f"method.init_extractor={source}: {error}") from None


@dataclass(slots=True)
class Plateau:
    """A tenth of the learning rate after `patience` evaluations without a better value.

    torch's ReduceLROnPlateau (mode max, threshold 1e-4 relative) as plain numbers, without its lower limit.
    """

    factor: float = 1.0
    """On the learning rate."""
    best: float = float("-inf")
    num_bad: int = 0
    patience: int = 10

    def observe(self, value: float) -> None:
        """One more value, higher is better."""
        if value > self.best * (1 + 1e-4) or self.best == float("-inf"):
            self.best, self.num_bad = value, 0
            return
        self.num_bad += 1
        if self.num_bad > self.patience:
            self.factor, self.num_bad = self.factor * 0.1, 0
