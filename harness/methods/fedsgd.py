"""FedSGD: one full-batch gradient step per client and round.

McMahan et al., AISTATS 2017, section 2: FedAvg with E = 1 and an infinite batch. Sending the weights after
one step equals sending the gradient, in bytes and in outcome.
"""

from dataclasses import dataclass

from harness.methods.fedavg import FedAvg, FedAvgConfig


@dataclass(frozen=True, slots=True)
class FedSgdConfig(FedAvgConfig):
    """FedAvg's, with one step on the whole shard."""

    batch_size: int = 0
    local_steps: int | None = 1


class FedSgd(FedAvg):
    """The baseline that exchanges after every step."""

    Config = FedSgdConfig
