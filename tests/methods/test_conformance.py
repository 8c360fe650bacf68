"""What every file in harness/methods must do. A new method is found and held to it without being named."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from local_run import Forgetful, Play, Played, assert_same, make_config, make_job, play_job

from harness.run import checkpoint
from harness.run.describe import describe, exchange_rows
from harness.run.method import load_method, method_names

METHODS = method_names()
NEEDS: dict[str, list[str]] = {
    # Both classes of devices, and a rank that its 4-wide layer does not reach.
    "fdnnc": [
        *("scheduler.policy=by_share", "scheduler.mix={big: 0.5, small: 0.5}", "method.rank=2"),
        *("method.lr=0.1", "method.batch_size=10", "method.local_steps=null"),
    ],
    "fedgkt": [
        *("method.server=resnet19", "method.server_epochs=1", "method.batch_size=16"),
        *("method.optimizer=sgd", "method.lr=0.05", "method.eval_clients=1"),
    ],
    **{
        name: ["model=cnn", "scheduler=fixed_mix", "scheduler.mix={L: 0.25, M: 0.25, S: 0.25, T: 0.25}"]
        for name in ("heterofl", "mfl")
    },
    "split_learning": ["model=mlp"],
    # Every source sees every example: few of them do.
    **{
        name: [
            *(
                "partition=views",
                "model=mlp",
                "task.limit_train=40",
                "method.lr=0.01",
                "method.batch_size=16",
            ),
            *(["method.junction=3"] if name in ("fpl", "sl") else []),
        ]
        for name in ("fpl", "sl", "gfl", "images")
    },
}
"""Settings without which a method cannot run on the tiny task, such as a partition into views."""

COSTS = (
    *("client_flops", "server_flops", "tx_bytes", "rx_bytes"),
    *("compute_j", "link_j", "idle_j", "client_j", "server_j"),
)
FROZEN = {
    "round",
    *(f"cost/{name}" for name in COSTS),
    *(f"cost/{name}_total" for name in COSTS),
    "time/sim_s",
    "time/sim_s_total",
    "eval/accuracy",
    "val/accuracy",
    "train/loss",
    "scheduler/skipped",
    "scheduler/late",
    "scheduler/failed",
    "scheduler/refused",
}
"""Keys of a record, the same in files and on W&B: people's scripts read them. Add to them, rename none."""


def words_of(method: str, *words: str) -> list[str]:
    return [f"method={method}", "fleet.profiles={phone: 1, laptop: 1}", *NEEDS.get(method, []), *words]


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def played(method: str, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Two rounds of each method."""
    cfg = make_config(words_of(method, "run.num_rounds=2"))
    return play_job(make_job(cfg, tmp_path_factory.mktemp("states")))


PATCHY = ("run.num_rounds=4", "scheduler.cohort_size=3", "scheduler.failure_probability=0.2")


@pytest.fixture(scope="module")
def patchy(method: str, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Four rounds in which not every client takes part, nor every reply arrives."""
    cfg = make_config(words_of(method, *PATCHY))
    return play_job(make_job(cfg, tmp_path_factory.mktemp("states")))


# --- said


def test_its_file_opens_with_what_it_is_and_its_classes_are_documented(method: str) -> None:
    found = load_method(method)
    module = __import__(found.__module__, fromlist=["_"])
    assert len((module.__doc__ or "").strip().splitlines()) >= 3
    assert found.__doc__
    assert found.Config.__doc__
    assert found.Client.__doc__


def test_it_describes_itself_without_data(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job_words = words_of(method)
    monkeypatch.setattr(
        "harness.data.tasks.synthetic.Synthetic.load", lambda _: pytest.fail("data were read")
    )
    found = describe(make_config(job_words))
    assert (found["method"], found["task"]) == (method, "synthetic")
    assert found["models"]
    for model in found["models"]:
        assert set(model) >= {"name", "params", "macs_forward", "flops_train", "bytes"}
        assert model["params"] > 0
        assert model["flops_train"] > model["macs_forward"] > 0
        assert model["bytes"] >= 4 * model["params"] > 0
    for row in found["exchanges"]:
        assert set(row) >= {"endpoint", "submodel", "rx_bytes", "tx_bytes"}
    json.dumps(found)


def test_what_it_says_it_exchanges_is_what_the_ledger_holds(played: Played) -> None:
    method, sizes = played.engine.method, played.job.partition.sizes
    train = played.ledger.query("phase == 'train' and endpoint not in ('wait', 'server')")
    for round in range(2):
        for client, size in enumerate(sizes):
            mine = train[(train["round"] == round) & (train["client"] == client)]
            submodels = set(mine["submodel"])
            said = [r for r in exchange_rows(method.exchanges(int(size))) if r["submodel"] in submodels]
            assert bytes_by_endpoint(mine.to_dict("records")) == bytes_by_endpoint(said)


def bytes_by_endpoint(rows: Iterable[Mapping[Any, Any]]) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for row in rows:
        rx, tx = found.get(row["endpoint"], (0, 0))
        found[row["endpoint"]] = (rx + row["rx_bytes"], tx + row["tx_bytes"])
    return found


# --- recorded


def test_records_hold_the_frozen_keys_and_plain_numbers(played: Played) -> None:
    submodels = {f"scheduler/share/{name}" for name in played.engine.submodels}
    assert submodels
    for record in played.records:
        assert set(record) >= FROZEN | submodels
        assert {type(value) for value in record.values()} <= {int, float}
        assert all(math.isfinite(value) for value in record.values())
        assert sum(record[key] for key in submodels) == pytest.approx(1)
        assert 0 <= record["eval/accuracy"] <= 1


def test_it_works_for_a_living_and_learns(played: Played) -> None:
    record = played.records[-1]
    assert record["cost/client_flops"] + record["cost/server_flops"] > 0
    assert record["time/sim_s_total"] > record["time/sim_s"] > 0
    assert played.records[1]["train/loss"] < played.records[0]["train/loss"]


def test_every_joule_and_second_of_its_ledger_is_finite_and_not_negative(played: Played) -> None:
    numbers = played.ledger.select_dtypes("number").drop(columns="client")
    assert (numbers >= 0).all(axis=None)
    assert (numbers < math.inf).all(axis=None)


# --- repeated


def test_one_seed_one_run(method: str, played: Played, play: Play) -> None:
    assert_same(played, play(*words_of(method, "run.num_rounds=2")))


def test_its_state_round_trips_into_a_fresh_instance(method: str, played: Played) -> None:
    state = checkpoint.dump(played.engine.method.state_dict())
    fresh = load_method(method)(played.job.cfg.method, played.engine.place)
    fresh.start()
    fresh.load_state_dict(checkpoint.load_bytes(state))
    assert checkpoint.dump(fresh.state_dict()) == state


def test_it_goes_on_from_a_checkpoint_to_the_same_bits(patchy: Played) -> None:
    rest = play_job(patchy.job, restored=patchy.commits[1].checkpoint, first=2)
    assert rest.records == patchy.records[2:]
    assert [c.checkpoint for c in rest.commits] == [c.checkpoint for c in patchy.commits[2:]]


def test_its_clients_keep_nothing_outside_their_state(method: str, patchy: Played, play: Play) -> None:
    assert_same(patchy, play(*words_of(method, *PATCHY), transport=Forgetful))


def test_replayed_counts_equal_exact_ones(method: str, played: Played, play: Play) -> None:
    assert_same(played, play(*words_of(method, "run.num_rounds=2", "runtime.exact_meter=true")))


# --- golden numbers

GOLDEN = Path(__file__).parent.parent / "golden"
DIGITS = (
    "task=digits",
    "task.image_size=8",
    "task.limit_train=160",
    "task.limit_test=100",
    "model=cnn",
    "partition=dirichlet",
    "partition.num_clients=4",
    "run.num_rounds=3",
    "runtime.transport=local",
)
EXACT = ("round", "client_flops", "server_flops", "tx_bytes", "rx_bytes")
PRICED = ("joules", "sim_s")
MEASURED = ("loss", "norm")
COLUMNS = (*EXACT, *PRICED, "accuracy", *MEASURED)


def test_golden_numbers(method: str, pytestconfig: pytest.Config, play: Play) -> None:
    """Three rounds on digits against tests/golden/<method>.txt; `make golden` rewrites it, for review."""
    found = golden_rows(play(*words_of(method), base=DIGITS))
    file = GOLDEN / f"{method}.txt"
    if pytestconfig.getoption("--update-golden"):
        file.write_text("\n".join([" ".join(COLUMNS), *(" ".join(map(repr, r.values())) for r in found), ""]))
        return
    assert file.exists(), f"{file} is missing; write it with `make golden`"
    lines = [line.split() for line in file.read_text().splitlines()]
    assert lines[0] == list(COLUMNS)
    for row, line in zip(found, lines[1:], strict=True):
        wanted = dict(zip(COLUMNS, map(float, line), strict=True))
        assert {key: row[key] for key in EXACT} == {key: int(wanted[key]) for key in EXACT}
        # Prices follow from whole numbers by + - * / alone: equal everywhere but for the order of a sum.
        assert [row[key] for key in PRICED] == pytest.approx([wanted[key] for key in PRICED], rel=1e-12)
        # Another processor picks other kernels, whose roundings differ; 160 examples are so few steps that
        # they do not spread: other layouts, threads and instruction sets differ by 1e-7 at most.
        assert [row[key] for key in MEASURED] == pytest.approx(
            [wanted[key] for key in MEASURED], rel=1e-5, nan_ok=True
        )
        # Such a rounding may turn one of the 100 test examples.
        assert row["accuracy"] == pytest.approx(wanted["accuracy"], abs=0.0101)


def golden_rows(played: Played) -> list[dict[str, int | float]]:
    rows: list[dict[str, int | float]] = []
    for record, commit in zip(played.records, played.commits, strict=True):
        assert commit.checkpoint is not None
        rows.append(
            {
                "round": record["round"],
                **{key: record[f"cost/{key}"] for key in EXACT[1:]},
                "joules": record["cost/client_j"] + record["cost/server_j"],
                "sim_s": record["time/sim_s"],
                "accuracy": record["eval/accuracy"],
                "loss": record["eval/loss"],
                "norm": norm(checkpoint.load_bytes(commit.checkpoint)["method"].get("weights", {})),
            }
        )
    return rows


def norm(weights: Mapping[str, torch.Tensor]) -> float:
    """Euclidean norm of all weights; nan for a method whose server has none."""
    squares = [float((tensor.double() ** 2).sum()) for tensor in weights.values()]
    return math.sqrt(math.fsum(squares)) if squares else math.nan


def test_there_is_no_golden_file_without_a_method() -> None:
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(METHODS)
