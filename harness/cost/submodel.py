"""What one submodel costs: the figures that `describe` prints and a scheduler weighs."""

from dataclasses import dataclass

from harness.types import SubmodelId


@dataclass(frozen=True, slots=True)
class SubmodelProfile:
    """Counts of one network, per sample where it says so."""

    name: SubmodelId
    params: int
    """Trainable parameters."""
    macs_forward: int
    """Multiply-adds of a forward pass, per sample."""
    flops_train: int
    """Metered FLOPs of forward and backward, per sample."""
    num_bytes: int
    """Parameters and floating-point buffers as they travel."""
    activation_bytes: int
    """Kept for the backward pass, per sample."""
    train_bytes: int = 0
    """Memory that one local training step needs as configured."""
    capacity: tuple[int, ...] = ()
    """Of each layer: kernel positions times output channels, k^2 n."""
    num_instances: int = 1
    """Different blocks of the weights that such a submodel can be; a scheduler rotates through them."""
    tx_bytes: int | None = None
    """What a client sends in a round; default all of `num_bytes`."""
    rx_bytes: int | None = None
    """What it receives; default the same."""

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes up and down that a plan prices."""
        return (
            self.num_bytes if self.tx_bytes is None else self.tx_bytes,
            self.num_bytes if self.rx_bytes is None else self.rx_bytes,
        )

    def memory_bytes(self, *, batch_size: int, optimizer_slots: int = 0) -> int:
        """Needed to train: weights, gradients, optimizer slots per parameter, activations of one batch."""
        return (2 + optimizer_slots) * self.num_bytes + batch_size * self.activation_bytes
