"""Mixes: counts, enumeration, grids, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.scheduling import mixes
from harness.scheduling.mixes import all_mixes, around, check_mix, counts_of, grid
from harness.types import ConfigError, SubmodelId

NAMES = [SubmodelId(name) for name in "LMST"]
MULTIPLES = [1, 2, 4, 8]


def test_counts_are_taken_as_given_and_shares_rounded() -> None:
    assert counts_of({"L": 32, "M": 16, "S": 8, "T": 8}, NAMES, clients=64).tolist() == [32, 16, 8, 8]
    assert counts_of({"T": 0.25, "L": 0.75}, NAMES, clients=10).tolist() == [8, 0, 0, 2]
    # Three of the 64 are away: in proportion, 7.63, 7.63, 15.25, 30.5
    assert counts_of({"L": 32, "M": 16, "S": 8, "T": 8}, NAMES, clients=61).tolist() == [30, 15, 8, 8]


@given(
    st.lists(st.floats(0.0, 10.0), min_size=4, max_size=4).filter(lambda m: sum(m) > 0.1), st.integers(0, 99)
)
def test_counts_always_sum_to_the_clients(mix: list[float], clients: int) -> None:
    counts = counts_of(dict(zip(NAMES, mix, strict=True)), NAMES, clients=clients)
    assert counts.sum() == clients
    assert (np.abs(counts - np.array(mix) / sum(mix) * clients) < 1 + 1e-6).all()


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        ({}, r"scheduler\.mix must say how many clients get each of L, M, S, T"),
        ({"L": 60}, r"scheduler\.mix must sum to the cohort of 64 clients \(or to 1, as shares\), got 60"),
        ({"L": 32, "X": 32}, r"scheduler\.mix: unknown submodel 'X'"),
    ],
)
def test_mixes_that_do_not_fit(mix: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_mix(mix, NAMES, cohort=64)


def test_every_mix_in_multiples_is_there_once_the_largest_first() -> None:
    found = all_mixes(8, MULTIPLES, most=100)
    assert found is not None
    by_hand = {
        (whole, m, s, t)
        for whole in range(9)
        for m in range(0, 9, 2)
        for s in range(0, 9, 4)
        for t in (0, 8)
        if whole + m + s + t == 8
    }
    assert {tuple(row) for row in found.tolist()} == by_hand
    assert len(found) == len(by_hand)
    assert found[0].tolist() == [8, 0, 0, 0]
    assert all_mixes(8, MULTIPLES, most=len(by_hand) - 1) is None
    sixty_four = all_mixes(64, MULTIPLES, most=4000)
    assert sixty_four is not None
    assert [16, 16, 16, 16] in sixty_four.tolist()


def test_a_grid_is_as_fine_as_its_cap_allows_and_refines_around_the_best() -> None:
    shares, step = grid(4, most=165)
    assert (len(shares), step) == (165, 1 / 8)
    assert np.allclose(shares.sum(axis=1), 1)
    assert (grid(1, most=10)[0] == 1).all()
    near = around(np.array([0.5, 0.5, 0.0, 0.0]), 0.25)
    assert near[0].tolist() == [0.5, 0.5, 0.0, 0.0]
    assert len(near) == 1 + 6
    assert np.allclose(near.sum(axis=1), 1)
    assert near.min() >= 0


@given(st.integers(1, 10_000), st.integers(0, 164))
def test_shares_become_whole_sets(clients: int, row: int) -> None:
    counts = mixes.whole(grid(4, most=165)[0][row : row + 1], clients, MULTIPLES)[0]
    assert counts.sum() == clients
    assert (counts >= 0).all()
    assert (counts[1:] % np.array(MULTIPLES[1:]) == 0).all()
