"""Made-up runs: commits whose every value follows from the round, so equal files can be asked for."""

from functools import cache
from pathlib import Path

import torch

from harness.config import Config, MethodConfig
from harness.cost.ledger import Entry, Ledger
from harness.loading import load
from harness.run.checkpoint import dump
from harness.run.records import Commit
from harness.run.store import RunStore

NUM_ROUNDS = 5
PARTITION = {"sizes": [3, 4], "remainder": 0}
SUMMARY = {"rounds": NUM_ROUNDS, "metrics": {"eval/accuracy": 0.1 + 0.2}}


def make_config(results: Path, *words: str) -> Config:
    given = [f"run.results_dir={results}", f"run.num_rounds={NUM_ROUNDS}", "run.checkpoint_every=2", *words]
    return load(given, method_config=lambda name: MethodConfig)


@cache
def make_commit(round: int) -> Commit:
    """Checkpoints after rounds 1 and 3; the last round has none."""
    ledger = Ledger()
    for client in range(round + 1):
        labels = (round, "train" if client % 2 else "eval", client, "Client.train", f"width{round}", "ok")
        ledger.charge(Entry(*labels, flops=10**17 + client, tx_bytes=7, compute_j=0.1 * (client + 1)))
    frame, sums = ledger.close_round()
    record = {
        "round": round,
        "eval/accuracy": round / 3,
        "train/loss": 2.0 / (round + 1),
        "time/sim_s_total": 0.1,
    }
    record |= {"cost/client_flops_total": 12345678901234567 + round, "cost/tx_bytes": sums["tx_bytes"]}
    state = dump({"weights": torch.full((3,), float(round)), "now": 0.1 * round})
    return Commit(
        round=round,
        record=record,
        timings={"round": round, "time/wall_s": 0.5 + round, "memory/rss_mb": 100 + round},
        ledger=frame,
        checkpoint=state if round % 2 else None,
    )


def play(cfg: Config, *, until: int = NUM_ROUNDS) -> None:
    """Open the run, commit what is left up to round `until`, and finish it if that is the last."""
    with RunStore.open(cfg, partition=PARTITION) as store:
        for round in range(store.next_round, until):
            store.commit(make_commit(round))
        if until == NUM_ROUNDS:
            store.finish(SUMMARY)


def read_tree(folder: Path) -> dict[str, bytes]:
    """Relative path -> content of every file; of config.yaml without the line on run.resume."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    if "config.yaml" in files:
        lines = files["config.yaml"].split(b"\n")
        files["config.yaml"] = b"\n".join(line for line in lines if b"resume:" not in line)
    return files
