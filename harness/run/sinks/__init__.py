"""Where records go beside the files.

A sink hears of each committed round. Nothing depends on one: rounds.jsonl is the truth.
"""

from collections.abc import Mapping
from typing import Protocol

from harness.config import Config
from harness.run.records import Summary
from harness.run.sinks.console import ConsoleSink
from harness.run.sinks.wandb import WandbSink, sync

__all__ = ["ConsoleSink", "Sink", "WandbSink", "sync"]


class Sink(Protocol):
    """A listener of one run."""

    def start(self, cfg: Config, *, run_id: str, first_round: int) -> None:
        """The run begins at `first_round`, which is 0 unless an interrupted run goes on."""

    def write(self, record: Mapping[str, int | float], timings: Mapping[str, int | float]) -> None:
        """A round was committed. After lost processes a round may come again, with an equal record."""

    def finish(self, summary: Summary | None) -> None:
        """The run is finished; None: it was interrupted."""
