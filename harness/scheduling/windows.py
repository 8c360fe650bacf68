"""When clients are available, in simulated time.

Shape letters: K clients, N windows.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.types import ConfigError

EARLY_S = 1e-6
"""A window opens this early, so that no rounding of the clock keeps a client waiting."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Spans [start, end) in which clients may take part."""

    num_clients: int
    client: NDArray[np.int64]
    """[N]"""
    start_s: NDArray[np.float64]
    """[N]"""
    end_s: NDArray[np.float64]
    """[N] inf for one that never closes."""
    period_s: float | None = None
    """All windows repeat after so long."""

    def available(self, now_s: float) -> NDArray[np.bool_]:
        """[K] who may take part at a time."""
        t = self._local(now_s)
        open_now = (self.start_s <= t + EARLY_S) & (t < self.end_s)
        found = np.zeros(self.num_clients, dtype=np.bool_)
        found[self.client[open_now]] = True
        return found

    def wait_s(self, now_s: float) -> float:
        """Seconds until anyone is available. Raises ConfigError where nobody ever is."""
        if self.available(now_s).any():
            return 0.0
        t = self._local(now_s)
        later = self.start_s[self.start_s > t]
        if len(later):
            return float(later.min() - t)
        if self.period_s is None or not len(self.start_s):
            raise ConfigError(
                f"fleet.table: no client is available after {now_s:g} simulated seconds; widen its windows, "
                "repeat them with fleet.period_s, or lower run.num_rounds"
            )
        return float(self.start_s.min() + self.period_s - t)

    def _local(self, now_s: float) -> float:
        return now_s if self.period_s is None else math.fmod(now_s, self.period_s)
