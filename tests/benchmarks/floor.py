"""The floor: federated averaging as a plain PyTorch loop over two processes, with no framework at all.

Weights and partial sums lie in shared memory. A worker takes the next client as soon as it is free, trains
it and adds its weights to the worker's own sum; the parent averages two sums a round.
"""

import multiprocessing
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized

import numpy as np
import torch
from torch import Tensor
from workload import (
    EXAMPLES_PER_CLIENT,
    NUM_WORKERS,
    Job,
    Laps,
    examples,
    global_loss,
    initial_net,
    parse_job,
    train_one_epoch,
    write_report,
)

State = dict[str, Tensor]


def work(
    job: Job,
    weights: State,
    total: State,
    cohort: Tensor,
    next_index: "Synchronized[int]",
    parent: Connection,
) -> None:
    """Serve rounds until the parent sends False: train clients of `cohort` and add them up in `total`."""
    torch.set_num_threads(1)
    net = initial_net()
    examples()
    parent.send(True)
    while parent.recv():
        for tensor in total.values():
            tensor.zero_()
        while True:
            with next_index.get_lock():
                index = next_index.value
                next_index.value += 1
            if index >= len(cohort):
                break
            net.load_state_dict(weights)
            if job.workload.trains:
                train_one_epoch(net, int(cohort[index]))
            for name, tensor in net.state_dict().items():
                total[name].add_(tensor, alpha=EXAMPLES_PER_CLIENT)
        parent.send(True)


def average(weights: State, totals: list[State], num_examples: int) -> None:
    """Set `weights` to the sum of the workers' totals over the number of examples behind it."""
    for name, tensor in weights.items():
        torch.add(totals[0][name], totals[1][name], out=tensor).div_(num_examples)


def main() -> None:
    """Run the job and write its report."""
    job, laps = parse_job(), Laps()
    torch.set_num_threads(1)
    weights = {name: tensor.share_memory_() for name, tensor in initial_net().state_dict().items()}
    totals = [
        {name: torch.zeros_like(t).share_memory_() for name, t in weights.items()} for _ in range(NUM_WORKERS)
    ]
    cohort = torch.zeros(job.workload.cohort_size, dtype=torch.int64).share_memory_()

    context = multiprocessing.get_context("spawn")
    next_index = context.Value("i", 0)
    pipes = [context.Pipe() for _ in range(NUM_WORKERS)]
    workers = [
        context.Process(target=work, args=(job, weights, total, cohort, next_index, there), daemon=True)
        for total, (_, there) in zip(totals, pipes, strict=True)
    ]
    for worker in workers:
        worker.start()
    connections = [here for here, _ in pipes]
    for connection in connections:
        connection.recv()

    random = np.random.default_rng(0)
    laps.lap()
    for _ in range(1 + job.rounds):
        chosen = random.choice(job.workload.num_clients, job.workload.cohort_size, replace=False)
        cohort.copy_(torch.from_numpy(chosen))
        next_index.value = 0
        for connection in connections:
            connection.send(True)
        for connection in connections:
            connection.recv()
        average(weights, totals, job.workload.cohort_size * EXAMPLES_PER_CLIENT)
        laps.lap()

    for connection, worker in zip(connections, workers, strict=True):
        connection.send(False)
        worker.join()
    net = initial_net()
    net.load_state_dict(weights)
    write_report(
        job, package="torch", laps=laps, final_loss=global_loss(net), note="plain loop, two processes"
    )


if __name__ == "__main__":
    main()
