"""A network with the cross-entropy loss.

Shape letters: B batch, C classes.
"""

from collections.abc import Callable, Iterable, Sequence

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Loss = Callable[[Tensor, Tensor], Tensor]
"""Of logits [B, C] and targets [B] int64: a scalar."""


class Classifier(L.LightningModule):
    """`loss` (cross-entropy) of `network`'s logits. Logs nothing: whoever runs the loop records."""

    def __init__(
        self,
        network: nn.Module,
        *,
        loss: Loss = F.cross_entropy,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        """`network` maps inputs [B, ...] to logits [B, C]; `optimizer` is plain SGD at 0.01 by default."""
        super().__init__()
        self.network = network
        self.loss = loss
        self._optimizer = optimizer

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B, C] of inputs [B, ...]."""
        logits: Tensor = self.network(inputs)
        return logits

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Mean loss, a scalar, of a batch (inputs [B, ...], targets [B] int64, anything further ignored)."""
        inputs, targets = batch[0], batch[1]
        return self.loss(self(inputs), targets)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """A new optimizer over all parameters."""
        if self._optimizer is not None:
            return self._optimizer(self.parameters())
        return torch.optim.SGD(self.parameters(), lr=0.01)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of 1/2 ||z - onehot(y)||^2, for outputs z [B, C] and targets y [B] int64."""
    wanted = F.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
    return 0.5 * (outputs - wanted).square().sum(dim=1).mean()
