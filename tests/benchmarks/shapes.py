"""Both tasks beyond classification, trained centrally for minutes, against seeing nothing but background.

    python tests/benchmarks/shapes.py                        # both; about two minutes of one core
    python tests/benchmarks/shapes.py --task shapes_detection --rounds 30

Seeing nothing: no box anywhere (mAP 0), or background in every pixel. Ends with 1 where a network, at the
round that is best on val, does no better on the test split.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence

import torch

from harness import loading
from harness.config import Config
from harness.data.tasks import load_task
from harness.run.driver import execute
from harness.run.method import method_config
from harness.run.runtime import LocalRuntime

TASKS = {
    "shapes_detection": ("method.optimizer=adam", "method.lr=0.002"),
    "shapes_segmentation": ("method.lr=0.05", "method.momentum=0.9"),
}
COMMON = ("method=centralized", "method.batch_size=16", "task.limit_test=150", "runtime.transport=local")


def nothing(cfg: Config) -> float:
    """The metric of a network that sees background alone, on the test split."""
    task = load_task(cfg.task)
    targets = task.to_targets(task.load().test.targets)
    scorer = task.scorer()
    empty = torch.zeros_like(targets) if task.kind == "segmentation" else torch.zeros(len(targets), 1, 6)
    scorer.update(empty, targets)
    return scorer.compute()[task.metric]


def trained(cfg: Config) -> float:
    """Test metric at the round that is best on val."""
    metric = load_task(cfg.task).metric
    return float(execute(cfg, runtime=LocalRuntime())["best"][f"eval/{metric}"])


def main(words: Sequence[str] | None = None) -> int:
    """Print a line for each task; the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--set", metavar="key=value", action="append", default=[])
    args = parser.parse_args(words)
    worse = 0
    for name in args.task or TASKS:
        with tempfile.TemporaryDirectory() as folder:
            given = [f"task={name}", *COMMON, *TASKS[name], f"run.num_rounds={args.rounds}", *args.set]
            cfg = loading.load([*given, f"run.results_dir={folder}"], method_config=method_config)
            found, floor = trained(cfg), nothing(cfg)
        metric = load_task(cfg.task).metric
        print(f"{name}: test {metric} {found:.3f} after {args.rounds} rounds; background alone {floor:.3f}")
        worse += found <= floor
    return int(worse > 0)


if __name__ == "__main__":
    sys.exit(main())
