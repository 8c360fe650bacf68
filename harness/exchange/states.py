"""States of stateful clients: files that every actor can read.

A version is named by the round at whose end it was kept; after an exchange without a barrier, by the round in
which that was sent and its place there: `<round>.<sequence>`.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from harness.types import ClientId


class StateStore:
    """`<dir>/<client>@<version>.pt`, each written whole or not at all, and never changed once committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, client: ClientId, version: str) -> Path:
        """File of one version."""
        return self.folder / f"{client}@{version}.pt"

    def save(self, client: ClientId, version: str, state: Mapping[str, Any]) -> None:
        """Write atomically; a replayed round overwrites what its first try left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self.path(client, version)
        temporary = final.with_suffix(f".{os.getpid()}.tmp")
        torch.save(dict(state), temporary)
        os.replace(temporary, final)

    def load(self, client: ClientId, version: str) -> dict[str, Any]:
        """Read one version; tensors and plain values only, no code."""
        state: dict[str, Any] = torch.load(self.path(client, version), weights_only=True)
        return state

    def drop(self, versions: Iterable[tuple[ClientId, str]]) -> None:
        """Delete versions that no checkpoint needs any more."""
        for client, version in versions:
            self.path(client, version).unlink(missing_ok=True)
