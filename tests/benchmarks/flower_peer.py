"""Flower's Ray simulation on the same workload: message API, FedAvg and Ray backend, as its documents show.

The kindest use of the public API: evaluation, logs and telemetry are off, and an actor keeps its net and data
between clients.
"""

import functools
import os
import random

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read when flwr is imported
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import logging
from collections.abc import Iterable

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from workload import (
    EXAMPLES_PER_CLIENT,
    NUM_WORKERS,
    Job,
    Laps,
    Net,
    global_loss,
    initial_net,
    parse_job,
    train_one_epoch,
    write_report,
)


@functools.cache
def actor_net() -> Net:
    """Build the one net that an actor process keeps."""
    torch.set_num_threads(1)
    return initial_net()


def reply(message: Message, net: Net) -> Message:
    """Answer `message` with the weights of `net`."""
    metrics = MetricRecord({"num-examples": EXAMPLES_PER_CLIENT})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


def train(message: Message, context: Context) -> Message:
    """Train the client of `context` from the weights in `message`, for one epoch."""
    net = actor_net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    train_one_epoch(net, int(context.node_config["partition-id"]))
    return reply(message, net)


def echo(message: Message, context: Context) -> Message:
    """Return the weights in `message` after loading them, without training."""
    net = actor_net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return reply(message, net)


class TimedFedAvg(FedAvg):
    """Flower's FedAvg with a stopwatch at the end of each round's aggregation."""

    def __init__(self, laps: Laps, *, num_clients: int, cohort_size: int) -> None:
        super().__init__(fraction_train=cohort_size / num_clients, fraction_evaluate=0.0)
        self.laps, self.cohort_size = laps, cohort_size

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate as FedAvg does, refuse a round that lost a client, and end the lap."""
        kept = list(replies)
        failed = [message for message in kept if message.has_error()]
        if failed or len(kept) != self.cohort_size:
            raise RuntimeError(f"round {server_round}: {len(kept)} replies, {len(failed)} of them errors")
        result = super().aggregate_train(server_round, kept)
        self.laps.lap()
        return result


def run(job: Job, laps: Laps) -> Net:
    """Run the simulation and return the last global net."""
    final = initial_net()
    server_app, client_app = ServerApp(), ClientApp()
    client_app.train()(train if job.workload.trains else echo)

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = TimedFedAvg(
            laps, num_clients=job.workload.num_clients, cohort_size=job.workload.cohort_size
        )
        arrays = ArrayRecord(initial_net().state_dict())
        laps.lap()
        result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=1 + job.rounds)
        final.load_state_dict(result.arrays.to_torch_state_dict())

    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=job.workload.num_clients,
        backend_config={"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": NUM_WORKERS}},
    )
    return final


def main() -> None:
    """Run the job and write its report."""
    job, laps = parse_job(), Laps()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    random.seed(0)  # FedAvg samples its clients with it
    torch.set_num_threads(1)
    net = run(job, laps)
    note = f"Ray simulation, {NUM_WORKERS} actors; Ray starts within the first round"
    write_report(job, package="flwr", laps=laps, final_loss=global_loss(net), note=note)


if __name__ == "__main__":
    # Through the module's name: Ray then pickles the client functions by reference, as in an installed app.
    import flower_peer

    flower_peer.main()
