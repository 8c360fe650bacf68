"""Micro-batches by hand: what overlaps, what waits for what, and that one of them changes nothing."""

import pytest

from harness.cost.devices import DeviceProfile, OperatingPoint, Work, price
from harness.cost.pipeline import Pipeline, Stages, micro_sizes, stages_of, steady

BATCH = Stages(down_s=2.0, back_s=4.0, ahead_s=2.0, up_s=6.0)


def test_sizes_are_as_equal_as_can_be() -> None:
    assert micro_sizes(64, 4) == [16] * 4
    assert micro_sizes(7, 3) == [3, 2, 2]
    assert micro_sizes(2, 5) == [1, 1]
    assert micro_sizes(0, 3) == []


def test_two_micro_batches_by_hand() -> None:
    """Halves: forward 1, up 3, server 2, down 1, back 2 seconds.

    forward 0-1, 1-2; up 1-4, 4-7; server 4-6, 7-9; down 6-7, 9-10; back 7-9, 10-12: 12 s instead of 18.
    """
    pipeline = Pipeline()
    assert pipeline.exchange({0: BATCH}, sizes=[5, 5]) == 7
    assert pipeline.serve(4.0) == 9
    # 0-7, 6-9 and 9-12: the source never waits.
    assert pipeline.exchange({0: BATCH}) == 12
    assert pipeline.busy_s(0) == 12


def test_the_next_batch_begins_when_the_last_gradient_was_used() -> None:
    pipeline = Pipeline(start=100.0)
    pipeline.exchange({0: BATCH}, sizes=[5, 5])
    pipeline.serve(4.0)
    # Back until 112, forward until 113 and 114, up until 116 and 119.
    assert pipeline.exchange({0: BATCH}, sizes=[5, 5]) == 119
    assert pipeline.serve(4.0) == 121


def test_unequal_parts_take_unequal_time() -> None:
    """A quarter and three: forward .5, 1.5; up 1.5, 4.5; server 1, 3."""
    pipeline = Pipeline()
    assert pipeline.exchange({0: BATCH}, sizes=[1, 3]) == 0.5 + 1.5 + 4.5
    assert pipeline.serve(4.0) == 6.5 + 3


def test_the_server_waits_for_the_slowest_and_gives_up_at_the_deadline() -> None:
    slow = Stages(ahead_s=2.0, up_s=20.0)
    pipeline = Pipeline()
    assert pipeline.exchange({0: BATCH, 1: slow}, sizes=[1, 1]) == 21
    assert pipeline.serve(4.0) == 23
    pipeline = Pipeline()
    assert pipeline.exchange({0: BATCH, 1: slow}, sizes=[1, 1], until={0: 8.0, 1: 8.0}) == 8
    assert pipeline.serve(4.0) == 8 + 4  # both halves of source 0 were there, source 1 was waited for
    assert pipeline.busy_s(0) == 7
    assert pipeline.busy_s(1) == 21


@pytest.mark.parametrize("count", [1, 2, 8])
def test_more_micro_batches_never_take_longer_and_one_is_the_sum(count: int) -> None:
    pipeline = Pipeline()
    pipeline.exchange({0: BATCH}, sizes=[4] * count)
    pipeline.serve(4.0)
    end = pipeline.exchange({0: BATCH})
    whole = 2.0 + 6.0 + 4.0 + 2.0 + 4.0
    assert end == whole if count == 1 else end < whole


def test_a_steady_batch_is_what_another_batch_adds() -> None:
    """One micro-batch: 14 s of a source and 4 of the server; two: from 9 to 21 in the test above."""
    assert steady([BATCH], server_s=4.0, sizes=[10]) == (18, [14])
    assert steady([BATCH], server_s=4.0, sizes=[5, 5]) == (12, [12])


def test_unlike_sources_are_steady_only_after_a_while() -> None:
    stages, sizes = [Stages(up_s=9.0), Stages(5.0, 9.0, 0.0, 2.0), Stages(9.0, 9.0, 2.0, 0.0)], [1] * 4
    pipeline = Pipeline()
    ends = []
    for _ in range(400):
        pipeline.exchange(dict(enumerate(stages)), sizes=sizes)
        ends.append(pipeline.serve(2.0))
    found, _ = steady(stages, server_s=2.0, sizes=sizes)
    assert found == pytest.approx((ends[-1] - ends[199]) / 200, rel=0.005)
    assert ends[2] - ends[1] != pytest.approx(found, rel=0.005)


def test_stages_are_the_price_of_the_whole_in_parts() -> None:
    device = DeviceProfile(
        flops_per_cycle=2.0, max_frequency_hz=5.0, kappa=0.1, idle_w=1.0, tx_w=1.0, rx_w=1.0,
        tx_bps=8.0, rx_bps=16.0, memory_bytes=1e9, battery_j=1e9,
    )  # fmt: skip
    point = OperatingPoint(5.0, 8.0, 16.0, 1.0)
    work = Work(flops=300, tx_bytes=7, rx_bytes=6)
    stages = stages_of(work, ahead_flops=100, device=device, point=point)
    assert stages == Stages(down_s=3.0, back_s=20.0, ahead_s=10.0, up_s=7.0)
    assert stages.down_s + stages.back_s + stages.ahead_s + stages.up_s == price(work, device, point).busy_s
