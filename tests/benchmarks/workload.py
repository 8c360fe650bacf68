"""The work every contender does, and the report it writes: the same data, model and first weights for all.

Shape letters: B batch, N examples of one client (50).
"""

import argparse
import functools
import itertools
import json
import os
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_WORKERS = 2
EXAMPLES_PER_CLIENT = 50
BATCH_SIZE = 10
LEARNING_RATE = 0.1
EVAL_EXAMPLES = 1000
LAUNCHED_VARIABLE = "BENCH_LAUNCHED_S"


@dataclass(frozen=True, slots=True)
class Workload:
    """How many clients there are, how many a round asks, and whether they train."""

    num_clients: int
    """clients in all"""
    cohort_size: int
    """clients a round"""
    trains: bool
    """one local epoch when true; when false a client returns the weights it got"""


WORKLOADS = {
    "train": Workload(num_clients=100, cohort_size=20, trains=True),
    "noop": Workload(num_clients=1000, cohort_size=50, trains=False),
}


class Net(nn.Module):
    """Two 3x3 convolutions, a pool and two dense layers: 1,626,442 parameters, 6.5 MB in fp32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.dense1 = nn.Linear(64 * 14 * 14, 128)
        self.dense2 = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, 3, 32, 32] to logits [B, 10]."""
        features = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(images)))), 2)
        logits: Tensor = self.dense2(F.relu(self.dense1(features.flatten(1))))
        return logits


def initial_net() -> Net:
    """Build the net with the first weights that every contender starts from."""
    torch.manual_seed(0)
    return Net()


@functools.cache
def examples() -> tuple[Tensor, Tensor]:
    """Make the images [5000, 3, 32, 32] float32 and labels [5000] int64 of all clients, 50 rows each.

    Noise over a faint pattern per class, so that a contender that does not really train shows in its loss.
    """
    random = np.random.default_rng(0)
    num_examples = WORKLOADS["train"].num_clients * EXAMPLES_PER_CLIENT
    labels = random.integers(0, 10, num_examples)
    patterns = random.standard_normal((10, 3, 32, 32), dtype=np.float32)
    images = random.standard_normal((num_examples, 3, 32, 32), dtype=np.float32) + 0.5 * patterns[labels]
    return torch.from_numpy(images), torch.from_numpy(labels)


def client_examples(client: int) -> tuple[Tensor, Tensor]:
    """Return one client's images [N, 3, 32, 32] and labels [N], as views."""
    images, labels = examples()
    rows = slice(client * EXAMPLES_PER_CLIENT, (client + 1) * EXAMPLES_PER_CLIENT)
    return images[rows], labels[rows]


def train_one_epoch(net: Net, client: int) -> None:
    """Train `net` in place for one epoch over the client's examples, in their order."""
    images, labels = client_examples(client)
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)
    for batch, target in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(net(batch), target).backward()
        optimizer.step()


@torch.no_grad()
def global_loss(net: Net) -> float:
    """Return the mean cross-entropy of `net` over the first 1,000 training examples."""
    images, labels = (tensor[:EVAL_EXAMPLES].split(100) for tensor in examples())
    losses = [F.cross_entropy(net(batch), target) for batch, target in zip(images, labels, strict=True)]
    return float(torch.stack(losses).mean())


@dataclass(frozen=True, slots=True)
class Job:
    """What the command line of a contender asks for."""

    workload: Workload
    """the clients and what they do"""
    rounds: int
    """warm rounds, after one first round that is reported apart"""
    json: Path
    """file the report goes to"""


def parse_job() -> Job:
    """Read `--workload train|noop --rounds N --json OUT`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workload", choices=sorted(WORKLOADS), required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    return Job(workload=WORKLOADS[args.workload], rounds=args.rounds, json=args.json)


def _launched() -> float:
    """Return when this process was launched, s: as the orchestrator says, on a clock they share; else now."""
    return float(os.environ.get(LAUNCHED_VARIABLE, time.perf_counter()))


@dataclass(slots=True)
class Laps:
    """A stopwatch: the first lap ends the set-up, each later one ends a round."""

    launched: float = field(default_factory=_launched)
    """clock at the launch of the process, s"""
    ends: list[float] = field(default_factory=list)
    """clock at the end of each lap, s"""

    def lap(self) -> None:
        """End a lap now."""
        self.ends.append(time.perf_counter())


def write_report(job: Job, *, package: str, laps: Laps, final_loss: float, note: str) -> None:
    """Write the contender's JSON; `package` names the installed distribution whose version is reported."""
    first, *warm = [end - start for start, end in itertools.pairwise(laps.ends)]
    assert len(warm) == job.rounds, f"{len(warm)} warm rounds timed, {job.rounds} asked for"
    report = {
        "name": package,
        "version": metadata.version(package),
        "setup_s": laps.ends[0] - laps.launched,
        "first_round_s": first,
        "round_s": warm,
        "final_loss": final_loss,
        "note": note,
    }
    job.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
