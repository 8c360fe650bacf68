"""The smallest networks that detect and segment: what tests of tasks beyond classification train."""

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Pixels(L.LightningModule):
    """A class for each pixel from its 3 x 3 neighbours."""

    def __init__(self, *, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(input_shape[0], num_classes, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.conv(inputs)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, ignore_index=255)

    def decode(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(dim=1)

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        return self.loss(self(batch[0]), batch[1])


class OneBox(L.LightningModule):
    """One box an image, that of its first object: class scores, then cx, cy, w, h."""

    def __init__(self, *, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.line = nn.Linear(input_shape[0] * 16, num_classes + 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.line(F.adaptive_avg_pool2d(inputs, 4).flatten(1))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        wanted, scores = targets[:, 0], outputs[:, : self.num_classes]
        right = (wanted[:, :1] == torch.arange(self.num_classes, device=wanted.device)).float()
        boxes = F.mse_loss(outputs[:, self.num_classes :].sigmoid(), wanted[:, 1:])
        return F.binary_cross_entropy_with_logits(scores, right) + boxes

    def decode(self, outputs: Tensor) -> Tensor:
        scores, label = outputs[:, : self.num_classes].sigmoid().max(dim=1)
        centre, size = outputs[:, self.num_classes :].sigmoid().split(2, dim=1)
        rows = [label[:, None].float(), scores[:, None], centre - size / 2, centre + size / 2]
        return torch.cat(rows, dim=1)[:, None]

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        return self.loss(self(batch[0]), batch[1])
