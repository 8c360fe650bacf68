"""This harness as a contender, through its own run path: `execute`, files, ledger, checkpoints and all.

The task and, for no-op rounds, the method are user code, named `harness_peer:Class` as any user's would be.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from workload import (
    EVAL_EXAMPLES,
    LEARNING_RATE,
    NUM_WORKERS,
    Job,
    Laps,
    examples,
    global_loss,
    initial_net,
    parse_job,
    write_report,
)

from harness import loading
from harness.config import Config
from harness.data.task import Examples, Splits, Task
from harness.exchange.cohort import Cohort
from harness.exchange.payloads import Weights
from harness.learning.aggregation import WeightSum
from harness.learning.weights import load_state, state_of
from harness.methods.fedavg import FedAvg, FedAvgClient
from harness.run.driver import execute
from harness.run.method import FULL, Metrics, method_config
from lightning_modules.classifier import Classifier


class BenchTask(Task):
    """The workload's images; for no-op rounds one image a client."""

    input_shape = (3, 32, 32)
    num_classes = 10
    num_train = 5000
    default_model = "bench_cnn"

    def load(self) -> Splits:
        if self.cfg.options.get("noop"):
            return Splits(*(blank(count) for count in (self.cfg.options["noop"], 1, 1)))
        images, labels = examples()
        train = Examples(images.numpy(), labels.numpy())
        judged = Examples(train.inputs[:EVAL_EXAMPLES], train.targets[:EVAL_EXAMPLES])
        return Splits(train, Examples(train.inputs[:1], train.targets[:1]), judged)

    def to_inputs(self, rows: Any) -> Tensor:
        return torch.from_numpy(rows)

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        return inputs


def blank(count: int) -> Examples:
    """`count` examples nobody looks at."""
    return Examples(np.zeros((count, 1), dtype=np.uint8), np.zeros(count, dtype=np.int64))


class EchoClient(FedAvgClient):
    """Returns what it got, through the network as a training client would."""

    def echo(self, down: Weights) -> Weights:
        module = self.place.module("full", lambda: Classifier(initial_net()))
        load_state(module, down.params)
        return Weights(params=state_of(module), num_examples=len(self.shard))


class Echo(FedAvg):
    """FedAvg whose clients do nothing."""

    Client = EchoClient

    def start(self) -> None:
        self.weights = {f"network.{name}": t.clone() for name, t in initial_net().state_dict().items()}

    def round(self, cohort: Cohort[Any]) -> Metrics:
        total = cohort.reduce(
            EchoClient.echo,
            {FULL: Weights(params=self.weights)},
            into=WeightSum.like(self.weights, max_examples=cohort.num_examples),
        )
        self.weights = total.mean()
        return {}

    def evaluate(self, cohort: Cohort[Any]) -> Metrics:
        net = initial_net()
        net.load_state_dict({name.removeprefix("network."): t for name, t in self.weights.items()})
        return {"val/accuracy": 0.0, "eval/accuracy": 0.0, "eval/loss": global_loss(net)}


class LapSink:
    """Ends a lap when a round's files are written."""

    def __init__(self, laps: Laps) -> None:
        self.laps = laps

    def start(self, cfg: Config, *, run_id: str, first_round: int) -> None:
        pass

    def write(self, record: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        self.laps.lap()

    def finish(self, summary: Mapping[str, Any]) -> None:
        pass


def configure(job: Job, results: str) -> Config:
    """The workload as a configuration, with one round more: the last one also evaluates and is not timed."""
    rounds = 1 + job.rounds + 1
    options = "{}" if job.workload.trains else f"{{noop: {job.workload.num_clients}}}"
    method = "fedavg" if job.workload.trains else "harness_peer:Echo"
    words = [
        f"method={method}",
        f"method.lr={LEARNING_RATE}",
        "task=harness_peer:BenchTask",
        f"task.options={options}",
        f"partition.num_clients={job.workload.num_clients}",
        f"scheduler.cohort_size={job.workload.cohort_size}",
        f"run.num_rounds={rounds}",
        f"run.eval_every={rounds + 1}",
        f"run.results_dir={results}",
        f"runtime.min_actors={NUM_WORKERS}",
        *os.environ.get("HARNESS_BENCH_WORDS", "").split(),
    ]
    return loading.load(words, method_config=method_config)


def main() -> None:
    """Run the job and write its report."""
    from ray_actors.launch import RayRuntime

    job, laps = parse_job(), Laps()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as results:
        cfg = configure(job, results)
        runtime = RayRuntime()
        started = runtime.start

        def start(*words: Any, **named: Any) -> Any:
            engine = started(*words, **named)
            laps.lap()
            return engine

        runtime.start = start  # type: ignore[method-assign]
        summary = execute(cfg, runtime=runtime, sinks=[LapSink(laps)])
        runtime.close()
    laps.ends.pop()
    loss = summary["metrics"].get("eval/loss", float("nan"))
    write_report(
        job, package="edge-fl-harness", laps=laps, final_loss=loss, note="through `execute`, files and all"
    )


if __name__ == "__main__":
    main()
