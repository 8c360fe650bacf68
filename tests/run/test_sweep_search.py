"""Searches: the section, candidates as runs, what a trial tells, and runs that were given up."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.run.runtime import LocalRuntime
from harness.run.sweep_board import Board
from harness.run.sweep_search import Range, Search, read_search
from harness.run.sweep_trial import Goal, Outcome, Progress, Reporter, is_stopped, mark_stopped, play_trial
from harness.types import ConfigError

BASE = """
base:
  task: {name: synthetic, model: logistic, options: {num_train: 60, num_test: 20}}
  partition: {num_clients: 2}
  run: {num_rounds: 3}
  runtime: {transport: local}
grid: {run.seed: [4, 5]}
"""
SEARCH = (
    BASE
    + """
search:
  num_trials: 7
  space:
    method.lr: {log_uniform: [0.00001, 1]}
    method.local_epochs: {integer: [1, 3]}
    method.optimizer: {choice: [sgd, adam]}
scales:
  smoke: {run.num_rounds: 2, search: {num_trials: 2, method: random}}
"""
)
PARAMS = {"method.lr": 0.00001, "method.local_epochs": 2, "method.optimizer": "adam"}


def read(tmp_path: Path, *words: str, text: str = SEARCH, scale: str | None = None) -> Search:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    found = read_search(path, scale=scale, words=[f"run.results_dir={tmp_path / 'results'}", *words])
    assert found is not None
    return found


def test_the_section_becomes_ranges_and_a_goal(tmp_path: Path) -> None:
    search = read(tmp_path, "search.seed=3", "seed=9")
    assert search.space == {
        "method.lr": Range("log_uniform", (0.00001, 1.0)),
        "method.local_epochs": Range("integer", (1, 3)),
        "method.optimizer": Range("choice", ("sgd", "adam")),
    }
    assert search.goal == Goal("val/accuracy", "max")
    assert (search.settings.num_trials, search.settings.method, search.settings.seed) == (7, "optuna", 3)
    assert [cell.cfg.run.seed for cell in search.base] == [9]


def test_a_scale_changes_single_keys(tmp_path: Path) -> None:
    settings = read(tmp_path, scale="smoke").settings
    assert (settings.num_trials, settings.method, settings.scheduler) == (2, "random", "asha")
    assert read(tmp_path, "search.num_trials=5", scale="smoke").settings.num_trials == 5


def test_a_candidate_is_a_run_for_each_seed(tmp_path: Path) -> None:
    trial = read(tmp_path, scale="smoke").trial(3, PARAMS)
    assert [cell.cfg.run.seed for cell in trial.cells] == [4, 5]
    assert {(c.cfg.method.lr, c.cfg.method.local_epochs, c.cfg.method.optimizer) for c in trial.cells} == {
        (0.00001, 2, "adam")
    }
    assert (trial.num_rounds, trial.number) == (4, 3)
    assert trial.label == "method.lr=1e-05 method.local_epochs=2 method.optimizer=adam"


def test_corners_hold_every_end_and_every_choice(tmp_path: Path) -> None:
    tried = [trial.cells[0].cfg.method for trial in read(tmp_path).corners()]
    assert [(m.lr, m.local_epochs, m.optimizer) for m in tried] == [(0.00001, 1, "sgd"), (1.0, 3, "adam")]


def test_a_file_without_the_section_has_no_search(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(BASE)
    assert read_search(path) is None
    with pytest.raises(ConfigError, match="has no section search"):
        read_search(path, words=["search.num_trials=3"])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("method.lr:", "method.lrr:", "method.lrr: unknown key; did you mean lr?"),
        ("num_trials: 7", "num_trial: 7", "search.num_trial: unknown key; did you mean num_trials?"),
        ("num_trials: 7", "num_trials: many", "search.num_trials: must be like 20, got 'many'"),
        ("num_trials: 7", "num_trials: 0", "search.num_trials must be >= 1, got 0"),
        ("num_trials: 7", "method: optun", "search.method: unknown value 'optun'; did you mean optuna?"),
        ("num_trials: 7", "metric: eval/accuracy", "tuning never reads the test split"),
        ("num_trials: 7", "reduction: 1", "search.reduction must be > 1, got 1"),
        ("log_uniform: [0.00001, 1]", "log_uniform: [0, 1]", "low must be > 0"),
        ("log_uniform: [0.00001, 1]", "uniform: [1, 0]", "low must be < high"),
        ("log_uniform: [0.00001, 1]", "normal: [1, 2]", "unknown kind 'normal'"),
        ("log_uniform: [0.00001, 1]", "uniform: [1]", "must be [low, high]"),
        ("integer: [1, 3]", "integer: [1, 2.5]", "must be whole"),
        ("integer: [1, 3]", "integer: [0, 3]", "method.local_epochs must be >= 1"),
        ("[sgd, adam]", "[sgd, sgd]", "must hold different plain values"),
        ("[sgd, adam]", "[sgd, adm]", "method.optimizer: unknown value 'adm'"),
        ("method.optimizer: {choice: [sgd, adam]}", "run.seed: {integer: [0, 9]}", "a seed is not searched"),
        ("search: {num_trials: 2, method: random}", "search: 3", "scales.smoke.search: must hold"),
        ("run.seed: [4, 5]", "partition: [iid, dirichlet]", "a search takes one partition.name"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path: Path, old: str, new: str, told: str) -> None:
    text = SEARCH.replace(old, new)
    assert text != SEARCH
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text=text, scale="smoke" if new == "search: 3" else None)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_trials_are_written_down_and_known_again(tmp_path: Path) -> None:
    search = read(tmp_path, scale="smoke")
    assert search.known() == []
    search.note(1, PARAMS)
    assert read(tmp_path, scale="smoke").known() == [PARAMS]
    assert read(tmp_path).known() == [], "a scale has trials of its own"
    with pytest.raises(ConfigError, match="holds trials of another space"):
        read(tmp_path, text=SEARCH.replace("[1, 3]", "[3, 4]"), scale="smoke").known()


def test_a_trial_is_worth_the_mean_of_its_runs_best_rounds() -> None:
    told: list[Progress] = []
    reporter = Reporter(told.append, goal=Goal("val/accuracy", "max"))
    for round, value in enumerate([0.25, 0.75, 0.5]):
        reporter.write({"round": round, "val/accuracy": value}, {})
    assert [p.value for p in told] == [0.25, 0.75, 0.75]


def play(search: Search, *, number: int = 1) -> tuple[Outcome, list[Progress]]:
    told: list[Progress] = []
    outcome = play_trial(
        search.trial(number, PARAMS),
        runtime=LocalRuntime(),
        make_sinks=lambda cfg: [],
        tell=told.append,
        goal=search.goal,
    )
    return outcome, told


def test_a_trial_counts_rounds_over_its_seeds_and_is_read_again_from_its_files(tmp_path: Path) -> None:
    search = read(tmp_path, scale="smoke")
    outcome, told = play(search)
    assert outcome.state == "finished"
    assert [p.round for p in told] == [1, 2, 3, 4]
    assert [p.run_id[-2:] for p in told] == ["-4", "-4", "-5", "-5"]
    again, replayed = play(search)
    assert all(p.replayed for p in replayed)
    assert [(p.round, p.told, p.value) for p in replayed] == [(p.round, p.told, p.value) for p in told]
    assert (again.state, again.value) == ("finished", outcome.value)


def test_a_run_that_was_given_up_is_not_finished_and_not_played_again(tmp_path: Path) -> None:
    search = read(tmp_path)
    cfg = search.trial(1, PARAMS).cells[0].cfg
    folder = tmp_path / "results" / cfg.run_id

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        mark_stopped(folder, by="asha", rounds=progress.round, value=progress.value or 0.0)
        raise Stop

    with pytest.raises(Stop):
        play_trial(
            search.trial(1, PARAMS),
            runtime=LocalRuntime(),
            make_sinks=lambda c: [],
            tell=stop,
            goal=search.goal,
        )
    assert is_stopped(cfg)
    assert not (folder / "summary.json").exists()
    outcome, told = play(search)
    assert (outcome.state, [p.round for p in told]) == ("stopped", [1])
    whole = play_trial(  # someone wants the run itself, to its end
        search.trial(1, PARAMS), runtime=LocalRuntime(), make_sinks=lambda c: [], tell=told.append
    )
    assert whole.state == "finished"
    assert not (folder / "stopped.json").exists()


def outcomes(values: Sequence[float]) -> list[Outcome]:
    return [Outcome("finished", "", value=value) for value in values]


def test_the_board_names_the_best_trial(tmp_path: Path) -> None:
    search = read(tmp_path)
    board = Board(3, say=lambda line: None, word="trial")
    assert board.best(search.goal) is None
    for number, outcome in enumerate([*outcomes([0.5, 0.75]), Outcome("failed", "broken")], start=1):
        board.end(search.trial(number, PARAMS | {"method.local_epochs": number}), outcome)
    told = "method.lr=1e-05 method.local_epochs={} method.optimizer=adam (val/accuracy {}, trial {})"
    assert board.best(search.goal) == told.format(2, 0.75, 2)
    assert board.best(Goal("val/accuracy", "min")) == told.format(1, 0.5, 1)
