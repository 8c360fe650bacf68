"""Identifiers and phases that every floor of the harness shares."""

from enum import StrEnum
from typing import NewType

ClientId = NewType("ClientId", int)
SubmodelId = NewType("SubmodelId", str)

SERVER = ClientId(-1)
"""The server's id in the ledger; clients count from 0."""


class Phase(StrEnum):
    """What a cost was paid for. Headline totals are the train phase alone."""

    SETUP = "setup"
    TRAIN = "train"
    EVAL = "eval"


class Status(StrEnum):
    """What became of a client's reply."""

    OK = "ok"
    LATE = "late"  # computed and paid for, after the deadline: not aggregated
    FAILED = "failed"  # computed and paid for, lost on the way (a planned failure)
    REFUSED = "refused"  # not finite or out of range: not aggregated


class ConfigError(ValueError):
    """A mistake of the user's: one line with what, got, fix and key path."""


class WorkerLost(RuntimeError):
    """A process that hosted clients died; the round has to be played again."""


class DataError(ConfigError):
    """A data file that is missing, cut short, of a wrong shape or checksum: names the file and the reason."""
