"""A folder of runs as pandas tables. Files are the truth: nothing here is computed twice or corrected.

A run that is unfinished or damaged is read as far as it is whole, or left out, with a warning.
"""

import dataclasses
import json
import re
import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from pyarrow.lib import ArrowException

from harness.config import ADDED, CompressionConfig, as_dict
from harness.cost.ledger import LEDGER_COLUMNS
from harness.run import ledger_files
from harness.types import ConfigError

AXES: Final[Mapping[str, tuple[str, ...]]] = {
    "bytes": ("cost/tx_bytes_total", "cost/rx_bytes_total"),
    "flops": ("cost/client_flops_total",),
    "joules": ("cost/compute_j_total", "cost/link_j_total", "cost/idle_j_total"),
    "sim_s": ("time/sim_s_total",),
}
"""What can be paid for accuracy, and the running totals of rounds.jsonl that add up to it."""

DRAWN: Final[Mapping[str, tuple[str, ...]]] = {"uploads": ("cost/tx_bytes_total",), **AXES}
"""What the metric is drawn against; uploads are the narrower half of the traffic."""
SPENT: Final = ("rounds", *DRAWN)
"""What a run spends: `rounds` counts from 1, the others are running totals."""

SECTIONS: Final = (("best", "best"), ("totals", "total"), ("timings", "timing"), ("energy", "energy"))
"""Of summary.json, and the prefix of their columns."""
RUN_ID: Final = re.compile(r".+-(?P<digest>[0-9a-f]{8})-(?P<seed>-?\d+)")


@dataclass(frozen=True, slots=True)
class Results:
    """Every readable run of a folder."""

    folder: Path
    """Where it was read from."""
    runs: pd.DataFrame
    """A row per run: run_id, method, task, seed, digest, rounds, finished, metric, last metrics by their
    keys, `best/...`, `total/...`, `timing/...`, `energy/...`, `config.<section>.<key>`, `env.<key>`."""
    rounds: pd.DataFrame
    """A row per run and round: run_id, method, task, seed, every key of rounds.jsonl (NaN where a round
    was not evaluated), and the running totals of DRAWN: uploads, bytes, flops,
    joules, sim_s."""
    ledger: pd.DataFrame
    """A row per ledger line: run_id and LEDGER_COLUMNS; empty where it was not asked for."""
    partitions: Mapping[str, NDArray[np.int64]]
    """run_id -> label counts [clients, classes], where the run stored them."""


@dataclass(frozen=True, slots=True)
class _Run:
    row: dict[str, Any]
    rounds: list[dict[str, Any]]
    ledger: pd.DataFrame
    label_counts: NDArray[np.int64] | None


def load(folder: Path | str, *, ledger: bool = True, only: Container[str] | None = None) -> Results:
    """Read every run in `folder` (or the one run that `folder` is), or those whose run_id is in `only`.

    `ledger=False` leaves out the ledger, the only large table. Raises ConfigError where no run can be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the one named by run.results_dir")
    paths = [folder.resolve(), *sorted(folder.iterdir())]
    paths = [path for path in paths if only is None or path.name in only]
    runs = [run for path in paths if (run := _read_run(path, ledger=ledger)) is not None]
    if not runs:
        raise ConfigError(f"{folder}: holds no readable run; give the one named by run.results_dir")
    keys = ("run_id", "method", "task", "seed")
    rounds = pd.DataFrame([{k: run.row[k] for k in keys} | line for run in runs for line in run.rounds])
    costs = {a: rounds.reindex(columns=list(c)).sum(axis=1, min_count=1) for a, c in DRAWN.items()}
    lines = [run.ledger.assign(run_id=run.row["run_id"]) for run in runs if len(run.ledger)]
    empty = pd.DataFrame(columns=["run_id", *LEDGER_COLUMNS])
    return Results(
        folder=folder,
        runs=pd.DataFrame([run.row for run in runs]),
        rounds=pd.concat([rounds, pd.DataFrame(costs)], axis=1),
        ledger=pd.concat(lines, ignore_index=True)[empty.columns] if lines else empty,
        partitions={r.row["run_id"]: r.label_counts for r in runs if r.label_counts is not None},
    )


def named(results: Results, names: Mapping[str, str]) -> Results:
    """The same with a name of the caller's for each run (run_id -> name), instead of one made from settings.

    Runs of a task and method have one name exactly when they have one digest.
    """
    return dataclasses.replace(results, runs=results.runs.assign(name=results.runs["run_id"].map(names)))


def read_ledger(folder: Path) -> pd.DataFrame:
    """The ledger of one run (LEDGER_COLUMNS); empty, with a warning, where its files cannot be read."""
    try:
        return ledger_files.read_ledger(folder / "ledger")
    except (OSError, ValueError, KeyError, ArrowException) as error:
        warnings.warn(f"{folder}/ledger: left out ({_short(error)})", stacklevel=2)
        return pd.DataFrame(columns=list(LEDGER_COLUMNS))


def _read_run(path: Path, *, ledger: bool) -> _Run | None:
    if not any((path / name).exists() for name in ("config.yaml", "rounds.jsonl", "summary.json")):
        return None
    try:
        parsed = RUN_ID.fullmatch(path.name)
        if parsed is None:
            raise ValueError("its name is not <method>-<task>-<hash>-<seed>")
        config = _mapping(yaml.safe_load((path / "config.yaml").read_text()), "config.yaml")
        config.setdefault("compression", as_dict(CompressionConfig()))  # older runs had none
        rounds = _read_rounds(path / "rounds.jsonl")
        row = {
            "run_id": path.name,
            "method": str(config["method"]["name"]),
            "task": str(config["task"]["name"]),
            "seed": int(parsed["seed"]),
            "digest": parsed["digest"],
            "rounds": len(rounds),
        }
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        warnings.warn(f"{path}: left out ({_short(error)})", stacklevel=3)
        return None
    summary = _read_summary(path / "summary.json", num_rounds=len(rounds))
    row |= {"finished": summary is not None, **_outcome(summary or summary_of(rounds))}
    row |= {f"config.{key}": value for key, value in flatten(config).items()}
    row |= {f"env.{key}": value for key, value in flatten(_read_optional(path / "env.json")).items()}
    return _Run(
        row=row,
        rounds=rounds,
        ledger=read_ledger(path) if ledger else pd.DataFrame(),
        label_counts=_label_counts(path / "partition.json"),
    )


def _read_rounds(path: Path) -> list[dict[str, Any]]:
    """The lines before the first one that is cut off or garbled."""
    rounds: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        try:
            record = _mapping(json.loads(line), "a round")
            rounds.append({**record, "round": int(record["round"])})
        except (ValueError, KeyError, TypeError) as error:
            warnings.warn(f"{path}:{number}: read up to here ({_short(error)})", stacklevel=4)
            break
    if not rounds:
        raise ValueError("rounds.jsonl holds no finished round")
    return rounds


def _read_summary(path: Path, *, num_rounds: int) -> dict[str, Any] | None:
    """None for a run that has not ended, or whose rounds are not all there."""
    if not path.exists():
        warnings.warn(f"{path.parent}: unfinished, {num_rounds} rounds so far", stacklevel=4)
        return None
    summary = _read_optional(path)
    if not isinstance(summary.get("metrics"), dict) or not isinstance(summary.get("best"), dict):
        warnings.warn(f"{path}: not a summary; the run counts as unfinished", stacklevel=4)
        return None
    if summary.get("rounds") != num_rounds:
        told = f"tells of {summary.get('rounds')} rounds, rounds.jsonl holds {num_rounds}"
        warnings.warn(f"{path}: {told}; the run counts as unfinished", stacklevel=4)
        return None
    return summary


def summary_of(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What summary.json would say if the run ended here."""
    last = rounds[-1]
    evaluated = [r for r in rounds if any(key.startswith("eval/") for key in r)]
    final = evaluated[-1] if evaluated else last
    metrics = {k: v for k, v in final.items() if k.split("/")[0] in ("eval", "val", "train")}
    metric = _metric(metrics)
    measured = [r for r in evaluated if f"val/{metric}" in r]
    best = max(measured, key=lambda r: float(r[f"val/{metric}"]), default={})
    keys = ("round", f"val/{metric}", f"eval/{metric}")
    totals = {k[len("cost/") : -len("_total")]: v for k, v in last.items() if re.match(r"cost/.+_total$", k)}
    return {
        "metrics": metrics,
        "best": {key: best[key] for key in keys if key in best},
        "totals": totals | {"sim_s": last.get("time/sim_s_total")},
    }


def _outcome(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a summary."""
    row: dict[str, Any] = {"metric": _metric(summary["best"] or summary["metrics"]), **summary["metrics"]}
    for section, prefix in SECTIONS:
        row |= {f"{prefix}/{key}": value for key, value in (summary.get(section) or {}).items()}
    return row


def _metric(keys: Iterable[str]) -> str:
    """The suffix of `val/<metric>` (or of `eval/<metric>`); a loss is not a metric."""
    for prefix in ("val/", "eval/"):
        for key in keys:
            if key.startswith(prefix) and "loss" not in key:
                return key.removeprefix(prefix)
    return "accuracy"


def _label_counts(path: Path) -> NDArray[np.int64] | None:
    stored = _read_optional(path).get("label_counts")
    if stored is None:
        return None
    try:
        counts = np.array(stored, dtype=np.int64)
    except (ValueError, TypeError):
        counts = np.zeros(0, dtype=np.int64)
    if counts.ndim != 2 or 0 in counts.shape or counts.min() < 0:
        warnings.warn(f"{path}: label_counts is not a table of counts [clients, classes]", stacklevel=4)
        return None
    return counts


def _read_optional(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return _mapping(json.loads(path.read_text()), path.name)
    except (OSError, ValueError) as error:
        warnings.warn(f"{path}: ignored ({_short(error)})", stacklevel=4)
        return {}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as `a.b.c` keys; a list, or an empty mapping, becomes its JSON text."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list | Mapping) else value
    return flat


USUAL: Final = {f"config.method.{name}": value for name, value in flatten(ADDED).items()}
"""Columns that older runs lack, and what they stand for there."""


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not a mapping")
    return value


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
