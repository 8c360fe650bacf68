"""KL with a temperature, by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from lightning_modules.distillation import distilled, kl_t


def logits(*rows: list[float]) -> torch.Tensor:
    """Logits whose softmax is the given rows."""
    return torch.log(torch.tensor(rows))


def test_kl_by_hand_at_temperature_one() -> None:
    student, teacher = logits([0.5, 0.5], [0.25, 0.75]), logits([0.75, 0.25], [0.25, 0.75])
    first = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert kl_t(student, teacher, temperature=1.0).item() == pytest.approx(first / 2, rel=1e-6)


def test_kl_by_hand_at_temperature_three() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[3 * math.log(3.0), 0.0]])
    by_hand = 9 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert kl_t(student, teacher, temperature=3.0).item() == pytest.approx(by_hand, rel=1e-6)


def test_it_is_zero_for_equal_logits_and_not_symmetric() -> None:
    one, other = logits([0.9, 0.1]), logits([0.5, 0.5])
    assert kl_t(one, one, temperature=2.0).item() == 0
    there, back = (kl_t(a, b, temperature=1.0).item() for a, b in ((one, other), (other, one)))
    assert there != pytest.approx(back, rel=0.1)


def test_the_gradient_reaches_the_student_alone() -> None:
    """T (softmax(z / T) - softmax(z' / T)) / B for the student."""
    student = torch.tensor([[1.0, 2.0], [0.0, 1.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0], [3.0, 1.0]], requires_grad=True)
    kl_t(student, teacher, temperature=3.0).backward()
    by_hand = 3 * (torch.softmax(student / 3, dim=1) - torch.softmax(teacher / 3, dim=1)) / 2
    assert student.grad is not None
    torch.testing.assert_close(student.grad, by_hand.detach())
    assert teacher.grad is None


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be > 0, got "):
        kl_t(torch.zeros(1, 2), torch.zeros(1, 2), temperature=temperature)


def test_the_loss_is_cross_entropy_plus_alpha_times_kl() -> None:
    student, teacher, targets = logits([0.5, 0.5]), logits([0.75, 0.25]), torch.tensor([0])
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    found = distilled(student, (student, targets, teacher), alpha=2.0, temperature=1.0)
    assert found.item() == pytest.approx(math.log(2) + 2 * kl, rel=1e-6)


@pytest.mark.parametrize("rest", [(), (None,), (torch.tensor([17, 4]),)])
def test_without_a_teacher_it_is_cross_entropy(rest: tuple[torch.Tensor | None, ...]) -> None:
    student, targets = logits([0.5, 0.5], [0.1, 0.9]), torch.tensor([0, 1])
    found = distilled(student, (student, targets, *rest), alpha=1.0, temperature=3.0)
    assert torch.equal(found, F.cross_entropy(student, targets))
