"""All randomness derives from (seed, round, client, purpose): nothing depends on who ran what before."""

import hashlib

import numpy as np
import torch


def derive(seed: int, *, round: int = -1, client: int = -1, purpose: str) -> int:
    """A 63-bit seed. Round -1 is before the first round, client -1 the server."""
    digest = hashlib.sha256(f"{seed}/{round}/{client}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def torch_generator(seed: int, *, round: int = -1, client: int = -1, purpose: str) -> torch.Generator:
    """A CPU generator of its own for this purpose."""
    return torch.Generator().manual_seed(derive(seed, round=round, client=client, purpose=purpose))


def numpy_generator(seed: int, *, round: int = -1, client: int = -1, purpose: str) -> np.random.Generator:
    """A numpy generator of its own for this purpose."""
    return np.random.default_rng(derive(seed, round=round, client=client, purpose=purpose))


def seed_torch(seed: int) -> None:
    """Seed torch's own generators, on every device there is.

    torch.manual_seed alone keeps a stack trace for each kind of device that there is not, at every call.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
