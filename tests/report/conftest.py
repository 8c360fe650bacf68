"""Run folders written by hand: three rounds, every number small enough to follow."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from harness.cost.ledger import LEDGER_COLUMNS

WriteRun = Callable[..., Path]


def one_round(index: int, *, accuracy: float | None, scale: float) -> dict[str, Any]:
    """A round that costs `scale` times 10 B up, 20 B down, 1000 FLOPs, 1 + 2 + 3 J and 5 s."""
    paid = {"tx_bytes": 10, "rx_bytes": 20, "client_flops": 1000, "server_flops": 7}
    paid |= {"compute_j": 1.0, "link_j": 2.0, "idle_j": 3.0, "server_j": 4.0}
    record: dict[str, Any] = {"round": index, "train/loss": 1.0 / (index + 1)}
    if accuracy is not None:
        record |= {"val/accuracy": accuracy, "eval/accuracy": accuracy - 0.1}
    record |= {f"cost/{name}": value * scale for name, value in paid.items()}
    record |= {f"cost/{name}_total": value * scale * (index + 1) for name, value in paid.items()}
    return record | {"time/sim_s": 5.0 * scale, "time/sim_s_total": 5.0 * scale * (index + 1)}


def summary_of_records(run_id: str, method: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a finished run says of itself."""
    measured = [r for r in records if "val/accuracy" in r]
    best = max(measured, key=lambda r: r["val/accuracy"])
    last = records[-1]
    totals = {k[5:-6]: v for k, v in last.items() if k.startswith("cost/") and k.endswith("_total")}
    return {
        "run_id": run_id,
        "method": method,
        "task": "digits",
        "seed": int(run_id.rsplit("-", 1)[1]),
        "rounds": len(records),
        "metrics": {k: v for k, v in measured[-1].items() if k.split("/")[0] in ("eval", "val", "train")},
        "totals": totals | {"sim_s": last["time/sim_s_total"]},
        "best": {k: best[k] for k in ("round", "val/accuracy", "eval/accuracy")},
        "timings": {"wall_s": 1.5, "median_round_s": 0.5},
    }


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Write `<tmp_path>/runs/<method>-digits-<digest>-<seed>/`; test accuracy is val accuracy - 0.1."""
    return run_writer(tmp_path)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods: fedavg with two seeds, one that pays nothing, one that is dear and oddly named."""
    write = run_writer(tmp_path_factory.mktemp("study"))
    write("fedavg", seed=0)
    write("fedavg", seed=1, val=(0.4, 0.6, 0.65))
    write("local", digest="cccccccc", scale=0)
    return write("fed<&$x_{prox", digest="bbbbbbbb", scale=100).parent


def run_writer(root: Path) -> WriteRun:
    """Writes runs below `root`."""

    def write(
        method: str = "fedavg",
        *,
        seed: int = 0,
        digest: str = "aaaaaaaa",
        val: Sequence[float | None] = (0.5, 0.7, 0.6),
        scale: float = 1,
        finished: bool = True,
        config: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Path:
        run_id = f"{method.rsplit(':', 1)[-1].lower()}-digits-{digest}-{seed}"
        folder = root / "runs" / run_id
        (folder / "ledger").mkdir(parents=True)
        records = [one_round(i, accuracy=v, scale=scale) for i, v in enumerate(val)]
        tree: dict[str, dict[str, Any]] = {
            "task": {"name": "digits", "model": "mlp", "augment": []},
            "partition": {"name": "dirichlet", "num_clients": 2, "alpha": 0.5},
            "method": {"name": method},
            "run": {"seed": seed, "num_rounds": 3},
        }
        for section, values in (config or {}).items():
            tree.setdefault(section, {}).update(values)
        (folder / "config.yaml").write_text(yaml.safe_dump(tree))
        (folder / "env.json").write_text(json.dumps({"python": "3.11", "packages": {"torch": "2.9"}}))
        (folder / "rounds.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        (folder / "partition.json").write_text(
            json.dumps({"label_counts": [[3, 0, 1], [0, 5, 2]], "remainder": 0})
        )
        ledger = pd.DataFrame(
            [entry(client=0, flops=600), entry(client=1, flops=400)], columns=list(LEDGER_COLUMNS)
        )
        ledger.astype(LEDGER_COLUMNS).to_parquet(folder / "ledger" / "0-2.parquet")
        if finished:
            (folder / "summary.json").write_text(json.dumps(summary_of_records(run_id, method, records)))
        return folder

    return write


def entry(*, client: int, flops: int) -> dict[str, Any]:
    """One line of a ledger."""
    names = {
        "round": 0,
        "phase": "train",
        "client": client,
        "endpoint": "train",
        "submodel": "full",
        "status": "ok",
    }
    costs = dict.fromkeys(("compute_s", "link_s", "idle_s", "compute_j", "link_j", "idle_j"), 0.5)
    return {**names, "flops": flops, "rx_bytes": 20, "tx_bytes": 10, **costs}
