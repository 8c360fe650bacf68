"""Rotation: which block of the weights a client trains next, kept per client and submodel.

A submodel of width group instances 0..Q-1 (see lightning_modules/widths.py) is dealt out so that clients
of one submodel start at different instances and each goes through all Q of them in turn. Every client keeps a
count of its own: after Q trainings it had every instance once, whatever rounds it was skipped or got
another submodel in.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.cost.submodel import SubmodelProfile
from harness.scheduling.plan import RoundPlan
from harness.types import SubmodelId


class Rotation:
    """The next instance of every client, for each submodel that has several."""

    def __init__(self, num_clients: int) -> None:
        self.num_clients = num_clients
        self.turns: dict[SubmodelId, NDArray[np.int64]] = {}
        """Submodel -> [num_clients] number of the next instance, modulo Q; -1: never had it."""

    def apply(self, plan: RoundPlan, submodels: Mapping[SubmodelId, SubmodelProfile]) -> RoundPlan:
        """The plan with an instance for everyone; unchanged where submodels have only one."""
        if all(submodels[name].num_instances == 1 for name in plan.submodels):
            return plan
        chosen = np.zeros(len(plan), dtype=np.int64)
        for index, name in enumerate(plan.submodels):
            rows = np.flatnonzero(plan.submodel_index == index)
            chosen[rows] = self._turn(name, plan.clients[rows]) % submodels[name].num_instances
        return replace(plan, instance_index=chosen)

    def advance(self, plan: RoundPlan) -> None:
        """Everyone in `plan` trained its instance."""
        if plan.instance_index is None:
            return
        for index, name in enumerate(plan.submodels):
            clients = plan.clients[plan.submodel_index == index]
            turn = self._turn(name, clients)
            self.turns.setdefault(name, np.full(self.num_clients, -1, dtype=np.int64))[clients] = turn + 1

    def _turn(self, name: SubmodelId, clients: NDArray[np.int64]) -> NDArray[np.int64]:
        """A client's count so far; one that starts takes its rank among the clients of the submodel."""
        rank = np.arange(len(clients), dtype=np.int64)
        if name not in self.turns:
            return rank
        turn = self.turns[name][clients]
        return np.where(turn < 0, rank, turn)

    def state_dict(self) -> dict[str, Any]:
        """Everyone's counts."""
        return {str(name): torch.from_numpy(turn.copy()) for name, turn in self.turns.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that `state_dict` gave."""
        self.turns = {SubmodelId(name): turn.numpy().copy() for name, turn in state.items()}
