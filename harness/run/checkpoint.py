"""The whole state of a run as bytes, and the two files that hold the last two such states.

Reading one executes no code: torch unpickles tensors and plain values only (`weights_only`). A file is one
line of JSON (round, length, SHA-256 of the round and what follows) and then the bytes of `dump`.
"""

import hashlib
import io
import json
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harness.run.files import write_bytes
from harness.types import ConfigError

CURRENT = Path("checkpoint/state.pt")
PREVIOUS = Path("checkpoint.prev/state.pt")
PLAIN = (bool, int, float, str, type(None))


class Restored(NamedTuple):
    """Where a run goes on."""

    next_round: int
    """First round to play, from 0."""
    state: bytes
    """What `dump` gave after the round before."""


def dump(state: Mapping[str, Any]) -> bytes:
    """Bytes of a tree of dicts and lists over tensors, numbers, strings and None.

    Raises TypeError, naming the key path, for anything else: `load_bytes` could not read it back.
    """
    buffer = io.BytesIO()
    torch.save(_plain(state, "state"), buffer)
    return buffer.getvalue()


def load_bytes(data: bytes) -> dict[str, Any]:
    """The tree given to `dump`, tensors on the CPU. Raises ConfigError for any other bytes."""
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds for bytes that are not torch's own
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"checkpoint: not a state of this harness ({reason}); use run.force=true") from None
    if not isinstance(state, dict):
        raise ConfigError(f"checkpoint: must hold a dict, got {type(state).__name__}; use run.force=true")
    return state


def save(folder: Path, data: bytes, *, next_round: int) -> None:
    """Make `data` the checkpoint of the run in `folder`; the one before becomes `checkpoint.prev`."""
    current, previous = folder / CURRENT, folder / PREVIOUS
    current.parent.mkdir(exist_ok=True)
    previous.parent.mkdir(exist_ok=True)
    header = {"next_round": next_round, "bytes": len(data), "sha256": _digest(data, next_round)}
    # Written in full before the rotation, so that a kill never leaves fewer than two good ones of two.
    fresh = current.with_name(".next.tmp")
    write_bytes(fresh, json.dumps(header).encode() + b"\n" + data)
    if current.exists():
        os.replace(current, previous)
    os.replace(fresh, current)


def restore(folder: Path) -> Restored | None:
    """The last good checkpoint of the run in `folder`; None where none was ever written.

    A damaged file gives a warning and its predecessor. Raises ConfigError where no good one is left.
    """
    reasons = []
    for path in (folder / CURRENT, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            found = _read(path)
        except ValueError as error:
            reasons.append(f"{path}: damaged ({error})")
            continue
        if reasons:
            warnings.warn(f"{reasons[0]}; going back to {path}, round {found.next_round}", stacklevel=2)
        return found
    if reasons:
        raise ConfigError(f"{'; '.join(reasons)}; run.force=true starts again from round 0")
    return None


def read_weights(source: Path, *, key: str) -> dict[str, torch.Tensor]:
    """Named tensors of a run (its folder, or one that holds but one run), or of a torch.save'd state_dict.

    `key` names the setting in errors. Raises ConfigError where there are none.
    """
    if source.is_dir():
        inside = sorted(source.glob(f"*/{CURRENT}"))
        found = restore(inside[0].parents[1] if len(inside) == 1 else source)
        if found is None:
            raise ConfigError(f"{key}={source}: holds no checkpoint; give a run's folder or a weights file")
        tree = load_bytes(found.state)["method"]
    elif source.is_file():
        try:
            tree = load_bytes(source.read_bytes())
        except ConfigError:
            raise ConfigError(
                f"{key}={source}: not what torch.save made of a state_dict; "
                "give a run's folder or a weights file"
            ) from None
    else:
        raise ConfigError(f"{key}={source}: no such file or folder; give a run's folder or a weights file")
    for key in ("weights", "state_dict"):
        tree = tree[key] if isinstance(tree.get(key), Mapping) else tree
    return {name: value for name, value in tree.items() if isinstance(value, torch.Tensor)}


def _read(path: Path) -> Restored:
    header, newline, data = path.read_bytes().partition(b"\n")
    try:
        fields = json.loads(header)
        next_round, length, digest = int(fields["next_round"]), int(fields["bytes"]), str(fields["sha256"])
    except (ValueError, KeyError, TypeError):
        raise ValueError("its first line is not a header" if newline else "cut off in its header") from None
    if len(data) != length:
        raise ValueError(f"{len(data)} bytes of {length}")
    if _digest(data, next_round) != digest:
        raise ValueError("its checksum is wrong")
    return Restored(next_round, data)


def _digest(data: bytes, next_round: int) -> str:
    digest = hashlib.sha256(str(next_round).encode())
    digest.update(data)
    return digest.hexdigest()


def _plain(value: object, path: str) -> object:
    """A copy of the tree in plain dicts and lists, every tensor detached and on storage of its own size."""
    if isinstance(value, torch.Tensor):
        if type(value) not in (torch.Tensor, torch.nn.Parameter) or value.layout != torch.strided:
            raise TypeError(
                f"{path}: a dense torch.Tensor is needed, got {type(value).__name__}, {value.layout}"
            )
        tensor = value.detach()
        # torch.save writes the whole storage: of a view that would be far more than the view.
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return tensor if whole else tensor.clone()
    if isinstance(value, Mapping):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"{path}: keys must be str or int, got {key!r} ({type(key).__name__})")
        return {_once(key): _plain(each, f"{path}.{key}") for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, f"{path}[{index}]") for index, each in enumerate(value)]
    # The exact type: a subclass such as numpy.float64 or an Enum would not be read back.
    if type(value) not in PLAIN:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{path}: only tensors, numbers, str, None, lists and dicts can be kept, got {kind}")
    return _once(value)


def _once(value: Any) -> Any:
    """Equal strings as one object: pickle writes one once, so the bytes would tell where they came from."""
    return sys.intern(value) if isinstance(value, str) else value
