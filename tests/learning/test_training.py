"""The local loop: which batches it sees, and that its steps are torch's."""

import copy
import dataclasses
import functools
import itertools

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from local_run import Points, make_place, points, whole
from torch import Tensor, nn
from torch.nn import functional as F

from harness.config import TaskConfig
from harness.cost.work import examples_seen
from harness.data.task import Shard, Task
from harness.data.tasks import load_task
from harness.learning.models import (
    TrainingConfig,
    build_module,
    load_optimizer,
    make_optimizer,
    optimizer_state,
)
from harness.learning.training import Trained, train, training_batches
from harness.learning.workplace import Workplace
from harness.types import ConfigError
from lightning_modules.classifier import Classifier

OPTIONS = {"num_train": 60, "num_test": 10, "num_classes": 4, "image_size": 8}


def images(model: str = "cnn", **keys: object) -> tuple[Task, Shard]:
    cfg = TaskConfig(**{"name": "synthetic", "model": model, "options": dict(OPTIONS), **keys})  # type: ignore[arg-type]
    task = load_task(cfg)
    examples = task.load().train
    return task, Shard(task, examples, np.arange(0, 23))


PLACE = functools.cache(make_place)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(
    module: L.LightningModule,
    shard: Shard,
    cfg: TrainingConfig,
    *,
    place: Workplace,
    optimizer: torch.optim.Optimizer | None = None,
) -> Trained:
    if optimizer is None:
        optimizer = make_optimizer(module.parameters(), cfg, round=0)
    return train(module, shard, cfg=cfg, optimizer=optimizer, place=place, generator=generator())


def ids_of(size: int, cfg: TrainingConfig, *, seed: int = 0) -> list[list[int]]:
    shard = whole(Points(), points([[0, 0]] * size, [0] * size))
    batches = training_batches(shard, cfg=cfg, place=PLACE(), generator=generator(seed))
    return [batch.ids.tolist() for batch in batches]


# --- batches


@given(size=st.integers(1, 25), batch_size=st.integers(0, 30), epochs=st.integers(1, 3))
def test_an_epoch_sees_every_example_once(size: int, batch_size: int, epochs: int) -> None:
    batches = ids_of(size, TrainingConfig(batch_size=batch_size, local_epochs=epochs))
    step = min(batch_size or size, size)
    per_epoch = -(-size // step)
    assert len(batches) == epochs * per_epoch
    for start in range(0, len(batches), per_epoch):
        epoch = batches[start : start + per_epoch]
        assert sorted(itertools.chain(*epoch)) == list(range(size))
        assert [len(b) for b in epoch[:-1]] == [step] * (per_epoch - 1)


@given(size=st.integers(1, 25), batch_size=st.integers(0, 30), steps=st.integers(1, 20))
def test_local_steps_are_exact_and_follow_the_epochs(size: int, batch_size: int, steps: int) -> None:
    cfg = TrainingConfig(batch_size=batch_size, local_steps=steps)
    long = dataclasses.replace(cfg, local_steps=None, local_epochs=20)
    assert ids_of(size, cfg) == ids_of(size, long)[:steps]


def test_the_generator_alone_decides_the_order() -> None:
    cfg = TrainingConfig(batch_size=4, local_epochs=2)
    assert ids_of(20, cfg) == ids_of(20, cfg)
    assert ids_of(20, cfg) != ids_of(20, cfg, seed=1)
    first, second = ids_of(20, cfg)[:5], ids_of(20, cfg)[5:]
    assert first != second


def test_batches_are_augmented_from_the_generator() -> None:
    task, shard = images(augment=["hflip"])
    cfg, place = TrainingConfig(batch_size=0), make_place(task=task)
    batch, same = (
        next(training_batches(shard, cfg=cfg, place=place, generator=generator())) for _ in range(2)
    )
    assert torch.equal(batch.inputs, same.inputs)
    stored = shard.take(batch.ids.numpy()).inputs
    as_is, flipped = (batch.inputs == stored), (batch.inputs == stored.flip(3))
    assert bool((as_is.all((1, 2, 3)) | flipped.all((1, 2, 3))).all())
    assert not bool(as_is.all())
    assert not bool(flipped.all())


@pytest.mark.parametrize(
    ("words", "layout"),
    [((), torch.channels_last), (("runtime.channels_last=false",), torch.contiguous_format)],
)
def test_images_arrive_in_the_layout_of_the_process(
    words: tuple[str, ...], layout: torch.memory_format
) -> None:
    shard = images(options={**OPTIONS, "channels": 3})[1]
    batch = next(
        training_batches(shard, cfg=TrainingConfig(), place=make_place(*words), generator=generator())
    )
    other = {torch.channels_last, torch.contiguous_format} - {layout}
    assert batch.inputs.is_contiguous(memory_format=layout)
    assert not batch.inputs.is_contiguous(memory_format=other.pop())


# --- steps


def test_two_steps_by_hand() -> None:
    """Gradient descent on mean((w - x)^2): w <- w - 2 lr mean(w - x)."""

    class Follow(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor([4.0, 0.0]))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return ((self.w - batch[0]) ** 2).sum(1).mean()

    module = Follow()
    shard = whole(Points(), points([[0, 0], [0, 4]], [0, 0]))  # mean (0, 2)
    trained = run(module, shard, TrainingConfig(lr=0.25, batch_size=0, local_epochs=2), place=make_place())
    # (4, 0) -> (2, 1) -> (1, 1.5); losses 16 + (0 + 16) / 2 = 24 and 4 + (1 + 9) / 2 = 9
    assert module.w.tolist() == [1.0, 1.5]
    assert trained == Trained(loss=16.5, num_steps=2)


@pytest.mark.parametrize(
    "cfg",
    [
        TrainingConfig(lr=0.05),
        TrainingConfig(lr=0.05, momentum=0.9, weight_decay=0.01),
        TrainingConfig(lr=0.05, momentum=0.9, nesterov=True),
        TrainingConfig(optimizer="adam", lr=0.01, amsgrad=True, weight_decay=0.01),
    ],
    ids=lambda cfg: f"{cfg.optimizer}-{cfg.momentum}",
)
def test_training_equals_a_plain_torch_loop(cfg: TrainingConfig) -> None:
    """Fabric, fused optimizers and channels-last kernels change roundings and nothing else."""
    task, shard = images()
    place = make_place(task=task)
    module = place.initial(lambda: build_module(task))
    plain = copy.deepcopy(module).to(memory_format=torch.contiguous_format)
    trained = run(module, shard, dataclasses.replace(cfg, local_epochs=2), place=place)
    if cfg.optimizer == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            plain.parameters(),
            lr=cfg.lr,
            momentum=cfg.momentum,
            nesterov=cfg.nesterov,
            weight_decay=cfg.weight_decay,
            foreach=False,
        )
    else:
        optimizer = torch.optim.Adam(
            plain.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay, amsgrad=True, foreach=False
        )
    losses, draw = [], generator()
    for _ in range(2):
        order = torch.randperm(len(shard), generator=draw)
        for rows in order.split(10):
            batch = shard.take(rows.numpy())
            loss = F.cross_entropy(plain(batch.inputs), batch.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert trained.num_steps == len(losses) == 6
    assert trained.loss == pytest.approx(sum(losses) / 6, rel=1e-4)
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("keys", [{"momentum": 0.9}, {"optimizer": "adam", "lr": 0.01}])
def test_an_optimizer_taken_up_again_goes_on_to_the_same_bits(keys: dict[str, object]) -> None:
    """The fused kernels walk through memory, so moments must come back in the layout of their weights."""
    task, shard = images()
    cfg = TrainingConfig(**keys)  # type: ignore[arg-type]
    place = make_place(task=task)

    def fresh() -> tuple[L.LightningModule, torch.optim.Optimizer]:
        module = place.initial(lambda: build_module(task))
        return module, make_optimizer(module.parameters(), cfg, round=0)

    module, optimizer = fresh()
    run(module, shard, cfg, place=place, optimizer=optimizer)
    other, resumed = fresh()
    other.load_state_dict(module.state_dict())
    load_optimizer(resumed, copy.deepcopy(optimizer_state(optimizer)))
    run(module, shard, cfg, place=place, optimizer=optimizer)
    run(other, shard, cfg, place=place, optimizer=resumed)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_after_backward_sees_and_may_change_every_gradient() -> None:
    task, shard = images("mlp")
    place = make_place(task=task)
    module = place.initial(lambda: build_module(task))
    before = [p.detach().clone() for p in module.parameters()]
    calls = []

    def still() -> None:
        calls.append(all(bool(p.grad.abs().sum() > 0) for p in module.parameters() if p.grad is not None))
        for parameter in module.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()

    cfg = TrainingConfig(local_epochs=2)
    optimizer = make_optimizer(module.parameters(), cfg, round=0)
    train(
        module, shard, cfg=cfg, optimizer=optimizer, place=place, generator=generator(), after_backward=still
    )
    assert calls == [True] * 6
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_no_gradient_is_left_for_whoever_borrows_the_network_next() -> None:
    task, shard = images("mlp")
    place = make_place(task=task)
    module = place.initial(lambda: build_module(task))
    run(module, shard, TrainingConfig(), place=place)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_the_configured_precision_is_in_force_while_training(precision: str, dtype: torch.dtype) -> None:
    seen = []

    class Spy(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            out = super().forward(inputs)
            seen.append(out.dtype)
            return out

    module = Classifier(Spy(2, 2))
    shard = whole(Points(), points([[0, 1], [1, 0]], [0, 1]))
    run(module, shard, TrainingConfig(), place=make_place(f"run.precision={precision}"))
    assert seen == [dtype]
    assert next(module.parameters()).dtype == torch.float32


def test_training_is_metered() -> None:
    place = make_place()
    shard = whole(Points(), points([[0, 1]] * 7, [0] * 7))
    run(Classifier(nn.Linear(2, 2)), shard, TrainingConfig(batch_size=3, local_epochs=2), place=place)
    # Forward and weight gradient, 2 * 2 * 2 FLOPs each, of 7 examples in 2 epochs.
    assert place.meter.take() == 2 * 8 * 7 * 2


def test_the_learning_rate_decays_per_round() -> None:
    cfg = TrainingConfig(lr=0.8, lr_decay=0.5)
    rates = [
        make_optimizer([nn.Parameter(torch.zeros(1))], cfg, round=r).param_groups[0]["lr"] for r in range(3)
    ]
    assert rates == [0.8, 0.4, 0.2]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"optimizer": "sdg"}, "method.optimizer: unknown value 'sdg'; did you mean sgd?"),
        ({"lr": 0.0}, "method.lr must be > 0, got 0.0"),
        ({"lr": float("nan")}, "method.lr must be > 0, got nan"),
        ({"lr_decay": 1.5}, "method.lr_decay must be in (0, 1], got 1.5"),
        ({"momentum": 1.0}, "method.momentum must be in [0, 1), got 1.0"),
        ({"nesterov": True}, "method.nesterov needs method.momentum > 0"),
        ({"batch_size": -1}, "method.batch_size must be >= 0, got -1"),
        ({"local_epochs": 0}, "method.local_epochs must be >= 1, got 0"),
        ({"local_steps": 0}, "method.local_steps must be >= 1, got 0"),
    ],
)
def test_training_settings_that_cannot_work(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(**keys).check()  # type: ignore[arg-type]
    assert str(caught.value) == message


# --- networks by name


def test_a_network_of_the_users_own_is_wrapped() -> None:
    task = load_task(TaskConfig(name="synthetic", model="odd_methods:Tiny", options=dict(OPTIONS)))
    module = build_module(task)
    assert isinstance(module, Classifier)
    assert module(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("lent", "task.model: unknown network 'lent'; did you mean lenet?"),
        ("lenet", "task.model=lenet does not fit task.name=synthetic"),
        ("no_such_module:Net", "task.model=no_such_module:Net: cannot import no_such_module"),
        (
            "odd_methods:Tony",
            "task.model=odd_methods:Tony: odd_methods has no class Tony; did you mean Tiny?",
        ),
    ],
)
def test_networks_that_cannot_be_built(model: str, message: str) -> None:
    task = load_task(TaskConfig(name="synthetic", model=model, options=dict(OPTIONS)))
    with pytest.raises(ConfigError) as caught:
        build_module(task)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("epochs", "steps"), [(1, None), (3, None), (1, 1), (1, 4), (1, 11), (1, 7)])
@pytest.mark.parametrize("batch_size", [0, 4, 10])
def test_examples_seen_are_those_of_the_batches(epochs: int, steps: int | None, batch_size: int) -> None:
    cfg = TrainingConfig(local_epochs=epochs, local_steps=steps, batch_size=batch_size)
    sizes = [1, 4, 10, 17]
    counted = []
    for size in sizes:
        task = Points()
        shard = whole(task, points([[0.0, 0.0]] * size, [0] * size))
        batches = training_batches(
            shard, cfg=cfg, place=make_place(task=task), generator=torch.Generator().manual_seed(0)
        )
        counted.append(sum(len(batch.targets) for batch in batches))
    assert examples_seen(np.array(sizes), cfg).tolist() == counted
