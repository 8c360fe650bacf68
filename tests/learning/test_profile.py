"""Counts of networks by hand, and against what training is charged."""

import pytest
import torch
from local_run import make_place

from harness.config import TaskConfig
from harness.cost.submodel import SubmodelProfile
from harness.data.task import Task
from harness.data.tasks import load_task
from harness.learning.models import build_module
from harness.learning.profile import profile

PIXELS, CLASSES = 64, 4


def task_with(model: str, **options: int) -> Task:
    options = {"num_train": 100, "num_test": 10, "num_classes": CLASSES, "image_size": 8, **options}
    return load_task(TaskConfig(name="synthetic", model=model, options=dict(options)))


def profiled(model: str, **options: int) -> SubmodelProfile:
    task = task_with(model, **options)
    return profile(lambda: build_module(task), name="full", task=task)


def test_a_logistic_regression_by_hand() -> None:
    found = profiled("logistic")
    assert found.params == PIXELS * CLASSES + CLASSES
    assert found.num_bytes == 4 * found.params
    assert found.macs_forward == PIXELS * CLASSES
    # Forward and the weights' gradient; nobody asks for the input's.
    assert found.flops_train == 2 * 2 * PIXELS * CLASSES
    # Kept per sample: the input, the log-probabilities, and the label (8 bytes).
    assert found.activation_bytes == 4 * (PIXELS + CLASSES) + 8
    assert found.memory_bytes(batch_size=10) == 2 * found.num_bytes + 10 * found.activation_bytes
    assert found.memory_bytes(batch_size=0, optimizer_slots=2) == 4 * found.num_bytes


def test_the_cnn_by_hand() -> None:
    found = profiled("cnn")
    conv1, conv2 = 8 * 8 * 16 * 1 * 9, 4 * 4 * 32 * 16 * 9
    dense = 2 * 2 * 32 * 64 + 64 * CLASSES
    assert found.macs_forward == conv1 + conv2 + dense
    assert found.flops_train == 6 * (conv1 + conv2 + dense) - 2 * conv1
    assert found.params == (16 * 9 + 16) + (32 * 16 * 9 + 32) + (128 * 64 + 64) + (64 * CLASSES + CLASSES)


@pytest.mark.parametrize("model", ["logistic", "mlp", "cnn", "lenet"])
def test_the_profile_is_what_a_real_step_is_charged(model: str) -> None:
    task = task_with(model, image_size=16)
    place = make_place(task=task)
    module = place.initial(lambda: build_module(task))
    x, y = torch.zeros(6, 1, 16, 16), torch.zeros(6, dtype=torch.int64)
    with place.meter.step(module, x):
        loss = module.training_step((x, y, y), 0)
        assert isinstance(loss, torch.Tensor)
        loss.backward()
    assert place.meter.take() == 6 * profiled(model, image_size=16).flops_train


def test_profiling_touches_no_random_state_and_no_memory_for_weights() -> None:
    before = torch.random.get_rng_state()
    profiled("fedavg_cnn", image_size=28)
    assert torch.equal(before, torch.random.get_rng_state())
