"""HeteroFL-style nested widths: MFL's submodels without rotation.

Diao, Ding, Tarokh, "HeteroFL: computation and communication efficient federated learning for heterogeneous
clients", ICLR 2021 (section 3: a smaller model is the leading block of every larger one's weights, and each
scalar is the mean over the clients that hold it).

Differs: the widths are MFL's structures L, M, S, T, so that work and bytes equal MFL's client by client and
what is left is whether blocks rotate; no scaler module, no static batch norm, no masked cross-entropy.
"""

from collections.abc import Mapping
from dataclasses import replace

from harness.cost.submodel import SubmodelProfile
from harness.methods.mfl import MFL
from harness.types import SubmodelId


class HeteroFL(MFL):
    """Everyone of a structure trains the same, first block; the others' cross-connections stay untrained."""

    def submodels(self) -> Mapping[SubmodelId, SubmodelProfile]:
        return {name: replace(profile, num_instances=1) for name, profile in super().submodels().items()}
