"""FedProx: FedAvg with a proximal term.

Li et al., "Federated optimization in heterogeneous networks", MLSys 2020, Algorithm 2; mu from their grid
{0.001, 0.01, 0.1, 1}. Their inexact solver with variable local work is plain SGD for E epochs here.
"""

from dataclasses import dataclass

from harness.methods.fedavg import FedAvg, FedAvgConfig


@dataclass(frozen=True, slots=True)
class FedProxConfig(FedAvgConfig):
    """FedAvg's, with the proximal term on."""

    mu: float = 0.1


class FedProx(FedAvg):
    """FedAvg whose clients stay near the global weights."""

    Config = FedProxConfig
