"""FedGKT: small networks on the edges, one large network on the server, and knowledge between them.

He, Annavaram, Avestimehr, "Group knowledge transfer: federated learning of large CNNs at the edge", NeurIPS
2020: Algorithm 1, equations 6 and 7. No weights are exchanged. Clients send features, soft labels and labels;
the server sends each client soft labels of its own examples. `mode: async` is the form of Table 3: the server
learns from a client's tensors as soon as they arrive, in simulated time.

Differs: the factors T^2 and alpha are not in the paper's equations, they come from its public release. Soft
labels are kept and sent by sample id; that release keys them by batch number under a shuffling loader, where
they belong to other images. What a `distill` mode does not use does not travel. All clients start from one
edge. A shard smaller than a batch is one batch. Plateaus are measured on val; the release reads the test set,
which `server_schedule: plateau_on_test` repeats.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from harness.config import nearest, require
from harness.data.task import Batch
from harness.exchange.client import Client
from harness.exchange.cohort import Cohort
from harness.exchange.payloads import Empty, Knowledge, Logits, Scores, Weights
from harness.learning.evaluation import evaluate_splits
from harness.learning.models import load_optimizer, make_optimizer, optimizer_state, set_lr
from harness.learning.seeding import torch_generator
from harness.learning.teacher import Teacher
from harness.learning.training import laid_out, train
from harness.learning.transfer import DTYPES, Networks, Plateau, TransferConfig, load_extractor
from harness.learning.weights import load_state, snapshot, state_of
from harness.learning.workplace import Workplace
from harness.run.checkpoint import read_weights
from harness.run.method import Exchange, Method, Metrics
from harness.types import ClientId, SubmodelId
from lightning_modules.edge import Edge

EDGE = SubmodelId("edge")


@dataclass(frozen=True, slots=True)
class FedGKTConfig(TransferConfig):
    """Defaults: the paper's IID setting; T and alpha from its public release."""

    distill: str = "both"
    """none, server_to_edge or both (Table 2)."""
    mode: str = "sync"
    """sync, or async (Table 3)."""
    extract_augmented: bool = True
    """Features of augmented training images."""
    server_schedule: str = "plateau"
    """none; plateau: a tenth of the server's lr after 10 evaluations that gained nothing; plateau_on_test."""
    eval_clients: int = 4
    """Clients whose extractors are tried with the server's network: the lowest ids that were heard."""
    init_extractor: str | None = None
    """Weights that extractors start from: a file of torch.save, or a run's folder."""
    personalize_epochs: int = 0
    """Epochs in which each of eval_clients tunes the whole network on its own examples after num_rounds."""


class FedGKTClient(Client[FedGKTConfig]):
    """An edge: its network, its optimizer and the server's last soft labels for its examples."""

    stateful = True
    steady = True

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.networks = Networks(self.cfg, self.place.task)
        self.module = self.place.initial(self.networks.edge, purpose="edge")
        start_from(self.cfg.init_extractor, self.module)
        self.optimizer = make_optimizer(self.module.parameters(), self.cfg, round=0)
        self.teacher: Tensor | None = None
        self.laps = 0

    def fit(self, down: Logits) -> Knowledge:
        """ClientTrain of Algorithm 1: local epochs, then one pass that extracts what is sent."""
        self.learn(down)
        set_lr(self.optimizer, self.cfg, round=self.laps)
        losses: list[Tensor] = []
        train(
            self.module,
            self.shard,
            cfg=self.cfg,
            optimizer=self.optimizer,
            place=self.place,
            generator=self.draws("batches"),
            prepare=self.taught,
            after_backward=lambda: losses.append(self.module.cross_entropy),
        )
        # Without the distillation's share, which would not compare with other methods.
        self.log("train/loss", float(torch.stack(losses).mean()))
        sent = self.extract()
        self.laps += 1
        return sent

    def learn(self, down: Logits) -> Empty:
        """Keep the server's soft labels, by sample id."""
        if down.values is not None and down.ids is not None:
            rows = np.searchsorted(self.shard.indices, down.ids.numpy())
            if self.teacher is None:
                self.teacher = torch.empty(len(self.shard), down.values.shape[1])
            self.teacher[rows] = down.values
        return Empty()

    def taught(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """A batch with the server's soft labels of its examples; none before the server's first reply."""
        if self.teacher is None:
            return batch.inputs, batch.targets, None
        rows = np.searchsorted(self.shard.indices, batch.ids.numpy())
        return batch.inputs, batch.targets, self.teacher[rows].to(batch.targets.device)

    @torch.no_grad()
    def extract(self) -> Knowledge:
        """H, Z_c, Y and ids of the whole shard, in eval mode."""
        self.module.eval()
        found: list[tuple[Tensor, Tensor]] = []
        generator = self.draws("extract")
        for batch in self.shard.batches(self.cfg.batch_size or len(self.shard)):
            inputs = batch.inputs
            if self.cfg.extract_augmented:
                inputs = self.place.task.augment(inputs, generator)
            inputs = laid_out(inputs, self.place)
            with self.place.meter.step(self.module, inputs, kind="forward"), self.place.fabric.autocast():
                features, logits = self.module.extract(inputs)
            found.append((features.to(DTYPES[self.cfg.feature_dtype]).cpu(), logits.float().cpu()))
        both = self.cfg.distill == "both"
        return Knowledge(
            features=torch.cat([features for features, _ in found]),
            logits=torch.cat([logits for _, logits in found]) if both else None,
            labels=torch.from_numpy(self.shard.examples.targets[self.shard.indices]),
            ids=torch.from_numpy(self.shard.indices.copy()),
        )

    def extractor(self, down: Empty) -> Weights:
        """W_e, for evaluation."""
        return Weights(params=state_of(self.module.extractor))

    def personalize(self, down: Weights) -> Scores:
        """Scores on val and test of extractor and server's network, tuned on this client's examples."""
        module = self.place.module("deployed", self.networks.deployed)
        load_state(module, {**named("network.0", state_of(self.module.extractor)), **down.params})
        train(
            module,
            self.shard,
            cfg=replace(self.cfg, local_epochs=self.cfg.personalize_epochs, local_steps=None),
            optimizer=make_optimizer(module.parameters(), self.cfg, round=0),
            place=self.place,
            generator=self.draws("personalize"),
        )
        scores = evaluate_splits(module, place=self.place)
        return Scores(values={f"{name}_personal": torch.tensor(value) for name, value in scores.items()})

    def draws(self, purpose: str) -> torch.Generator:
        """Randomness by this client's own count of trainings: without a barrier it is ahead of the rounds."""
        return torch_generator(self.place.seed, round=self.laps, client=self.client_id, purpose=purpose)

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": snapshot(self.module),
            "optimizer": optimizer_state(self.optimizer),
            "teacher": self.teacher,
            "laps": self.laps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_state(self.module, state["weights"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.teacher, self.laps = state["teacher"], state["laps"]


class FedGKT(Method[FedGKTClient, FedGKTConfig]):
    """Features and soft labels up, soft labels down."""

    Config = FedGKTConfig
    Client = FedGKTClient
    kinds = ("classification",)

    def __init__(self, cfg: FedGKTConfig, place: Workplace) -> None:
        super().__init__(cfg, place)
        check(cfg)
        self.networks = Networks(cfg, place.task)
        self.networks.check()
        start_from(cfg.init_extractor, self.networks.edge())
        self.plateau = Plateau()
        self.replies: dict[ClientId, Logits] = {}
        """Without a barrier: each client's last soft labels, sent when it goes again."""
        self.absorbed = 0
        self.sent_at: dict[ClientId, int] = {}

    def models(self) -> Mapping[str, Callable[[], L.LightningModule]]:
        return {
            EDGE: self.networks.edge,
            "server": self.networks.server,
            "deployed": self.networks.deployed,
        }

    def exchanges(self, num_examples: int) -> Sequence[Exchange]:
        with torch.device("meta"):
            ids = torch.empty(num_examples, dtype=torch.int64)
            logits = torch.empty(num_examples, self.place.task.num_classes)
            dtype = DTYPES[self.cfg.feature_dtype]
            features = torch.empty(num_examples, *self.networks.feature_shape, dtype=dtype)
        z_c = logits if self.cfg.distill == "both" else None
        sent = Knowledge(features=features, logits=z_c, labels=ids, ids=ids)
        reply = Logits() if self.cfg.distill == "none" else Logits(logits, ids)
        if self.cfg.mode == "async":
            return [Exchange(FedGKTClient.fit, EDGE, down=reply, up=sent)]
        learn = Exchange(FedGKTClient.learn, EDGE, down=reply, up=Empty())
        return [
            Exchange(FedGKTClient.fit, EDGE, down=Logits(), up=sent),
            *([learn] if reply.ids is not None else []),
        ]

    def start(self) -> None:
        self.teacher = Teacher(self.cfg, self.place, self.networks)

    def round(self, cohort: Cohort[FedGKTClient]) -> Metrics:
        return self.round_async(cohort) if self.cfg.mode == "async" else self.round_sync(cohort)

    def round_sync(self, cohort: Cohort[FedGKTClient]) -> Metrics:
        """Algorithm 1: everyone trains and sends; the server trains on all of it and replies to each."""
        self.teacher.reserve(cohort.num_examples)
        everyone = dict.fromkeys(cohort.clients, Logits())
        cohort.each(FedGKTClient.fit, everyone, take=self.take)
        if not self.teacher.received:
            return {}
        replies, loss = self.teacher.train(factor=self.lr_factor(cohort))
        if self.cfg.distill != "none":
            cohort.call(FedGKTClient.learn, {client: Logits(*kept) for client, kept in replies.items()})
        return {"train/server_loss": loss}

    def round_async(self, cohort: Cohort[FedGKTClient]) -> Metrics:
        """As many arrivals, lost ones too, as the cohort has clients; each gets its reply and goes again."""
        for client in cohort.clients:
            if client not in cohort.in_flight:
                self.send(cohort, client)
        losses: list[float] = []
        staleness: list[int] = []
        for _ in range(len(cohort.in_flight) if cohort.last else len(cohort.clients)):
            client, sent = cohort.receive()
            if sent is not None:
                staleness.append(self.absorbed - self.sent_at[client])
                self.teacher.reserve(len(sent.ids))
                self.take(client, sent)
                reply, loss = self.teacher.train(factor=self.lr_factor(cohort))
                losses.append(loss)
                if self.cfg.distill != "none":
                    self.replies[client] = Logits(*reply[client])
                self.absorbed += 1
            if client in cohort.plan and not cohort.last:
                self.send(cohort, client)
        if not losses:
            return {}
        found = {"train/staleness": float(np.mean(staleness)), "train/staleness_max": float(max(staleness))}
        return {**found, "train/server_loss": float(np.mean(losses))}

    def lr_factor(self, cohort: Cohort[FedGKTClient]) -> float:
        """On the server's learning rate."""
        return self.plateau.factor * self.cfg.lr_decay**cohort.plan.round

    def take(self, client: ClientId, sent: Knowledge) -> None:
        """Keep what a client sent until the server trains."""
        self.teacher.take(
            client, features=sent.features, logits=sent.logits, labels=sent.labels, ids=sent.ids
        )

    def send(self, cohort: Cohort[FedGKTClient], client: ClientId) -> None:
        """The server's soft labels, and the call to train again."""
        cohort.send(client, FedGKTClient.fit, self.replies.get(client, Logits()))
        self.sent_at[client] = self.absorbed

    def evaluate(self, cohort: Cohort[FedGKTClient]) -> Metrics:
        """Means over `eval_clients`, each one's extractor below the server's network; all of val and test."""
        # An extractor that the server never trained on says nothing of it.
        heard = [client for client in cohort.clients if client in self.teacher.heard] or cohort.clients
        chosen = heard[: self.cfg.eval_clients]
        network = named("network.1", state_of(self.teacher.module.network))
        extractors = cohort.call(FedGKTClient.extractor, dict.fromkeys(chosen, Empty()))
        module = self.place.module("deployed", self.networks.deployed)
        scores = []
        for client in chosen:
            load_state(module, {**named("network.0", extractors[client].params), **network})
            scores.append(evaluate_splits(module, place=self.place))
        found = {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}
        if self.cfg.server_schedule != "none":
            read = "eval" if self.cfg.server_schedule == "plateau_on_test" else "val"
            self.plateau.observe(found[f"{read}/accuracy"])
        if cohort.last and self.cfg.personalize_epochs:
            tuned = cohort.call(FedGKTClient.personalize, dict.fromkeys(chosen, Weights(params=network)))
            means = {name: [float(tuned[c].values[name]) for c in chosen] for name in tuned[chosen[0]].values}
            found |= {name: float(np.mean(values)) for name, values in means.items()}
        return found

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": snapshot(self.teacher.module),
            "optimizer": optimizer_state(self.teacher.optimizer),
            "heard": by_name(self.teacher.heard),
            "plateau": asdict(self.plateau),
            "replies": {name: asdict(reply) for name, reply in by_name(self.replies).items()},
            "sent_at": by_name(self.sent_at),
            "absorbed": self.absorbed,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_state(self.teacher.module, state["weights"])
        load_optimizer(self.teacher.optimizer, state["optimizer"])
        self.teacher.heard = by_client(state["heard"])
        self.plateau = Plateau(**state["plateau"])
        self.replies = {client: Logits(**kept) for client, kept in by_client(state["replies"]).items()}
        self.sent_at = by_client(state["sent_at"])
        self.absorbed = state["absorbed"]


def start_from(path: str | None, edge: Edge) -> None:
    """Give an edge the extractor of `method.init_extractor`. Raises ConfigError where it does not fit."""
    if path is not None:
        weights = read_weights(Path(path), key="method.init_extractor")
        load_extractor(edge.extractor, weights, source=Path(path))


def check(cfg: FedGKTConfig) -> None:
    """Raise ConfigError for values that no run can use."""
    cfg.check()
    for key, words in CHOICES.items():
        word = getattr(cfg, key)
        require(word in words, f"method.{key}: unknown value {word!r}{nearest(word, words)}")
    for key, least in (("eval_clients", 1), ("personalize_epochs", 0)):
        require(getattr(cfg, key) >= least, f"method.{key} must be >= {least}, got {getattr(cfg, key)}")


CHOICES = {
    "distill": ("none", "server_to_edge", "both"),
    "mode": ("sync", "async"),
    "server_schedule": ("none", "plateau", "plateau_on_test"),
}
"""Words that a key may be."""


def named(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors below another name."""
    return {f"{prefix}.{name}": value for name, value in state.items()}


def by_name(found: Mapping[ClientId, Any]) -> dict[str, Any]:
    """In order of client, with keys that a checkpoint can hold."""
    return {str(client): found[client] for client in sorted(found)}


def by_client(kept: Mapping[str, Any]) -> dict[ClientId, Any]:
    """What `by_name` was given."""
    return {ClientId(int(name)): value for name, value in kept.items()}
