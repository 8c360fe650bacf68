"""Seeds: stable, distinct, in range."""

import itertools

import torch

from harness.learning.seeding import derive, numpy_generator, seed_torch, torch_generator


def test_a_seed_is_the_same_on_every_machine() -> None:
    # sha256("7/3/2/batches"), the first 8 bytes as a little-endian number, halved.
    assert derive(7, round=3, client=2, purpose="batches") == 0x2A64BB127F328788


def test_each_argument_matters_and_seeds_fit_in_63_bits() -> None:
    grid = itertools.product((0, 1, 11), (-1, 0, 1, 11), (-1, 0, 1, 11), ("a", "b"))
    seeds = [derive(s, round=r, client=c, purpose=p) for s, r, c, p in grid]
    assert len(set(seeds)) == len(seeds) == 96
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_digits_of_neighbouring_arguments_do_not_run_together() -> None:
    assert derive(1, round=11, purpose="a") != derive(11, round=1, purpose="a")
    assert derive(0, round=1, client=12, purpose="a") != derive(0, round=11, client=2, purpose="a")


def test_generators_of_one_purpose_are_equal_and_of_two_differ() -> None:
    def draws(purpose: str) -> tuple[list[int], list[int]]:
        words = {"round": 1, "client": 2, "purpose": purpose}
        first = torch_generator(5, **words)  # type: ignore[arg-type]
        second = numpy_generator(5, **words)  # type: ignore[arg-type]
        return [first.initial_seed()], second.integers(0, 1000, 8).tolist()

    assert draws("a") == draws("a")
    assert draws("a") != draws("b")


def test_seeding_torch_gives_the_draws_that_its_own_seeding_gives() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        wanted = torch.rand(8)
        torch.rand(3)
        seed_torch(5)
        assert torch.equal(torch.rand(8), wanted)
