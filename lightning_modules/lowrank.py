"""Low-rank linear layers: W [M, N] ~ A B^T, and the way there and back.

Li et al. (FDNNC), IEEE Internet of Things Journal 2022: every fully connected layer is factored by its
truncated singular value decomposition.

Shape letters: M outputs, N inputs, R rank, B batch.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ModuleT = TypeVar("ModuleT", bound=nn.Module)

LARGE: Final = 512
"""Layers whose shorter side is at least this long are split by the randomized solver, if the rank is small.

On one core at rank 32 it takes 0.09 s instead of 0.76 s for 4096 x 1024, 0.33 s instead of 21 s for 4096^2.
"""
NUM_EXTRA: Final = 16
"""Directions sampled beyond the rank (Halko et al. 2011, section 4.2, advise 5 to 10)."""
NUM_POWERS: Final = 4
"""Power iterations, so that a slowly decaying spectrum is found too (Halko et al. 2011, section 4.5)."""


class LowRankLinear(nn.Module):
    """z = A (B^T x) + bias: a linear layer of rank R with R (M + N) weights instead of M N."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        bias: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Entries of A B^T start with nn.Linear's variance, 1 / (3 N). Raises ValueError for a rank < 1."""
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be >= 1, got {rank}")
        self.in_features, self.out_features = in_features, out_features
        self.rank = min(rank, in_features, out_features)
        self.weight_a = nn.Parameter(torch.empty(out_features, self.rank, device=device, dtype=dtype))
        self.weight_b = nn.Parameter(torch.empty(in_features, self.rank, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        spread = (3 * in_features * self.rank) ** -0.25
        nn.init.normal_(self.weight_a, std=spread)
        nn.init.normal_(self.weight_b, std=spread)

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, ..., N] -> [B, ..., M]."""
        return F.linear(F.linear(inputs, self.weight_b.T), self.weight_a, self.bias)

    def extra_repr(self) -> str:
        """Shapes, for people and for whoever tells layers apart by their text."""
        bias = self.bias is not None
        return f"{self.in_features}, {self.out_features}, rank={self.rank}, bias={bias}"


def with_low_rank(module: ModuleT, rank: int) -> ModuleT:
    """`module` with every nn.Linear replaced, in place, by a new LowRankLinear of rank min(R, M, N).

    Names stay: `fc.weight` becomes `fc.weight_a` and `fc.weight_b`. Works on the meta device. Raises
    ValueError for a rank below 1 and for a module without an nn.Linear of its own.
    """

    def low(layer: nn.Module) -> nn.Module | None:
        if type(layer) is not nn.Linear:
            return None
        return LowRankLinear(
            layer.in_features,
            layer.out_features,
            rank,
            bias=layer.bias is not None,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )

    if _replace(module, low) == 0:
        raise ValueError(f"{type(module).__name__} has no nn.Linear that could be factored")
    return module


@torch.no_grad()
def factorize(module: ModuleT, rank: int, *, seed: int = 0) -> ModuleT:
    """`with_low_rank`, each layer being the best approximation of the one it replaces."""
    dense = dict(linear_layers(module))
    with_low_rank(module, rank)
    for name, layer in dense.items():
        low = module.get_submodule(name)
        assert isinstance(low, LowRankLinear)
        a, b = split(layer.weight, low.rank, seed=seed)
        low.weight_a.copy_(a)
        low.weight_b.copy_(b)
        if low.bias is not None:
            low.bias.copy_(layer.bias)
    return module


@torch.no_grad()
def densify(module: ModuleT) -> ModuleT:
    """`module` with every LowRankLinear replaced, in place, by the nn.Linear it stands for: W = A B^T."""

    def dense(layer: nn.Module) -> nn.Module | None:
        if not isinstance(layer, LowRankLinear):
            return None
        bias, like = layer.bias, layer.weight_a
        new = nn.Linear(
            layer.in_features, layer.out_features, bias=bias is not None, device=like.device, dtype=like.dtype
        )
        new.weight.copy_(layer.weight_a @ layer.weight_b.T)
        if bias is not None:
            new.bias.copy_(bias)
        return new

    _replace(module, dense)
    return module


def linear_layers(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Every layer that `with_low_rank` replaces, by name."""
    return [(name, layer) for name, layer in module.named_modules() if type(layer) is nn.Linear]


def is_large(shape: tuple[int, int], rank: int) -> bool:
    """Whether `split` takes the randomized solver for a matrix [M, N]."""
    return min(shape) >= LARGE and 4 * (rank + NUM_EXTRA) <= min(shape)


@torch.no_grad()
def split(weight: Tensor, rank: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A = U S^(1/2) [M, R] and B = V S^(1/2) [N, R] of the truncated SVD of `weight` [M, N].

    Exact (LAPACK) for small layers. A large one at a small rank goes through `randomized_svd`, whose sample
    depends on `seed` and the shape alone, so equal weights give equal factors.
    """
    if not 1 <= rank <= min(weight.shape):
        raise ValueError(
            f"rank must be in 1..{min(weight.shape)} for a layer {tuple(weight.shape)}, got {rank}"
        )
    if is_large((weight.shape[0], weight.shape[1]), rank):
        u, s, v = randomized_svd(weight, rank, seed=seed)
    else:
        u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        u, s, v = u[:, :rank], s[:rank], vt[:rank].T
    root = s.sqrt()
    return (u * root).contiguous(), (v * root).contiguous()


def randomized_svd(weight: Tensor, rank: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """U [M, R], S [R] and V [N, R] by subspace iteration from a random start.

    Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review 2011, Algorithms 4.4 and 5.1.
    """
    columns = weight.shape[1]
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(columns, rank + NUM_EXTRA, generator=generator).to(weight)
    basis = torch.linalg.qr(weight @ sample).Q
    for _ in range(NUM_POWERS):
        basis = torch.linalg.qr(weight @ torch.linalg.qr(weight.T @ basis).Q).Q
    u, s, vt = torch.linalg.svd(basis.T @ weight, full_matrices=False)
    return (basis @ u)[:, :rank], s[:rank], vt[:rank].T


def _replace(module: nn.Module, change: Callable[[nn.Module], nn.Module | None]) -> int:
    """Swap in what `change` makes of each submodule; one that is used twice stays one. Returns how many."""
    made: dict[nn.Module, nn.Module] = {}
    for parent in list(module.modules()):
        # Not named_children: it names a layer that is used twice only once.
        for name, child in list(parent._modules.items()):
            if child is None:
                continue
            new = made.get(child) or change(child)
            if new is not None:
                made[child] = new
                setattr(parent, name, new.train(child.training))
    return len(made)
