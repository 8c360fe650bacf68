"""Early stopping: a run ends once its validation loss has not fallen for some evaluations."""

import math
from collections.abc import Mapping

from harness.config import require


class Patience:
    """Counts evaluations since the lowest loss."""

    def __init__(self, limit: int) -> None:
        """`limit` evaluations without a lower loss end the run; 0 never does. Raises ConfigError below 0."""
        require(limit >= 0, f"method.patience must be >= 0, got {limit}")
        self.limit = limit
        self.best = math.inf
        self.waited = 0

    def see(self, loss: float) -> None:
        """One more evaluation. A loss that is no number is no lower one."""
        lower = loss < self.best
        self.best = loss if lower else self.best
        self.waited = 0 if lower else self.waited + 1

    @property
    def over(self) -> bool:
        """Waited long enough."""
        return 0 < self.limit <= self.waited

    def state_dict(self) -> dict[str, float]:
        """What a later evaluation depends on."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take up a state that `state_dict` gave."""
        self.best, self.waited = state["best"], int(state["waited"])
