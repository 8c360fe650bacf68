"""What a network cut between sources and a server asks of both sides."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cut:
    """What one position of the junction asks of both sides, per example."""

    layer: str
    """The first layer above."""
    source_flops: int
    """Forward and backward of one branch."""
    server_flops: int
    """Forward and backward of the junction and what follows."""
    activation_bytes: int
    """Of a branch's output: sent up, and as much of gradients back."""
