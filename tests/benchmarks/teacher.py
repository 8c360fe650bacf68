"""FedGKT's server: its training loop against a plain one on the same tensors, and the memory of features.

    python tests/benchmarks/teacher.py speed            # both loops in turn, ResNet-55, batches of 64
    python tests/benchmarks/teacher.py memory --budget-mb 0

`memory` lets clients of 50,000 images send a round of features, 3.3 GB, to a server of few parameters, and
prints the peak of memory that no file backs (RssAnon of Linux).
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.config import Config
from harness.data.tasks import load_task
from harness.learning.teacher import Teacher
from harness.learning.transfer import Networks
from harness.learning.workplace import Workplace
from harness.loading import load
from harness.run.method import method_config
from harness.types import ClientId
from lightning_modules.distillation import kl_t
from lightning_modules.resnet import SERVERS, ServerNet, feature_shape

IMAGE = (3, 32, 32)
CLASSES = 10


def configured(*words: str) -> Config:
    """A FedGKT run on images like CIFAR-10's."""
    task = "task.options={num_train: 50000, num_test: 10, image_size: 32, channels: 3}"
    return load(["method=fedgkt", "task=synthetic", task, *words], method_config=method_config)


def made(cfg: Config) -> Teacher:
    """The server's side of such a run."""
    task = load_task(cfg.task)
    place = Workplace(cfg, task=task, splits=None, threads=1)
    return Teacher(cfg.method, place, Networks(cfg.method, task))


def plain_epoch(
    net: nn.Module, optimizer: torch.optim.Optimizer, room: Tensor, y: Tensor, z: Tensor
) -> Tensor:
    """What one writes without a harness: shuffled batches of the same tensors, the same losses, and Z_s."""
    out = torch.empty(len(room), CLASSES)
    net.train()
    for rows in torch.randperm(len(room)).split(64):
        features = room[rows].contiguous(memory_format=torch.channels_last)
        logits = net(features)
        loss = F.cross_entropy(logits, y[rows]) + kl_t(logits, z[rows], temperature=3.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        out[rows] = logits.detach()
    return out


def speed(*, server: str, examples: int, repeats: int) -> None:
    """Print seconds of both loops, in turn, and the harness's share of the plain loop's throughput."""
    torch.set_num_threads(1)
    cfg = configured(f"method.server={server}", "method.batch_size=64", "method.server_epochs=1")
    teacher = made(cfg)
    room = torch.randn(examples, *feature_shape(IMAGE))
    y, z = torch.randint(CLASSES, (examples,)), torch.randn(examples, CLASSES)
    net = ServerNet(SERVERS[server], CLASSES).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-4, amsgrad=True, fused=True)
    ratios = []
    for repeat in range(repeats + 1):
        teacher.reserve(examples)
        teacher.take(ClientId(0), features=room, logits=z, labels=y, ids=torch.arange(examples))
        laps = [time.perf_counter()]
        teacher.train(factor=1.0)
        laps.append(time.perf_counter())
        plain_epoch(net, optimizer, room, y, z)
        laps.append(time.perf_counter())
        ours, plain = laps[1] - laps[0], laps[2] - laps[1]
        if repeat:  # the first warms up both
            ratios.append(plain / ours)
            print(f"harness {examples / ours:.0f} images/s, plain {examples / plain:.0f}: {plain / ours:.3f}")
    print(f"median {statistics.median(ratios):.3f} of the plain loop's throughput")


def light_server(*, feature_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Average pooling and one linear layer: next to no time, all of the features."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(feature_shape[0], num_classes))


def own_bytes() -> int:
    """Memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def memory(*, budget_mb: float, num_clients: int) -> None:
    """Print the peak of this process's own memory (not backed by a file) and its largest resident size."""
    torch.set_num_threads(1)
    teacher = made(configured(f"method.memory_budget_mb={budget_mb}", "method.server_epochs=2",
                              f"method.server={Path(__file__).stem}:light_server"))  # fmt: skip
    shape, each = feature_shape(IMAGE), 50_000 // num_clients
    peak = 0
    teacher.reserve(each * num_clients)
    for client in range(num_clients):
        ids = torch.arange(each) + client * each
        features = torch.randn(each, *shape)
        teacher.take(ClientId(client), features=features, logits=torch.randn(each, CLASSES),
                     labels=ids % CLASSES, ids=ids)  # fmt: skip
        peak = max(peak, own_bytes())
    started = time.perf_counter()
    teacher.train(factor=1.0)
    peak = max(peak, own_bytes())
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{num_clients} clients, {each * num_clients} examples, budget {budget_mb:.0f} MB: own memory "
          f"{peak / 1e6:.0f} MB, with mapped pages {resident / 1e6:.0f} MB; "
          f"two epochs {time.perf_counter() - started:.1f} s")  # fmt: skip


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["speed", "memory"])
    parser.add_argument("--server", default="resnet55")
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--budget-mb", type=float, default=8000.0)
    parser.add_argument("--clients", type=int, default=16)
    args = parser.parse_args()
    if args.what == "speed":
        speed(server=args.server, examples=args.examples, repeats=args.repeats)
    else:
        memory(budget_mb=args.budget_mb, num_clients=args.clients)


if __name__ == "__main__":
    main()
