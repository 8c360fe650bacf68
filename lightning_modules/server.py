"""The server's side of FedGKT: a large network trained on the edges' features.

He, Annavaram, Avestimehr, "Group knowledge transfer", NeurIPS 2020, equation 6.

Shape letters: B batch, C classes.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_modules.classifier import OptimizerFactory
from lightning_modules.distillation import Distilled, distilled


class Server(Distilled):
    """A network over features, with CE + alpha * KL_T towards the edges' logits where there are any."""

    network: nn.Module

    def __init__(
        self,
        network: nn.Module,
        *,
        alpha: float = 1.0,
        temperature: float = 3.0,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        """`network` maps features [B, ...] to logits [B, C].

        `alpha` and `temperature` are the public reference's; `optimizer` is the paper's Adam by default.
        Raises ValueError for `temperature` <= 0.
        """
        super().__init__(alpha=alpha, temperature=temperature, optimizer=optimizer)
        self.network = network

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, C] of features [B, ...]."""
        logits: Tensor = self.network(features)
        return logits

    def loss(self, logits: Tensor, batch: Sequence[Tensor | None]) -> Tensor:
        """The loss of logits [B, C] already computed: whoever wants to keep them calls forward first."""
        return distilled(logits, batch, alpha=self.alpha, temperature=self.temperature)

    def training_step(self, batch: Sequence[Tensor | None], batch_idx: int) -> Tensor:
        """The loss, a scalar, of (features [B, ...], targets [B] int64, edge logits [B, C] or None)."""
        features = batch[0]
        assert features is not None, "a batch needs features"
        return self.loss(self(features), batch)
