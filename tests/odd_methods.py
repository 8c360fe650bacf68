"""Networks and methods that misbehave in one way each, named in configurations as `odd_methods:Class`."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from harness.exchange.cohort import Cohort
from harness.exchange.payloads import Weights
from harness.methods.fedavg import FedAvg, FedAvgClient
from harness.run.method import FULL, Metrics
from harness.types import ClientId


class Tiny(nn.Module):
    """Linear, with dropout drawn from torch's own generator."""

    def __init__(self, *, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        size = math.prod(input_shape)
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(size, num_classes))

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layers(inputs)
        return out


def small_trunk(*, feature_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """FedGKT's server in miniature: one convolution with batch norm above the edge's features."""
    channels = feature_shape[0]
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False),
        *(nn.BatchNorm2d(2 * channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(2 * channels, num_classes),
    )


class PoisonClient(FedAvgClient):
    """Client 1 answers with NaN in round 1."""

    def fit(self, down: Weights) -> Weights:
        up = super().fit(down)
        if self.client_id == 1 and self.round == 1:
            bad = {name: torch.full_like(tensor, torch.nan) for name, tensor in up.params.items()}
            return Weights(params=bad, num_examples=up.num_examples)
        return up


class Poison(FedAvg):
    """FedAvg with a broken client."""

    Client = PoisonClient


class OneByOne(FedAvg):
    """FedAvg without a barrier: each reply is mixed in as it arrives, and its sender goes again."""

    turns = 2

    def round(self, cohort: Cohort[Any]) -> Metrics:
        left = dict.fromkeys(cohort.clients, self.turns)
        self.arrivals: list[ClientId] = []
        for client in cohort.clients:
            self._send(cohort, client)
        while cohort.in_flight:
            client, reply = cohort.receive()
            self.arrivals.append(client)
            if reply is not None:
                self.weights = {n: torch.lerp(w, reply.params[n], 0.5) for n, w in self.weights.items()}
            left[client] -= 1
            if left[client]:
                self._send(cohort, client)
        return {}

    def _send(self, cohort: Cohort[Any], client: ClientId) -> None:
        cohort.send(client, FedAvgClient.fit, Weights(params=self.weights, submodel=FULL))
