"""Distillation: learning from another network's soft labels.

Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, section 2: labels softened by a
temperature T, and a factor T^2 so that the gradient's size does not depend on T.

Shape letters: B batch, C classes.
"""

from collections.abc import Sequence

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.classifier import OptimizerFactory


def kl_t(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """T^2 * mean over the batch of KL(softmax(teacher / T) || softmax(student / T)): a scalar, in nats.

    `student` and `teacher` are logits [B, C]; no gradient reaches the teacher. Raises ValueError for
    `temperature` <= 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    softened = F.log_softmax(student.float() / temperature, dim=1)
    target = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    return F.kl_div(softened, target, reduction="batchmean", log_target=True) * temperature**2


def distilled(logits: Tensor, batch: Sequence[Tensor | None], *, alpha: float, temperature: float) -> Tensor:
    """Cross-entropy + alpha * KL_T: a scalar; cross-entropy alone where `batch` holds no teacher.

    `logits` are [B, C]; `batch` is (inputs, targets [B] int64, teacher logits [B, C] or None, ...). A third
    element of whole numbers is no teacher: batches without one may carry sample ids there.
    """
    targets = batch[1]
    assert targets is not None, "a batch needs targets"
    loss = F.cross_entropy(logits, targets)
    teacher = batch[2] if len(batch) > 2 else None
    if teacher is None or not teacher.is_floating_point() or alpha == 0:
        return loss
    return loss + alpha * kl_t(logits, teacher, temperature=temperature)


class Distilled(L.LightningModule):
    """A network that may learn from another one's logits: CE + alpha * KL_T."""

    def __init__(self, *, alpha: float, temperature: float, optimizer: OptimizerFactory | None) -> None:
        """`optimizer` is FedGKT's Adam by default. Raises ValueError for `temperature` <= 0."""
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        self.alpha = alpha
        self.temperature = temperature
        self._optimizer = optimizer

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """A new optimizer over all parameters."""
        if self._optimizer is not None:
            return self._optimizer(self.parameters())
        return torch.optim.Adam(self.parameters(), lr=1e-3, weight_decay=1e-4, amsgrad=True)
