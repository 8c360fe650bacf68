"""Sweeps on Ray Tune: several runs at once, processes that die, searches that go on."""

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from typer.testing import CliRunner

from harness.cli import app
from harness.config import Config
from harness.run.files import read_lines
from harness.run.runtime import LocalRuntime
from harness.run.sinks import Sink
from harness.run.sweep import expand
from harness.run.sweep_board import Board
from harness.run.sweep_run import Limits, run_trials, trials_of
from harness.run.sweep_search import read_search
from harness.types import ConfigError
from ray_actors.launch import RayRuntime, connect, knock
from ray_actors.sweep import run_grid, run_search

BASE = """
base:
  task: {name: synthetic, model: logistic, options: {num_train: 60, num_test: 20}}
  partition: {num_clients: 2}
  run: {num_rounds: 3}
grid: {run.seed: [0, 1, 2, 3]}
"""
SEARCH = (
    BASE.replace("[0, 1, 2, 3]", "[0]")
    + """
search:
  num_trials: 3
  space: {method.lr: {log_uniform: [0.001, 1]}}
"""
)


class Witness:
    """A sink that writes down who plays, and ends its process in round 1 of seed 2."""

    def __init__(self, cfg: Config, *, folder: Path) -> None:
        self.folder = folder
        self.dies = cfg.run.seed == 2

    def start(self, cfg: Config, *, run_id: str, first_round: int) -> None:
        group = ray.util.get_current_placement_group()
        seen = {"pid": os.getpid(), "bundles": len(group.bundle_specs) if group else 0}
        (self.folder / f"{run_id}.json").write_text(json.dumps(seen))

    def write(self, record: Mapping[str, int | float], timings: Mapping[str, int | float]) -> None:
        if self.dies and record["round"] == 1:
            os._exit(3)

    def finish(self, summary: Any) -> None:
        pass


def sinks(cfg: Config, *, folder: Path) -> Sequence[Sink]:
    return [Witness(cfg, folder=folder)]


@pytest.fixture(scope="module")
def cluster(ray_runtime: RayRuntime) -> Iterator[None]:
    """A Ray of its own: the others' actors hold all cores."""
    ray_runtime.close()
    connect(Config())
    yield
    ray.shutdown()


@pytest.fixture
def witnesses(tmp_path: Path) -> Path:
    folder = tmp_path / "witnesses"
    folder.mkdir()
    return folder


def read_all(folder: Path) -> list[dict[str, int]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


@pytest.mark.ray
def test_two_runs_at_once_give_the_same_bits_and_outlive_a_dead_one(
    cluster: None, tmp_path: Path, witnesses: Path
) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(BASE)
    words = ["runtime.transport=local", f"run.results_dir={tmp_path / 'one'}"]
    alone = expand(path, words=[*words, "run.seed=[0,1,3]"])
    board = Board(3, say=lambda line: None)
    run_trials(
        trials_of(alone), runtime=LocalRuntime(), make_sinks=lambda c: [], board=board, limits=Limits()
    )
    cells = expand(path, words=[words[0], f"run.results_dir={tmp_path / 'two'}"])
    lines: list[str] = []
    board = Board(4, say=lines.append)
    make_sinks = functools.partial(sinks, folder=witnesses)
    run_grid(trials_of(cells), make_sinks=make_sinks, board=board, limits=Limits(jobs=2))
    board.close()
    log = tmp_path / "two" / cells[2].cfg.run_id / "error.log"
    assert lines[-2] == "3 run, 0 finished before, 1 failed"
    assert lines[-1].startswith("FAILED seed=2: ")
    assert lines[-1].endswith(f"; see {log}")
    assert "died" in log.read_text()
    assert {seen["bundles"] for seen in read_all(witnesses)} == {1}
    for cell in alone:
        files = [tmp_path / name / cell.cfg.run_id / "rounds.jsonl" for name in ("one", "two")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.ray
def test_a_search_keeps_its_actors_and_goes_on_where_it_ended(
    cluster: None, tmp_path: Path, witnesses: Path
) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(SEARCH)
    words = [f"run.results_dir={tmp_path / 'results'}"]
    make_sinks = functools.partial(sinks, folder=witnesses)
    boards = []
    # Transports give equal bits, so the second half may do without the actors.
    for count, transport in ((2, "ray"), (3, "local")):
        told = [*words, f"search.num_trials={count}", f"runtime.transport={transport}"]
        search = read_search(path, words=told)
        assert search is not None
        boards.append(Board(count, say=lambda line: None, word="trial"))
        run_search(search, make_sinks=make_sinks, board=boards[-1], limits=Limits())
        if count == 2:
            seen = read_all(witnesses)
            assert len({one["pid"] for one in seen}) == 1, "the second trial found the first one's process"
            assert min(one["bundles"] for one in seen) > 1, "its actors sit in its placement group"
            [path.unlink() for path in witnesses.glob("*.json")]
    assert len(read_all(witnesses)) == 1, "two of the three were read from their files"
    first, second = (
        {number: (outcome.state, outcome.value) for number, (_, outcome) in board.outcomes.items()}
        for board in boards
    )
    assert second.keys() == {1, 2, 3}
    assert {number: second[number] for number in (1, 2)} == first
    assert all(value is not None for _, value in second.values())
    noted = read_lines(tmp_path / "results" / "search.trials.jsonl")
    assert [line["trial"] for line in noted] == [1, 2, 3]


def test_a_cluster_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigError, match=r"runtime\.address=127\.0\.0\.1:1: no Ray cluster answers"):
        knock("127.0.0.1:1")
    path = tmp_path / "grid.yaml"
    path.write_text(BASE)
    words = ["--set", "runtime.address=127.0.0.1:1", "--set", f"run.results_dir={tmp_path}"]
    done = CliRunner().invoke(app, ["sweep", str(path), *words])
    assert isinstance(done.exception, ConfigError), "main() makes exit code 2 of it"
    assert "\n" not in str(done.exception)
