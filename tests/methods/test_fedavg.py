"""FedAvg and its variants: by hand, and where two of them must coincide."""

import math

import lightning as L
import pytest
import torch
from local_run import Play, assert_same, make_config, make_place
from torch import Tensor, nn

from harness.exchange.payloads import Weights
from harness.learning.proximal import proximal
from harness.methods.fedavg import FedAvg, FedAvgConfig, fedadam, fedavgm, take_mean
from harness.run import checkpoint
from harness.types import ConfigError
from lightning_modules.classifier import Classifier


def vector(*values: float) -> dict[str, Tensor]:
    return {"w": torch.tensor(values, dtype=torch.float64)}


W, MEAN = vector(1.0, 2.0, -4.0), vector(2.0, 2.0, 0.0)  # the update is (1, 0, 4)


# --- what the server does with the mean


def test_the_mean_itself_and_a_part_of_the_way() -> None:
    assert take_mean(W, MEAN, {}, FedAvgConfig())["w"] is MEAN["w"]
    assert take_mean(W, MEAN, {}, FedAvgConfig(server_lr=0.25))["w"].tolist() == [1.25, 2.0, -3.0]


def test_fedavgm_by_hand() -> None:
    cfg, moments = FedAvgConfig(server_lr=0.5, server_momentum=0.5), {}
    first = fedavgm(W, MEAN, moments, cfg)
    # v = (1, 0, 4);  w + v / 2
    assert first["w"].tolist() == [1.5, 2.0, -2.0]
    # the update from there is (0.5, 0, 2): v = (0.5, 0, 2) + (0.5, 0, 2);  w + v / 2
    second = fedavgm(first, MEAN, moments, cfg)
    assert second["w"].tolist() == [2.0, 2.0, 0.0]
    assert moments["v"]["w"].tolist() == [1.0, 0.0, 4.0]


def test_fedavgm_without_momentum_is_fedavg() -> None:
    assert fedavgm(W, MEAN, {}, FedAvgConfig(server_momentum=0.0))["w"].tolist() == MEAN["w"].tolist()


def test_fedadam_by_hand() -> None:
    cfg = FedAvgConfig(server_lr=0.1, server_momentum=0.9, server_beta2=0.99, server_tau=1e-3)
    moments: dict[str, dict[str, Tensor]] = {}
    weights, m, s, w = W, [0.0] * 3, [1e-6] * 3, W["w"].tolist()
    for _ in range(2):
        weights = fedadam(weights, MEAN, moments, cfg)
        for i, target in enumerate(MEAN["w"].tolist()):
            delta = target - w[i]
            m[i] = 0.9 * m[i] + 0.1 * delta
            s[i] = 0.99 * s[i] + 0.01 * delta**2
            w[i] += 0.1 * m[i] / (math.sqrt(s[i]) + 1e-3)
    assert weights["w"].tolist() == pytest.approx(w, rel=1e-12)
    # The first step of coordinate 0 in the head: 0.1 * 0.1 / (sqrt(0.01 + 0.99e-6) + 0.001)
    first = fedadam(W, MEAN, {}, cfg)
    assert first["w"][0].item() - 1 == pytest.approx(0.01 / (0.1 + 0.00000495 + 0.001), rel=1e-6)
    assert first["w"][1].item() == 2.0


@pytest.mark.parametrize("step", [take_mean, fedavgm, fedadam])
def test_server_steps_leave_their_arguments_alone(step) -> None:  # type: ignore[no-untyped-def]
    weights, mean = vector(1.0, 2.0), vector(3.0, 5.0)
    step(weights, mean, {}, FedAvgConfig(server_lr=0.5))
    assert (weights["w"].tolist(), mean["w"].tolist()) == ([1.0, 2.0], [3.0, 5.0])


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_server_optimizers_carry_their_moments_through_a_checkpoint(optimizer: str, play: Play) -> None:
    words = [f"method.server_optimizer={optimizer}", "method.server_lr=0.1"]
    whole = play(*words)
    moments = checkpoint.load_bytes(whole.state)["method"]["moments"]
    assert moments
    rest = play(*words, restored=whole.commits[0].checkpoint, first=1)
    assert rest.records == whole.records[1:]
    assert rest.state == whole.state
    assert whole.records[-1]["eval/loss"] != play().records[-1]["eval/loss"]


# --- FedProx


def test_the_proximal_gradient_is_that_of_its_term() -> None:
    """Central differences of mu/2 ||w - w_global||^2, added to whatever gradient is there."""
    mu, eps = 0.3, 1e-4
    torch.manual_seed(0)
    module = Classifier(nn.Linear(3, 2)).double()
    anchor = {name: torch.randn_like(p) for name, p in module.named_parameters()}

    def term() -> float:
        pairs = ((p, anchor[name]) for name, p in module.named_parameters())
        return mu / 2 * sum(float(((p.detach() - a) ** 2).sum()) for p, a in pairs)

    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    proximal(module, anchor, mu=mu)()
    for parameter in module.parameters():
        assert parameter.grad is not None
        flat = parameter.data.view(-1)
        for i in range(flat.numel()):
            value = flat[i].item()
            flat[i] = value + eps
            above = term()
            flat[i] = value - eps
            below = term()
            flat[i] = value
            assert parameter.grad.view(-1)[i].item() == pytest.approx(
                1 + (above - below) / (2 * eps), rel=1e-6
            )


def test_frozen_parameters_feel_no_pull() -> None:
    module: L.LightningModule = Classifier(nn.Linear(3, 2))
    module.network.bias.requires_grad_(False)  # type: ignore[union-attr]
    anchor = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    module.network.weight.grad = torch.zeros(2, 3)  # type: ignore[union-attr]
    proximal(module, anchor, mu=1.0)()
    assert torch.equal(module.network.weight.grad, module.network.weight.detach())  # type: ignore[union-attr,arg-type]


def test_fedprox_without_its_term_is_fedavg_to_the_bit(play: Play) -> None:
    fedavg, fedprox = play(), play("method=fedprox", "method.mu=0")
    assert_same(fedavg, fedprox)


def test_fedprox_keeps_clients_nearer_to_where_they_started(play: Play) -> None:
    words = ["run.num_rounds=1", "method.local_epochs=5"]
    norms = []
    for mu in (0, 0.5, 5):
        played = play("method=fedprox", f"method.mu={mu}", *words)
        played.engine.method.start()  # back to the initial weights
        start = played.engine.method.weights
        end = checkpoint.load_bytes(played.state)["method"]["weights"]
        norms.append(math.sqrt(sum(float(((end[n] - start[n]) ** 2).sum()) for n in start)))
    assert norms[0] > norms[1] > norms[2] > 0


# --- FedSGD


def test_fedsgd_is_fedavg_with_one_epoch_of_one_batch(play: Play) -> None:
    words = ["method.local_epochs=1", "method.batch_size=0"]
    assert_same(play("method=fedsgd"), play("method=fedavg", *words))


def test_a_round_of_fedsgd_is_a_step_along_the_gradient_over_all_examples(play: Play) -> None:
    played = play("method=fedsgd", "run.num_rounds=1", "method.lr=0.5")
    method = played.engine.method
    method.start()
    module = method.place.module("full", lambda: pytest.fail("the engine built it already"))
    shard = method.place.split("train")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(method.weights[name])
    batch = shard.take(shard.indices)
    module.zero_grad()
    module.training_step(batch, 0).backward()  # type: ignore[union-attr]
    end = checkpoint.load_bytes(played.state)["method"]["weights"]
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        expected = (parameter - 0.5 * parameter.grad).detach()
        torch.testing.assert_close(end[name], expected, rtol=1e-5, atol=1e-7)
    module.zero_grad()


# --- FedAvg


@pytest.mark.parametrize("model", ["logistic", "cnn"])
def test_one_client_is_centralized_training(model: str, play: Play) -> None:
    words = ["partition.num_clients=1", f"model={model}", "method.local_epochs=2"]
    fedavg, central = play(*words), play(*words, "method=centralized")
    for ours, theirs in zip(fedavg.records, central.records, strict=True):
        for name in ("train/loss", "val/loss", "eval/loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)
        assert ours["cost/client_flops"] == theirs["cost/server_flops"]


def test_a_round_is_the_weighted_mean_of_what_clients_trained(play: Play) -> None:
    played = play("run.num_rounds=1")
    method, worker = played.engine.method, played.engine.transport.worker
    method.start()
    down = Weights(params=method.weights)
    client_class, sizes = played.job.client_class, played.job.partition.sizes
    total = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in method.weights.items()}
    for client, size in enumerate(sizes):
        one = worker._build(client)
        assert type(one) is client_class
        one.round = 0
        up = one.fit(down)
        assert up.num_examples == size
        for name, tensor in up.params.items():
            total[name] += int(size) * tensor.double()
    end = checkpoint.load_bytes(played.state)["method"]["weights"]
    for name, tensor in total.items():
        torch.testing.assert_close(end[name].double(), tensor / 90, rtol=1e-6, atol=1e-9)


def test_train_loss_is_the_mean_over_clients_weighted_by_examples(play: Play) -> None:
    played = play("run.num_rounds=1", "method=fedsgd")
    # One full batch at the initial weights: the mean over all training examples.
    method = played.engine.method
    method.start()
    batch = method.place.split("train").take(method.place.split("train").indices)
    module = method.place.module("full", lambda: pytest.fail("the engine built it already"))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(method.weights[name])
        loss = float(module.training_step(batch, 0))  # type: ignore[arg-type]
    assert played.records[0]["train/loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("method.mu=-1", "method.mu must be >= 0, got -1.0"),
        (
            "method.server_optimizer=adagrad",
            "method.server_optimizer must be one of none, momentum, adam, got 'adagrad'",
        ),
        ("method.lr=0", "method.lr must be > 0, got 0.0"),
    ],
)
def test_settings_that_cannot_work(word: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FedAvg(make_config([word]).method, make_place())
    assert str(caught.value) == message
