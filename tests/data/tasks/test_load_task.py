import sys
from pathlib import Path

import pytest

from harness.config import TaskConfig
from harness.data.task import Task
from harness.data.tasks import load_task, task_names
from harness.types import ConfigError

SHAPES = {
    "cifar10": ((3, 32, 32), 10, 50_000),
    "cifar100": ((3, 32, 32), 100, 50_000),
    "cinic10": ((3, 32, 32), 10, 90_000),
    "digits": ((1, 28, 28), 10, 1500),
    "emnist": ((1, 28, 28), 62, 697_932),
    "fashion_mnist": ((1, 28, 28), 10, 60_000),
    "femnist": ((1, 28, 28), 62, 732_849),
    "mnist": ((1, 28, 28), 10, 60_000),
    "mnist_writers": ((1, 28, 28), 10, 60_000),
    "shapes_detection": ((3, 64, 64), 3, 1200),
    "shapes_segmentation": ((3, 64, 64), 4, 1200),
    "synthetic": ((1, 16, 16), 10, 2000),
    "voc_detection": ((3, 416, 416), 20, 5717),
    "voc_segmentation": ((3, 416, 416), 21, 1464),
}


def test_names() -> None:
    assert task_names() == sorted([*SHAPES, "npz"])


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shape_classes_and_size_are_known_without_data(name: str) -> None:
    task = load_task(TaskConfig(name=name))
    assert (task.input_shape, task.num_classes, task.num_train) == SHAPES[name]


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_image_size(name: str) -> None:
    task = load_task(TaskConfig(name=name, image_size=24))
    assert task.input_shape == (SHAPES[name][0][0], 24, 24)


@pytest.mark.parametrize(
    ("cfg", "reason"),
    [
        (TaskConfig(name="cifar11"), r"task.name: unknown task 'cifar11'; did you mean cifar10+\?"),
        (
            TaskConfig(options={"val_form": "test"}),
            r"task.options.val_form: unknown key; did you mean val_from\?",
        ),
        (
            TaskConfig(options={"val_from": "tset"}),
            r"task.options.val_from: unknown split 'tset'; did you mean test",
        ),
        (TaskConfig(options={"val_from": 3}), r"task.options.val_from must be str, got 3"),
        (TaskConfig(name="synthetic", options={"num_train": True}), "num_train must be int, got True"),
        (TaskConfig(name="synthetic", options={"channels": 0}), "task.options.channels must be >= 1, got 0"),
        (
            TaskConfig(name="emnist", options={"split": "byclas"}),
            r"unknown split 'byclas'; did you mean byclass\?",
        ),
        (TaskConfig(image_size=0), "task.image_size must be >= 1, got 0"),
        (TaskConfig(augment=["flip"]), r"task.augment: unknown augmentation 'flip'; did you mean hflip\?"),
        (TaskConfig(name="npz"), "task.path must name an .npz file"),
        (TaskConfig(name="no_such_module:Thing"), "cannot be imported .*No module named 'no_such_module'"),
        (
            TaskConfig(name="harness.data.tasks:Cifar11"),
            "harness.data.tasks has no 'Cifar11'; did you mean Cifar10",
        ),
        (TaskConfig(name="harness.config:Config"), "must be a subclass of harness.data.task.Task"),
    ],
)
def test_mistakes_are_explained_in_one_line(cfg: TaskConfig, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as error:
        load_task(cfg)
    assert "\n" not in str(error.value)


def test_a_task_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_task.py").write_text(
        "from harness.data.tasks.digits import Digits\nclass Mine(Digits):\n    metric = 'mine'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    task = load_task(TaskConfig(name="my_own_task:Mine", limit_train=20))
    assert isinstance(task, Task)
    assert task.metric == "mine"
    assert len(task.load().train) == 20
    sys.modules.pop("my_own_task")
