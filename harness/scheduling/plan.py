"""A round's plan: columns, so that a plan of a million clients travels as a few arrays."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.cost.devices import OperatingPoint
from harness.types import ClientId, SubmodelId


@dataclass(frozen=True, slots=True)
class Assignment:
    """One client's part in a round."""

    client: ClientId
    submodel: SubmodelId
    point: OperatingPoint
    fails: bool
    """Its reply will be lost after it was computed and sent."""
    instance: SubmodelId
    """The block of weights it gets: `<submodel>.<number>` where there are several, else the submodel."""


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """Who takes part, with which submodel, at which operating point."""

    round: int
    clients: NDArray[np.int64]
    """[K] ascending client ids."""
    submodels: tuple[SubmodelId, ...]
    """Names that `submodel_index` points into."""
    submodel_index: NDArray[np.int64]
    """[K]"""
    points: OperatingPoint
    """Columns [K]: frequency Hz, rates bit/s, transmit power W."""
    fails: NDArray[np.bool_]
    """[K] planned failures."""
    deadline_s: float | None = None
    """Simulated seconds from the round's start after which replies are dropped."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Reason -> clients the policy left out for it (not those it merely did not draw)."""
    instance_index: NDArray[np.int64] | None = None
    """[K] which of its submodel's instances each client gets; None where submodels have but one."""
    wait_s: float = 0.0
    """Simulated seconds before the round, in which no client was available."""

    def __len__(self) -> int:
        return len(self.clients)

    def position(self, client: ClientId) -> int:
        """Row of a client; raises KeyError for one that is not in the cohort."""
        row = int(np.searchsorted(self.clients, client))
        if row == len(self.clients) or self.clients[row] != client:
            raise KeyError(f"client {client} is not in the cohort of round {self.round}")
        return row

    def __getitem__(self, client: ClientId) -> Assignment:
        row = self.position(client)
        submodel = self.submodels[self.submodel_index[row]]
        number = None if self.instance_index is None else int(self.instance_index[row])
        return Assignment(
            client=client,
            submodel=submodel,
            point=self.points.row(row),
            fails=bool(self.fails[row]),
            instance=submodel if number is None else instance_id(submodel, number),
        )

    def __iter__(self) -> Iterator[ClientId]:
        return (ClientId(int(client)) for client in self.clients)

    def instances(self) -> dict[SubmodelId, tuple[SubmodelId, int]]:
        """Every instance that someone gets -> its submodel and number."""
        if self.instance_index is None:
            return {
                self.submodels[index]: (self.submodels[index], 0)
                for index in set(self.submodel_index.tolist())
            }
        pairs = np.unique(np.stack([self.submodel_index, self.instance_index]), axis=1).T.tolist()
        told = [(self.submodels[index], number) for index, number in pairs]
        return {instance_id(*pair): pair for pair in told}

    def shares(self) -> dict[SubmodelId, float]:
        """Share of the cohort that each submodel got."""
        counts = np.bincount(self.submodel_index, minlength=len(self.submodels))
        return {name: float(n) / max(len(self), 1) for name, n in zip(self.submodels, counts, strict=True)}


def instance_id(submodel: SubmodelId, number: int) -> SubmodelId:
    """The name of one of a submodel's instances."""
    return SubmodelId(f"{submodel}.{number}")
