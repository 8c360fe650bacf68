"""Tasks by name. One file per family; `load_task` is the way in."""

import importlib

from harness.config import TaskConfig, nearest, require
from harness.data.task import Task
from harness.data.tasks.cifar import Cifar10, Cifar100
from harness.data.tasks.cinic10 import Cinic10
from harness.data.tasks.digits import Digits
from harness.data.tasks.emnist import Emnist
from harness.data.tasks.femnist import Femnist
from harness.data.tasks.mnist import FashionMnist, Mnist, MnistWriters
from harness.data.tasks.npz import Npz
from harness.data.tasks.shapes import ShapesDetection, ShapesSegmentation
from harness.data.tasks.synthetic import Synthetic
from harness.data.tasks.voc import VocDetection, VocSegmentation
from harness.types import ConfigError

TASKS: dict[str, type[Task]] = {
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "cinic10": Cinic10,
    "digits": Digits,
    "emnist": Emnist,
    "fashion_mnist": FashionMnist,
    "femnist": Femnist,
    "mnist": Mnist,
    "mnist_writers": MnistWriters,
    "npz": Npz,
    "shapes_detection": ShapesDetection,
    "shapes_segmentation": ShapesSegmentation,
    "synthetic": Synthetic,
    "voc_detection": VocDetection,
    "voc_segmentation": VocSegmentation,
}


def task_names() -> list[str]:
    """What `task.name` may be, besides `package.module:Class`."""
    return sorted(TASKS)


def load_task(cfg: TaskConfig) -> Task:
    """The task that cfg names, built but not read. Raises ConfigError."""
    if ":" in cfg.name:
        return _import(cfg.name)(cfg)
    require(cfg.name in TASKS, f"task.name: unknown task {cfg.name!r}{nearest(cfg.name, task_names())}")
    return TASKS[cfg.name](cfg)


def _import(name: str) -> type[Task]:
    """A user's own class, `package.module:Class`, from sys.path."""
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"task.name: {name!r} cannot be imported ({error})") from None
    found = getattr(module, class_name, None)
    classes = [
        key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Task)
    ]
    hint = nearest(class_name, classes) if classes else ""
    require(found is not None, f"task.name: {module_name} has no {class_name!r}{hint}")
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ConfigError(f"task.name: {name!r} must be a subclass of harness.data.task.Task, got {found!r}")
    return found
