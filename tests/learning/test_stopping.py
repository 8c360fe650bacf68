"""When a run has waited long enough."""

import math

import pytest

from harness.learning.stopping import Patience
from harness.types import ConfigError


def seen(limit: int, *losses: float) -> list[bool]:
    patience = Patience(limit)
    found = []
    for loss in losses:
        patience.see(loss)
        found.append(patience.over)
    return found


def test_it_counts_from_the_lowest_loss() -> None:
    assert seen(2, 3.0, 2.0, 2.5, 1.0, 1.0, 1.5, 0.5) == [False, False, False, False, False, True, False]


def test_what_is_no_number_is_no_better() -> None:
    assert seen(1, 3.0, math.nan) == [False, True]


def test_none_never_stops() -> None:
    assert seen(0, 1.0, 2.0, 3.0) == [False, False, False]


def test_it_goes_on_where_it_stood() -> None:
    one, two = Patience(2), Patience(2)
    for loss in (1.0, 2.0):
        one.see(loss)
    two.load_state_dict(one.state_dict())
    two.see(2.0)
    assert two.over


def test_less_than_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.patience must be >= 0, got -1"):
        Patience(-1)
