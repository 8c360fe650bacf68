"""Plans: columns outside, one client inside."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cost.devices import OperatingPoint
from harness.scheduling.plan import Assignment, RoundPlan
from harness.types import ClientId, SubmodelId

BIG, SMALL = SubmodelId("big"), SubmodelId("small")


def plan(clients: list[int]) -> RoundPlan:
    """Client c computes at c Hz; every other client gets the small model, every third reply is lost."""
    ids = np.array(clients, dtype=np.int64)
    hz = ids.astype(np.float64)
    return RoundPlan(
        round=4,
        clients=ids,
        submodels=(BIG, SMALL),
        submodel_index=ids % 2,
        points=OperatingPoint(hz, 10 * hz, 100 * hz, np.ones(len(ids))),
        fails=ids % 3 == 0,
    )


def test_one_client_of_a_plan() -> None:
    assert plan([2, 5, 9])[ClientId(9)] == Assignment(
        client=ClientId(9),
        submodel=SMALL,
        point=OperatingPoint(9.0, 90.0, 900.0, 1.0),
        fails=True,
        instance=SMALL,
    )
    assert plan([2, 5, 9])[ClientId(2)].submodel == BIG
    assert not plan([2, 5, 9])[ClientId(2)].fails


@given(st.sets(st.integers(0, 30), max_size=10))
def test_members_are_found_and_others_are_not(members: set[int]) -> None:
    found = plan(sorted(members))
    assert len(found) == len(members)
    assert list(found) == sorted(members)
    for client in range(32):
        if client in members:
            assert found[ClientId(client)].client == client
            assert found[ClientId(client)].point.frequency_hz == client
        else:
            with pytest.raises(KeyError, match=f"client {client} is not in the cohort of round 4"):
                found.position(ClientId(client))


def test_shares_sum_to_one_and_name_every_submodel() -> None:
    assert plan([1, 2, 4, 6]).shares() == {BIG: 0.75, SMALL: 0.25}
    assert plan([2, 4]).shares() == {BIG: 1.0, SMALL: 0.0}
    assert plan([]).shares() == {BIG: 0.0, SMALL: 0.0}


def test_values_are_plain_python_numbers() -> None:
    assignment = plan([2, 5])[ClientId(5)]
    assert type(assignment.fails) is bool
    assert type(assignment.point.frequency_hz) is float
    assert all(type(client) is int for client in plan([2, 5]))


def test_a_plan_of_many_clients_is_a_few_arrays() -> None:
    small, large = (len(pickle.dumps(plan(list(range(size))), protocol=5)) for size in (0, 10_000))
    assert (large - small) / 10_000 < 50  # bytes per client: six numbers and a flag
