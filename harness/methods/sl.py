"""Vertical split learning: sources hold the layers below a cut, the server all above, without a junction.

Gupta, Raskar, "Distributed learning of deep neural network over multiple agents", Journal of Network and
Computer Applications 2018, section 3.3, and Vepakomma et al., "Split learning for health", 2018, for vertical
data; the alternative `sl` of Malandrino, Chiasserini (FPL), WoWMoM 2022: the first layer of the server, fully
connected, takes the outputs of all sources itself (F1: 15,680 -> 2048 where five sources send 3136 each).

Equals FPL but for that: `junction` names the layer that is widened, and the blocks of its matrix are the
learned weights of the sources. `match` makes the control that FPL is measured against: the widened layer has
so many outputs that all parameters are, to the nearest, as many as FPL's with its junction before `match`.
Its records carry FPL's keys (fpl/weight/<source>, fpl/missing).
"""

from dataclasses import dataclass

import torch
from torch import nn

from harness.learning.sources import Fork, fork
from harness.methods.fpl import Fpl, FplConfig
from harness.types import ConfigError
from lightning_modules.classifier import Classifier
from lightning_modules.junction import widened


@dataclass(frozen=True, slots=True)
class SlConfig(FplConfig):
    """FPL's; `junction` is the layer that is widened, `junction_init` and `activation` are unused."""

    match: str | None = None
    """Layer before which FPL's junction would stand: widen until the parameters are equally many."""


class Sl(Fpl):
    """Branches at the sources, a wider first layer and the rest at the server."""

    Config = SlConfig
    cfg: SlConfig

    def upper(self, cut: Fork) -> Classifier:
        widths = self.held.widths(self.sources, cut)
        try:
            network = widened(cut.upper, widths, hidden=self._hidden(cut))
        except ValueError as error:
            raise ConfigError(f"method.junction={cut.layer}: {error}; choose one that is") from None
        return Classifier(network, loss=cut.module.loss)

    def _hidden(self, cut: Fork) -> int | None:
        """Outputs of the widened layer; None: as many as it has. Linear in the parameters: two points do."""
        if self.cfg.match is None:
            return None
        with torch.device("meta"):
            other = fork(self.place.task, self.cfg.match, key="method.match")
            junction = (sum(self.held.widths(self.sources, other).values()) + 1) * other.width
            copies = sum(self.held.views[source] not in self.held.own for source in self.sources)
            wanted = copies * (count(other.branch) - count(cut.branch)) + junction + count(other.upper)
            widths = self.held.widths(self.sources, cut)
            one, two = (
                count(widened(fork(self.place.task, cut.layer).upper, widths, hidden=n)) for n in (1, 2)
            )
        return max(1, round(1 + (wanted - one) / (two - one)))


def count(module: nn.Module) -> int:
    """Its parameters."""
    return sum(p.numel() for p in module.parameters())
