"""Low-rank layers: against dense ones, by hand formula, under Trainer, and their solvers against LAPACK."""

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.classifier import Classifier
from lightning_modules.lowrank import (
    LowRankLinear,
    densify,
    factorize,
    is_large,
    linear_layers,
    randomized_svd,
    split,
    with_low_rank,
)
from lightning_modules.networks import build_network

B, N, M, R = 5, 12, 7, 3


def classifier(name: str = "mlp", shape: tuple[int, ...] = (1, 8, 8)) -> Classifier:
    torch.manual_seed(0)
    return Classifier(build_network(name, input_shape=shape, num_classes=4))


def test_forward_by_hand() -> None:
    layer = LowRankLinear(3, 2, 1)
    with torch.no_grad():
        layer.weight_a.copy_(torch.tensor([[2.0], [-1.0]]))
        layer.weight_b.copy_(torch.tensor([[1.0], [0.0], [3.0]]))
        assert layer.bias is not None
        layer.bias.copy_(torch.tensor([0.5, 0.25]))
    # B^T x = 1 + 9 = 10;  A 10 + b
    assert layer(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[20.5, -9.75]]


def test_a_new_layer_starts_with_the_variance_of_a_dense_one() -> None:
    torch.manual_seed(0)
    layer = LowRankLinear(300, 200, 16)
    product = (layer.weight_a @ layer.weight_b.T).detach()
    assert float(product.var()) == pytest.approx(1 / (3 * 300), rel=0.15)


def test_names_ranks_biases_and_order_are_kept() -> None:
    module = with_low_rank(
        Classifier(nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 2, bias=False))), 3
    )
    assert [(name, tuple(p.shape)) for name, p in module.named_parameters()] == [
        ("network.0.weight_a", (5, 3)),
        ("network.0.weight_b", (9, 3)),
        ("network.0.bias", (5,)),
        ("network.2.weight_a", (2, 2)),
        ("network.2.weight_b", (5, 2)),
    ]
    assert linear_layers(module) == []


@pytest.mark.parametrize("name", ["mlp", "cnn", "bench_cnn"])
def test_full_rank_equals_dense_to_rounding(name: str) -> None:
    module, inputs = classifier(name), torch.randn(3, 1, 8, 8)
    dense = module(inputs)
    factorize(module, 10_000)
    torch.testing.assert_close(module(inputs), dense, rtol=1e-4, atol=1e-5)
    densify(module)
    torch.testing.assert_close(module(inputs), dense, rtol=1e-4, atol=1e-5)


def test_densify_gives_the_names_back() -> None:
    module = classifier("cnn")
    before = {name: p.shape for name, p in module.named_parameters()}
    assert {n: p.shape for n, p in densify(factorize(module, 2)).named_parameters()} == before
    assert not any(isinstance(layer, LowRankLinear) for layer in module.modules())


def test_the_truncation_is_the_best_of_its_rank() -> None:
    """Eckart-Young: the residual is the root of the sum of the squares of the values left out."""
    torch.manual_seed(0)
    weight = torch.randn(M, N)
    a, b = split(weight, R)
    values = torch.linalg.svdvals(weight)
    assert float((weight - a @ b.T).norm()) == pytest.approx(
        float(values[R:].square().sum().sqrt()), rel=1e-5
    )
    # Both factors share the singular values: A^T A = B^T B = S.
    torch.testing.assert_close(a.T @ a, values[:R].diag(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(b.T @ b, values[:R].diag(), rtol=1e-4, atol=1e-5)


def test_flops_by_hand() -> None:
    """Forward 2 B R (M + N); backward twice that, less the gradient of the first layer's input."""
    inputs = torch.randn(B, N)
    layer = LowRankLinear(N, M, R)
    with FlopCounterMode(display=False) as forward:
        layer(inputs)
    assert forward.get_total_flops() == 2 * B * R * (M + N)
    with FlopCounterMode(display=False) as first:
        layer(inputs).sum().backward()
    assert first.get_total_flops() == 2 * B * (3 * R * (M + N) - R * N)
    with FlopCounterMode(display=False) as inner:
        layer(inputs.requires_grad_()).sum().backward()
    assert inner.get_total_flops() == 2 * B * 3 * R * (M + N)


def test_every_factor_learns_as_the_chain_rule_says() -> None:
    """dA = dW B and dB = dW^T A, where dW is what the dense layer's weights would get."""
    torch.manual_seed(0)
    layer, inputs = LowRankLinear(N, M, R), torch.randn(B, N)
    dense = nn.Linear(N, M)
    with torch.no_grad():
        dense.weight.copy_(layer.weight_a @ layer.weight_b.T)
        dense.bias.zero_()
    layer(inputs).square().sum().backward()
    dense(inputs).square().sum().backward()
    grad = dense.weight.grad
    assert grad is not None
    torch.testing.assert_close(layer.weight_a.grad, grad @ layer.weight_b.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.weight_b.grad, grad.T @ layer.weight_a.detach(), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_b_gives_the_input_away_and_that_of_a_does_not() -> None:
    """dB = x (A^T e)^T with e = db: one example's x, whoever sends B. dA = e (B^T x)^T: R numbers of it."""
    torch.manual_seed(0)
    layer, x = LowRankLinear(N, M, R), torch.randn(1, N)
    layer(x).square().sum().backward()
    assert layer.bias is not None
    e, a, b = layer.bias.grad, layer.weight_a, layer.weight_b
    assert e is not None
    assert a.grad is not None
    assert b.grad is not None
    known = a.detach().T @ e
    torch.testing.assert_close(b.grad @ known / (known @ known), x[0], rtol=1e-4, atol=1e-5)
    seen = a.grad.T @ e / (e @ e)
    torch.testing.assert_close(seen, b.detach().T @ x[0], rtol=1e-4, atol=1e-5)
    least = b.detach() @ torch.linalg.solve(b.detach().T @ b.detach(), seen)
    assert float((least - x[0]).norm() / x.norm()) > 0.5


@pytest.mark.filterwarnings("ignore")
def test_it_trains_under_lightnings_trainer() -> None:
    module = factorize(classifier("cnn"), 4)
    data = TensorDataset(torch.randn(64, 1, 8, 8), torch.arange(64) % 4)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    trainer = L.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=16))
    assert all(not torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_a_layer_that_is_used_twice_stays_one() -> None:
    shared = nn.Linear(4, 4)
    module = with_low_rank(nn.Sequential(shared, nn.ReLU(), shared), 2)
    assert isinstance(module[0], LowRankLinear)
    assert module[0] is module[2]


def test_mode_and_meta_device_are_kept() -> None:
    module = with_low_rank(nn.Sequential(nn.Linear(4, 4)).eval(), 2)
    assert not module[0].training
    with torch.device("meta"):
        low = with_low_rank(classifier("mlp"), 3)
    assert all(p.is_meta for p in low.parameters())


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"^rank must be >= 1, got {rank}$"):
        LowRankLinear(4, 3, rank)
    with pytest.raises(ValueError, match="rank must be"):
        split(torch.randn(4, 3), rank)


def test_a_rank_above_the_layers_is_its_full_rank_for_layers_and_refused_for_matrices() -> None:
    assert LowRankLinear(4, 3, 99).rank == 3
    with pytest.raises(ValueError, match=r"^rank must be in 1..3 for a layer \(4, 3\), got 4$"):
        split(torch.randn(4, 3), 4)


def test_networks_without_a_linear_layer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^Sequential has no nn.Linear that could be factored$"):
        with_low_rank(nn.Sequential(nn.Conv2d(1, 1, 1)), 2)


# --- the randomized solver


def spectrum(rows: int, columns: int, values: Tensor) -> Tensor:
    """A matrix with these singular values and random directions."""
    generator = torch.Generator().manual_seed(0)
    k = len(values)
    u, v = (torch.linalg.qr(torch.randn(n, k, generator=generator)).Q for n in (rows, columns))
    return (u * values) @ v.T


def test_large_layers_at_small_ranks_take_it() -> None:
    assert is_large((4096, 4096), 32)
    assert is_large((4096, 1024), 32)
    assert not is_large((10, 4096), 8)
    assert not is_large((1024, 1024), 300)
    assert not is_large((200, 784), 8)


def test_it_finds_what_lapack_finds_where_the_spectrum_decays() -> None:
    weight = spectrum(700, 600, 1.0 / torch.arange(1, 301))
    u, s, v = randomized_svd(weight, 16, seed=1)
    assert s.tolist() == pytest.approx([1 / k for k in range(1, 17)], rel=1e-4)
    torch.testing.assert_close(u.T @ u, torch.eye(16), rtol=0, atol=1e-5)
    torch.testing.assert_close(v.T @ v, torch.eye(16), rtol=0, atol=1e-5)
    best = float((1.0 / torch.arange(17, 301)).square().sum().sqrt())
    assert float((weight - (u * s) @ v.T).norm()) == pytest.approx(best, rel=1e-4)


def test_on_a_flat_spectrum_its_residual_is_within_half_a_percent_of_the_best() -> None:
    torch.manual_seed(0)
    weight = torch.rand(600, 512) * 2 - 1
    u, s, v = randomized_svd(weight, 16, seed=1)
    best = torch.linalg.svdvals(weight)[16:].square().sum().sqrt()
    assert 1 <= float((weight - (u * s) @ v.T).norm() / best) < 1.005


def test_equal_seeds_give_equal_factors() -> None:
    weight = torch.randn(600, 520, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    one, same, other = (split(weight, 4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one[0], same[0])
    assert torch.equal(one[1], same[1])
    assert not torch.equal(one[0], other[0])
    assert torch.equal(torch.random.get_rng_state(), state)
