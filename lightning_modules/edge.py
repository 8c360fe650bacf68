"""The edge's side of FedGKT: a small network whose features a server trains on.

He, Annavaram, Avestimehr, "Group knowledge transfer", NeurIPS 2020, equation 7.

Shape letters: B batch, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.classifier import OptimizerFactory
from lightning_modules.distillation import Distilled, distilled


class Edge(Distilled):
    """Extractor and local classifier; CE + alpha * KL_T towards the server's logits where there are any."""

    extractor: nn.Module
    classifier: nn.Module

    def __init__(
        self,
        extractor: nn.Module,
        classifier: nn.Module,
        *,
        alpha: float = 1.0,
        temperature: float = 3.0,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        """`extractor` maps inputs [B, ...] to features, `classifier` features to logits [B, C].

        `alpha` and `temperature` are the public reference's; `optimizer` is the paper's Adam by default.
        Raises ValueError for `temperature` <= 0.
        """
        super().__init__(alpha=alpha, temperature=temperature, optimizer=optimizer)
        self.extractor = extractor
        self.classifier = classifier
        self.cross_entropy = torch.tensor(float("nan"))
        """Of the last training step, without the distillation's share."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B, C] of inputs [B, ...]."""
        logits: Tensor = self.classifier(self.extractor(inputs))
        return logits

    def extract(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What travels to the server: features [B, ...] and logits [B, C]."""
        features: Tensor = self.extractor(inputs)
        logits: Tensor = self.classifier(features)
        return features, logits

    def training_step(self, batch: Sequence[Tensor | None], batch_idx: int) -> Tensor:
        """The loss, a scalar, of (inputs [B, ...], targets [B] int64, server logits [B, C] or None)."""
        inputs, targets = batch[0], batch[1]
        assert inputs is not None, "a batch needs inputs"
        assert targets is not None, "a batch needs targets"
        logits = self(inputs)
        self.cross_entropy = F.cross_entropy(logits.detach(), targets)
        return distilled(logits, batch, alpha=self.alpha, temperature=self.temperature)
