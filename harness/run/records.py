"""What a round leaves behind, and the keys it is written under (the same in files and on W&B)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from harness.cost.ledger import COSTS, LEDGER_COLUMNS

__all__ = ["COSTS", "LEDGER_COLUMNS", "Commit", "Summary"]


@dataclass(frozen=True, slots=True)
class Commit:
    """Everything one finished round hands to the driver, which alone writes files."""

    round: int
    """From 0."""
    record: Mapping[str, int | float]
    """One line of rounds.jsonl: deterministic values only."""
    timings: Mapping[str, int | float]
    """One line of timings.jsonl: wall time, memory, retries. Never compared."""
    ledger: pd.DataFrame
    """This round's entries, LEDGER_COLUMNS."""
    checkpoint: bytes | None
    """The whole state after this round (torch.save of tensors and plain values), where one is due."""
    done: bool = False
    """The target was reached: no further round."""
    shown: Mapping[str, NDArray[Any]] | None = None
    """Test pictures with predictions (`evaluation.show`), after the last round of tasks that have some."""


Summary = Mapping[str, Any]
