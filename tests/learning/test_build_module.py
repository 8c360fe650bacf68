"""From `task.model` to a LightningModule: names, widths, and errors that name the key."""

import pytest
from torch import nn

from harness.config import TaskConfig
from harness.data.task import Task
from harness.data.tasks import load_task
from harness.learning.models import build_module
from harness.types import ConfigError
from lightning_modules.classifier import Classifier
from lightning_modules.fcn import Fcn
from lightning_modules.yolov3 import Yolov3


def shapes(kind: str, model: str = "auto", *, image_size: int = 64) -> Task:
    return load_task(TaskConfig(name=f"shapes_{kind}", model=model, options={"image_size": image_size}))


def num_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_networks_with_a_loss_of_their_own_stay_as_they_are() -> None:
    assert type(build_module(shapes("detection"))) is Yolov3
    assert type(build_module(shapes("segmentation"))) is Fcn
    classifier = build_module(load_task(TaskConfig(name="digits", model="logistic")))
    assert type(classifier) is Classifier


def test_a_width_scales_the_channels() -> None:
    narrow, same, wider = (
        build_module(shapes("detection", model)) for model in ("yolov3_narrow", "yolov3@0.125", "yolov3@0.25")
    )
    assert num_params(narrow) == num_params(same)
    assert 3.9 < num_params(wider) / num_params(same) < 4
    assert num_params(build_module(shapes("segmentation", "fcn_resnet50@0.03125"))) < 50_000


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "yolov3@wide",
            r"task\.model=yolov3@wide does .*: a width is a number, as in yolov3@0\.25; got 'wide'",
        ),
        ("yolov3@0", r"task\.model=yolov3@0 does .*: width must be > 0, got 0\.0"),
        ("yolov3@nan", "width must be > 0, got nan"),
        ("lenet@0.5", r"lenet takes no width, got 'lenet@0\.5'; yolov3, fcn_resnet50 do"),
        ("yolov4@0.5", r"task\.model: unknown network 'yolov4@0\.5'; .*yolov3"),
    ],
)
def test_what_is_no_width_and_no_network(model: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_module(shapes("detection", model))


def test_images_that_do_not_fit() -> None:
    wanted = (
        r"^task\.model=yolov3_narrow does not fit task\.name=shapes_detection: .* multiples of 32 .* 65x65"
    )
    with pytest.raises(ConfigError, match=wanted):
        build_module(shapes("detection", "yolov3_narrow", image_size=65))
    with pytest.raises(
        ConfigError, match=r"^task\.model=fcn_narrow gives boxes or a class per pixel, but task"
    ):
        build_module(load_task(TaskConfig(name="digits", model="fcn_narrow", image_size=32)))
