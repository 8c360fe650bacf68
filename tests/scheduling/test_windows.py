"""Availability in simulated time."""

import numpy as np
import pytest

from harness.scheduling.windows import Windows
from harness.types import ConfigError


def windows(*spans: tuple[int, float, float], period: float | None = None) -> Windows:
    client, start, end = (np.array(column) for column in zip(*spans, strict=True))
    return Windows(3, client, start.astype(float), end.astype(float), period)


def test_who_is_there_when() -> None:
    w = windows((0, 0, 10), (0, 20, 30), (1, 5, 25), (2, 0, np.inf))
    for now, present in (
        (0, [0, 2]),
        (5, [0, 1, 2]),
        (10, [1, 2]),
        (20, [0, 1, 2]),
        (29.9, [0, 2]),
        (99, [2]),
    ):
        assert np.flatnonzero(w.available(now)).tolist() == present
    assert w.wait_s(12) == 0


def test_nobody_there_waits_for_the_next() -> None:
    w = windows((0, 10, 20), (1, 50, 60))
    assert [w.wait_s(t) for t in (0, 9, 10, 20, 45.5)] == [10, 1, 0, 30, 4.5]
    with pytest.raises(ConfigError, match=r"fleet\.table: no client is available after 60 simulated seconds"):
        w.wait_s(60)


def test_days_repeat() -> None:
    w = windows((0, 10, 20), (1, 50, 60), period=100)
    assert w.wait_s(60) == 50
    assert np.flatnonzero(w.available(110)).tolist() == [0]
    assert np.flatnonzero(w.available(1055)).tolist() == [1]


def test_rounding_of_the_clock_keeps_no_one_waiting() -> None:
    w = windows((0, 0.1, 0.2), period=0.3)
    now = 0.0
    for _ in range(1000):
        now += w.wait_s(now)
        assert w.available(now).any()
        now += 0.15
