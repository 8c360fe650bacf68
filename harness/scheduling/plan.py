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
        return Assignment(
            client=client,
            submodel=self.submodels[self.submodel_index[row]],
            point=self.points.row(row),
            fails=bool(self.fails[row]),
        )

    def __iter__(self) -> Iterator[ClientId]:
        return (ClientId(int(client)) for client in self.clients)

    def shares(self) -> dict[SubmodelId, float]:
        """Share of the cohort that each submodel got."""
        counts = np.bincount(self.submodel_index, minlength=len(self.submodels))
        return {name: float(n) / max(len(self), 1) for name, n in zip(self.submodels, counts, strict=True)}
