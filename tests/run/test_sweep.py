"""Sweeps: expansion of hand-written files, and tiny runs in this process."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.config import Config
from harness.run.files import read_lines
from harness.run.records import Summary
from harness.run.runtime import LocalRuntime
from harness.run.sinks import Sink
from harness.run.sweep import Cell, expand
from harness.run.sweep_board import Board
from harness.run.sweep_run import Limits, run_trials, trials_of
from harness.run.sweep_trial import BudgetSpent
from harness.types import ConfigError

FULL = """
name: trial
description: two methods, two partitions
base:
  task: digits
  method: {lr: 0.3}
  fleet: {profiles: {phone: 1.0, laptop: 1.0}}
  run: {num_rounds: 7}
variants:
  plain: {method: fedavg}
  prox: {method: fedprox, method.mu: 0.25, run.num_rounds: 9, fleet.profiles: {unit: 1.0}}
grid:
  partition: [iid, dirichlet]
  run.seed: [3, 4]
scales:
  smoke: {run.num_rounds: 2, seed: [0], task: synthetic}
  paper: {}
"""
TINY = """
base:
  task: {name: synthetic, model: logistic, options: {num_train: 60, num_test: 20}}
  partition: {num_clients: 2}
  run: {num_rounds: 3}
  runtime: {transport: local}
grid: {run.seed: [0, 1, 2]}
"""


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "trial.yaml"
    path.write_text(FULL)
    return path


def tiny(tmp_path: Path, *words: str, text: str = TINY) -> list[Cell]:
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    return expand(path, words=[f"run.results_dir={tmp_path / 'results'}", *words])


def test_order_is_variants_then_grid_and_the_last_key_runs_fastest(sweep_file: Path) -> None:
    assert [cell.label for cell in expand(sweep_file)] == [
        "plain partition=iid seed=3",
        "plain partition=iid seed=4",
        "plain partition=dirichlet seed=3",
        "plain partition=dirichlet seed=4",
        "prox partition=iid seed=3",
        "prox partition=iid seed=4",
        "prox partition=dirichlet seed=3",
        "prox partition=dirichlet seed=4",
    ]


def test_every_layer_reaches_the_configuration(sweep_file: Path) -> None:
    plain, prox = (expand(sweep_file)[index].cfg for index in (0, 7))
    assert (plain.method.name, plain.method.lr, plain.run.num_rounds) == ("fedavg", 0.3, 7)
    assert plain.fleet.profiles == {"phone": 1.0, "laptop": 1.0}
    assert (prox.method.name, prox.method.lr, prox.method.mu, prox.run.num_rounds) == (
        "fedprox",
        0.3,
        0.25,
        9,
    )
    assert (prox.partition.name, prox.run.seed) == ("dirichlet", 4)
    assert prox.fleet.profiles == {"unit": 1.0}, "a table below a section is replaced, not merged"


def test_a_scale_wins_over_variants_and_replaces_grid_lists(sweep_file: Path) -> None:
    cells = expand(sweep_file, scale="smoke")
    assert [cell.label for cell in cells] == [
        "plain partition=iid", "plain partition=dirichlet", "prox partition=iid", "prox partition=dirichlet",
    ]  # fmt: skip
    assert {(c.cfg.run.num_rounds, c.cfg.run.seed, c.cfg.task.name) for c in cells} == {(2, 0, "synthetic")}
    assert [c.cfg.run_id for c in expand(sweep_file, scale="paper")] == [
        c.cfg.run_id for c in expand(sweep_file)
    ]


def test_a_scale_may_change_single_variants(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        FULL.replace("  paper: {}", "  paper: {run.num_rounds: 4, variants: {prox: {method.mu: 0.5}}}")
    )
    words = ["partition=iid", "seed=0"]
    plain, prox = (cell.cfg for cell in expand(path, scale="paper", words=words))
    assert (plain.method.name, plain.run.num_rounds) == ("fedavg", 4)
    assert (prox.method.mu, prox.run.num_rounds) == (0.5, 4)
    assert [cell.cfg.method.mu for cell in expand(path, words=["variant=prox", *words])] == [0.25]


def test_words_win_over_everything_and_pick_grid_values(sweep_file: Path) -> None:
    words = ["variant=prox", "partition=iid", "run.seed=[7,8]", "run.num_rounds=1"]
    cells = expand(sweep_file, scale="smoke", words=words)
    assert [(c.label, c.cfg.method.name, c.cfg.run.num_rounds) for c in cells] == [
        ("seed=7", "fedprox", 1),
        ("seed=8", "fedprox", 1),
    ]


def test_tags_and_resume_do_not_change_the_run(sweep_file: Path) -> None:
    cell = expand(sweep_file, scale="smoke", words=["log.tags=[mine]"])[0]
    assert cell.cfg.log.tags == ["mine", "sweep:trial", "scale:smoke"]
    assert cell.cfg.run.resume
    forced = expand(sweep_file, scale="smoke", words=["run.force=true"])[0]
    assert not forced.cfg.run.resume, "the store refuses both at once"
    assert forced.cfg.run_id == cell.cfg.run_id


def test_cells_that_differ_in_their_seed_are_what_each_would_be_alone(sweep_file: Path) -> None:
    for cell in expand(sweep_file):
        words = [f"{key}={value}" for key, value in cell.settings.items()]
        (alone,) = expand(sweep_file, words=words)
        assert (alone.cfg.run_id, alone.cfg.run.seed) == (cell.cfg.run_id, cell.settings["run.seed"])


def test_a_sweep_of_one_cell_is_labelled_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "alone.yaml"
    path.write_text("base: {task: digits}")
    assert [cell.label for cell in expand(path)] == ["alone"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("base: {task: digits, method: {lrr: 1}}", "cell t: method.lrr: unknown key; did you mean lr?"),
        ("grid: {run.sed: [1, 2]}", "cell run.sed=1: run.sed: unknown key; did you mean seed?"),
        ("variants: {a: {method: fedavgg}, b: {}}", "cell a: method.name: unknown method 'fedavgg'"),
        ("grid: {run.num_rounds: [1, many]}", "cell run.num_rounds=many: run.num_rounds"),
        ("grid: {run.seed: []}", "run.seed has no values"),
        ("grid: {run.seed: [1, -1]}", "cell seed=-1: run.seed must be >= 0, got -1"),
        ("grid: {run.seed: [1, one]}", "cell seed=one: run.seed"),
        ("grid: {run.seed: [1, 1]}", "cells seed=1 and seed=1 are one run"),
        ("variants: {a: {}, b: {log.project: x}}", "cells a and b are one run"),
        ("grids: {run.seed: [1]}", "unknown section 'grids'; did you mean grid?"),
        ("grid: [1]", "grid: must hold"),
        ("variants: {a: 3}", "variants.a: must hold"),
        ("scales: {papr: {}}", "scales.papr: unknown scale; did you mean paper?"),
        (
            "{variants: {ab: {}}, scales: {paper: {variants: {ac: {}}}}}",
            "unknown variant 'ac'; did you mean ab?",
        ),
        ("{variants: {ab: {}}, scales: {paper: {variants: {ab: 1}}}}", "scales.paper.variants.ab: must hold"),
        ("base: {run.seed: 1", "not YAML"),
        ("- 1", "must hold name, description"),
    ],
)
def test_mistakes_name_file_and_cell(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        expand(path)
    assert str(caught.value).startswith(str(path))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("scale", "words", "told"),
    [
        ("papier", [], "no scale 'papier'; it has smoke, paper"),
        (None, ["variant=proxy"], "unknown variant 'proxy'; did you mean prox?"),
        (None, ["run.seed=[]"], "run.seed has no values"),
        (None, ["method.muu=1"], "cell plain partition=iid seed=3: method.muu: unknown key"),
    ],
)
def test_mistakes_on_the_command_line(
    sweep_file: Path, scale: str | None, words: list[str], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        expand(sweep_file, scale=scale, words=words)
    assert str(caught.value).startswith(str(sweep_file))
    assert told in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        expand(tmp_path / "none.yaml")


class Stopper:
    """A sink that raises when a round of the run with `seed` was committed, so many times."""

    def __init__(self, cfg: Config, *, seed: int, error: BaseException, left: list[int]) -> None:
        self.error = error if cfg.run.seed == seed else None
        self.left = left

    def start(self, cfg: Config, *, run_id: str, first_round: int) -> None:
        self.first_round = first_round

    def write(self, record: Mapping[str, int | float], timings: Mapping[str, int | float]) -> None:
        if self.error is not None and record["round"] == 1 and self.left:
            self.left.pop()
            raise self.error

    def finish(self, summary: Summary | None) -> None:
        pass


def run(
    cells: Sequence[Cell],
    stopper: BaseException | None = None,
    *,
    times: int = 99,
    limits: Limits | None = None,
    resume: bool = True,
) -> tuple[Board, list[str]]:
    """Run cells in this process; `stopper` is raised in round 1 of seed 1."""
    lines: list[str] = []
    left = [0] * times

    def sinks(cfg: Config) -> list[Sink]:
        return [] if stopper is None else [Stopper(cfg, seed=1, error=stopper, left=left)]

    board = Board(len(cells), say=lines.append)
    run_trials(
        trials_of(cells, resume=resume),
        runtime=LocalRuntime(),
        make_sinks=sinks,
        board=board,
        limits=limits or Limits(),
    )
    board.close()
    return board, lines


def test_finished_cells_are_skipped_and_told(tmp_path: Path) -> None:
    _, lines = run(tiny(tmp_path, "run.seed=1"))
    assert lines[-1] == "1 run, 0 finished before, 0 failed"
    _, lines = run(tiny(tmp_path))
    assert "cell 2/3: seed=1: finished before, skipped" in lines
    assert lines[-1] == "2 run, 1 finished before, 0 failed"
    assert len(list((tmp_path / "results").glob("*/summary.json"))) == 3


def test_a_failing_cell_is_told_with_its_log_and_the_others_go_on(tmp_path: Path) -> None:
    cells = tiny(tmp_path)
    board, lines = run(cells, stopper=RuntimeError("no\nluck"))
    log = tmp_path / "results" / cells[1].cfg.run_id / "error.log"
    assert lines[-2:] == [
        "2 run, 0 finished before, 1 failed",
        f"FAILED seed=1: RuntimeError: no luck; see {log}",
    ]
    assert [outcome.log for _, outcome in board.failures()] == [str(log)]
    assert "raise self.error" in log.read_text()
    assert (tmp_path / "results" / cells[2].cfg.run_id / "summary.json").exists()
    assert run(cells)[1][-1] == "1 run, 2 finished before, 0 failed"
    assert not log.exists()


def test_a_failure_that_passes_is_retried_from_its_checkpoint(tmp_path: Path) -> None:
    cells = tiny(tmp_path)
    with pytest.warns(UserWarning, match=r"seed=1: RuntimeError: hiccup; tried again \(0 left\)"):
        _, lines = run(cells, stopper=RuntimeError("hiccup"), times=1, limits=Limits(retries=1))
    assert lines[-1] == "3 run, 0 finished before, 0 failed"
    folder = tmp_path / "results" / cells[1].cfg.run_id
    assert [line["round"] for line in read_lines(folder / "rounds.jsonl")] == [0, 1, 2]


def test_a_mistake_is_not_retried(tmp_path: Path) -> None:
    _, lines = run(tiny(tmp_path), stopper=ConfigError("x must be y"), times=1, limits=Limits(retries=9))
    assert lines[-1].startswith("FAILED seed=1: x must be y; see ")


def test_the_budget_ends_a_sweep_between_two_rounds(tmp_path: Path) -> None:
    cells = tiny(tmp_path)
    with pytest.raises(BudgetSpent):
        run(cells, limits=Limits(budget_s=0.0))
    folders = [tmp_path / "results" / cell.cfg.run_id for cell in cells]
    assert len(read_lines(folders[0] / "rounds.jsonl")) == 1
    assert not folders[1].exists()
    assert run(cells)[1][-1] == "3 run, 0 finished before, 0 failed"


def test_without_resume_an_interrupted_cell_starts_again_and_a_finished_one_is_kept(tmp_path: Path) -> None:
    cells = tiny(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(cells, stopper=KeyboardInterrupt())
    mark = tmp_path / "results" / cells[1].cfg.run_id / "mine"
    mark.write_text("removed by a fresh start")
    assert run(cells, resume=False)[1][-1] == "2 run, 1 finished before, 0 failed"
    assert not mark.exists()


def test_an_interrupted_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    cells = tiny(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(cells, stopper=KeyboardInterrupt())
    folders = [tmp_path / "results" / cell.cfg.run_id for cell in cells]
    assert len(read_lines(folders[1] / "rounds.jsonl")) == 2
    assert not folders[2].exists()
    assert run(cells)[1][-1] == "2 run, 1 finished before, 0 failed"
    undisturbed = tiny(tmp_path, f"run.results_dir={tmp_path / 'again'}")
    run(undisturbed)
    again = tmp_path / "again" / undisturbed[1].cfg.run_id
    assert (folders[1] / "rounds.jsonl").read_bytes() == (again / "rounds.jsonl").read_bytes()


def test_what_no_run_can_satisfy_stops_the_sweep_before_it_starts(tmp_path: Path) -> None:
    text = TINY + "variants: {good: {}, bad: {fleet.profiles: {toaster: 1.0}}}"
    with pytest.raises(ConfigError, match=r"cell bad seed=0: fleet\.profiles.*toaster"):
        run(tiny(tmp_path, text=text))
    assert not (tmp_path / "results").exists()


def test_the_command_lists_runs_and_exits_with_1_for_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)
    path = tmp_path / "s.yaml"
    path.write_text(TINY + "variants: {absent: {task: mnist, task.options: {}}, there: {}}")
    words = ["sweep", str(path), "--set", "run.seed=0", "--set", f"run.results_dir={tmp_path / 'results'}"]
    listed = CliRunner().invoke(app, [*words, "--dry-run"])
    assert listed.exit_code == 0
    assert "2 cells" in " ".join(listed.output.split())
    assert not (tmp_path / "results").exists()
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "FAILED absent: " in done.output
    assert "error.log" in done.output
    assert "1 run, 0 finished before, 1 failed" in done.output
    assert CliRunner().invoke(app, [*words, "--set", "variant=there"]).exit_code == 0


def test_a_search_cannot_be_told_to_forget(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(TINY + "search: {space: {method.lr: {uniform: [0.1, 1]}}}")
    done = CliRunner().invoke(app, ["sweep", str(path), "--no-resume"])
    assert isinstance(done.exception, ConfigError)
    assert "delete results/s.trials.jsonl" in str(done.exception)
