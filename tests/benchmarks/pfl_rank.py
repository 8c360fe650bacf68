"""One rank of the pfl-research contender; `pfl_peer.py` starts two of these.

Evaluation is off: by default pfl would evaluate the cohort before and after training in the first round.
"""

import dataclasses

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor
from torch.nn import functional as F
from workload import (
    BATCH_SIZE,
    LEARNING_RATE,
    WORKLOADS,
    Job,
    Laps,
    Net,
    client_examples,
    examples,
    global_loss,
    initial_net,
    parse_job,
    write_report,
)


class PflNet(Net):
    """The net with the two methods pfl asks of a module."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        return F.cross_entropy(self(images), labels)

    def metrics(self, images: Tensor, labels: Tensor) -> dict[str, Weighted]:
        """Return the loss as a pfl metric; never called here, as evaluation is off."""
        return {"loss": Weighted(self.loss(images, labels).item() * len(images), len(images))}


class Averaging(FederatedAveraging):
    """pfl's federated averaging with no evaluation."""

    def get_next_central_contexts(self, *args, **kwargs):
        contexts, model, metrics = super().get_next_central_contexts(*args, **kwargs)
        if contexts is not None:
            contexts = tuple(dataclasses.replace(context, do_evaluation=False) for context in contexts)
        return contexts, model, metrics


class Echo(Averaging):
    """Averaging of clients that do not train: each returns a difference of zero."""

    def train_one_user(self, initial_model_state, model, user_dataset, central_context):
        return model.get_model_difference(initial_model_state), Metrics()


class LapCallback(TrainingProcessCallback):
    """End a lap after each round."""

    def __init__(self, laps: Laps) -> None:
        self.laps = laps

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.laps.lap()
        return False, Metrics()


def client_dataset(client: int) -> Dataset:
    """Return a client's data; the no-op has 1,000 clients and does not look at it, so there it repeats."""
    return Dataset(client_examples(client % WORKLOADS["train"].num_clients), user_id=str(client))


def run(job: Job, laps: Laps) -> PflNet:
    """Run the simulation on this rank and return the last global net."""
    net = PflNet()
    net.load_state_dict(initial_net().state_dict())
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    sampler = get_user_sampler("minimize_reuse", range(job.workload.num_clients))
    clients = FederatedDataset(client_dataset, sampler)
    backend = SimulatedBackend(training_data=clients, val_data=clients, postprocessors=[WeightByDatapoints()])
    algorithm = Averaging() if job.workload.trains else Echo()
    laps.lap()
    algorithm.run(
        NNAlgorithmParams(
            central_num_iterations=1 + job.rounds,
            evaluation_frequency=1 + job.rounds,
            train_cohort_size=job.workload.cohort_size,
            val_cohort_size=None,
        ),
        backend,
        model,
        NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=LEARNING_RATE, local_batch_size=BATCH_SIZE
        ),
        callbacks=[LapCallback(laps)],
        send_metrics_to_platform=False,
    )
    return net


def main() -> None:
    """Run the job; rank 0 writes the report."""
    job, laps = parse_job(), Laps()
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002 - what pfl draws from; the ranks must agree on the cohort
    examples()
    net = run(job, laps)
    if torch.distributed.get_rank() == 0:
        note = "two processes, all-reduce over gloo"
        write_report(job, package="pfl", laps=laps, final_loss=global_loss(net), note=note)
    torch.distributed.barrier()  # rank 0 holds the store that rank 1 still needs to leave in order
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
