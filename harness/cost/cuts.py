"""What a network cut between sources and a server asks of both sides."""

from dataclasses import dataclass

from harness.cost.links import Column


@dataclass(frozen=True, slots=True)
class Cut:
    """What one position of the junction asks of both sides, per example; columns [V] where sources differ."""

    layer: str
    """The first layer above."""
    source_flops: Column
    """Forward and backward of one branch."""
    server_flops: int
    """Forward and backward of the junction and what follows."""
    activation_bytes: Column
    """Of a branch's output: sent up, and as much of gradients back."""
    forward_flops: Column = 0
    """Of source_flops, those of going forward: only where micro-batches overlap."""
