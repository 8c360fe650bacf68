"""FLOPs by hand, and counts replayed against counts made anew."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.cost import meter as meter_module
from harness.cost.meter import Meter

B, IN, OUT = 5, 3, 4
FORWARD = 2 * B * IN * OUT


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for every step that torch's counter watches."""
    seen: list[int] = []
    real = meter_module.FlopCounterMode

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(meter_module, "FlopCounterMode", spy)
    return seen


def step(meter: Meter, module: nn.Module, x: Tensor, *, kind: str = "train") -> int:
    with meter.step(module, x, kind=kind):
        out = module(x)
        if kind == "train":
            out.sum().backward()
    return meter.take()


def test_a_linear_layer_by_hand() -> None:
    layer = nn.Linear(IN, OUT)
    assert step(Meter(), layer, torch.ones(B, IN), kind="forward") == FORWARD
    # dL/dW costs as much as the forward pass; dL/dx only where the input asks for it.
    assert step(Meter(), layer, torch.ones(B, IN)) == 2 * FORWARD
    assert step(Meter(), layer, torch.ones(B, IN, requires_grad=True)) == 3 * FORWARD


def test_a_convolution_by_hand() -> None:
    # 2 x 3 x 3 multiply-adds for each of 4 maps of 6 x 6 values.
    conv = nn.Conv2d(2, 4, 3)
    assert step(Meter(), conv, torch.ones(B, 2, 8, 8), kind="forward") == 2 * B * 4 * 6 * 6 * 2 * 3 * 3


def test_take_empties_and_steps_add_up() -> None:
    meter, layer = Meter(), nn.Linear(IN, OUT)
    for _ in range(3):
        with meter.step(layer, torch.ones(B, IN), kind="forward"):
            layer(torch.ones(B, IN))
    assert (meter.take(), meter.take()) == (3 * FORWARD, 0)


def test_equal_steps_are_counted_once_and_exact_ones_always(counted: list[int]) -> None:
    layer, x = nn.Linear(IN, OUT), torch.ones(B, IN)
    cached, exact = Meter(), Meter(exact=True)
    assert [step(cached, layer, x) for _ in range(4)] == [2 * FORWARD] * 4
    assert len(counted) == 1
    assert [step(exact, layer, x) for _ in range(4)] == [2 * FORWARD] * 4
    assert len(counted) == 1 + 4


def test_another_instance_of_the_same_network_is_not_counted_again(counted: list[int]) -> None:
    meter = Meter()
    assert step(meter, nn.Linear(IN, OUT), torch.ones(B, IN)) == 2 * FORWARD
    assert step(meter, nn.Linear(IN, OUT), torch.ones(B, IN)) == 2 * FORWARD
    assert len(counted) == 1


def variations() -> list[tuple[nn.Module, Tensor, str]]:
    """Steps that differ in one thing that decides their FLOPs."""
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Linear(IN, OUT), nn.Linear(OUT, 2))
    frozen[0].requires_grad_(False)
    x, image = torch.ones(B, IN), torch.ones(B, 2, 8, 8)
    return [
        (nn.Linear(IN, OUT), x, "train"),
        (nn.Linear(IN, OUT), x, "forward"),
        (nn.Linear(IN, OUT), torch.ones(B + 1, IN), "train"),
        (nn.Linear(IN, OUT), torch.ones(B, IN, requires_grad=True), "train"),
        (nn.Linear(IN, OUT + 1), x, "train"),
        (nn.Sequential(nn.Linear(IN, OUT), nn.Linear(OUT, 2)), x, "train"),
        (frozen, x, "train"),
        (nn.Conv2d(2, 4, 3, stride=1), image, "train"),
        (nn.Conv2d(2, 4, 3, stride=2), image, "train"),
        (nn.Conv2d(2, 4, 3, padding=1), image, "train"),
    ]


def test_one_cache_for_steps_of_many_kinds_equals_exact_counts() -> None:
    cached, exact = Meter(), Meter(exact=True)
    flops = [(step(cached, *v[:2], kind=v[2]), step(exact, *v[:2], kind=v[2])) for v in variations() * 2]
    assert [a for a, _ in flops] == [b for _, b in flops]
    assert len({a for a, _ in flops}) > 6


def test_grad_mode_and_training_flag_are_part_of_the_key() -> None:
    meter, layer, x = Meter(), nn.Linear(IN, OUT), torch.ones(B, IN)
    training = meter.key(layer, x, kind="forward")
    with torch.no_grad():
        assert meter.key(layer, x, kind="forward") != training
    layer.eval()
    assert meter.key(layer, x, kind="forward") != training
    assert meter.key(layer, x.double(), kind="forward") != meter.key(layer, x, kind="forward")


def test_a_step_that_fails_is_neither_charged_nor_remembered() -> None:
    meter, layer, x = Meter(), nn.Linear(IN, OUT), torch.ones(B, IN)
    with pytest.raises(ZeroDivisionError), meter.step(layer, x):
        raise ZeroDivisionError
    assert meter.take() == 0
    assert step(meter, layer, x) == 2 * FORWARD
