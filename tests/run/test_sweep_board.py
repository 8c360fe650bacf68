"""The live table of a sweep, and its lines where there is no terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from harness.run.sweep import expand
from harness.run.sweep_board import Board, duration
from harness.run.sweep_run import trials_of
from harness.run.sweep_trial import Outcome, Progress, Trial


@pytest.fixture
def trials(tmp_path: Path) -> list[Trial]:
    path = tmp_path / "s.yaml"
    path.write_text("{base: {task: digits, run.num_rounds: 5}, grid: {run.seed: [0, 1, 2, 3]}}")
    return trials_of(expand(path, words=[f"run.results_dir={tmp_path}"]))


def play(board: Board, trials: list[Trial]) -> None:
    """One of each kind: finished, running, failed, skipped."""
    board.begin(trials[0])
    board.end(trials[0], Outcome("finished", "eval/accuracy 0.9"))
    board.begin(trials[1])
    board.progress(trials[1], Progress("id", 2, "val/accuracy 0.5", None))
    board.begin(trials[2])
    board.end(trials[2], Outcome("failed", "OSError: [full]", log="x/error.log"))
    board.end(trials[3], Outcome("skipped", "finished before"))


def test_lines_in_a_pipe(trials: list[Trial]) -> None:
    lines: list[str] = []
    board = Board(4, say=lines.append)
    with board:
        play(board, trials)
    board.close()
    run_ids = [trial.cells[0].cfg.run_id for trial in trials]
    assert lines[:2] == [
        f"cell 1/4: seed=0 ({run_ids[0]})",
        "cell 1/4: seed=0: done in 0 s; eval/accuracy 0.9",
    ]
    assert lines[2] == f"cell 2/4: seed=1 ({run_ids[1]}; about 0 s left)"
    assert lines[4] == "cell 3/4: seed=2: FAILED, OSError: [full]; see x/error.log"
    assert lines[5:] == [
        "cell 4/4: seed=3: finished before, skipped",
        "1 run, 1 finished before, 1 failed",
        "FAILED seed=2: OSError: [full]; see x/error.log",
    ]


def test_a_table_on_a_terminal(trials: list[Trial]) -> None:
    lines: list[str] = []
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Board(4, say=lines.append, console=screen) as board:
        play(board, trials)
    assert lines == ["cell 3/4: seed=2: FAILED, OSError: [full]; see x/error.log"], "what the table may lose"
    plain = Console(file=io.StringIO(), width=120)
    plain.print(board.table())
    drawn = plain.file.getvalue()  # type: ignore[attr-defined]
    rows = [
        [part.strip() for part in line.split("│")[1:-1]] for line in drawn.splitlines() if "seed=" in line
    ]
    assert rows == [
        ["1", "seed=0", "finished", "0/5", "eval/accuracy 0.9", "0 s"],
        ["2", "seed=1", "running", "2/5", "val/accuracy 0.5", "0 s"],
        ["3", "seed=2", "failed", "0/5", "OSError: [full]", "0 s"],
        ["4", "seed=3", "skipped", "0/5", "finished before", "0 s"],
    ]
    assert "3 of 4 cells ended: 1 finished, 1 running, 1 failed, 1 skipped" in " ".join(drawn.split())


def test_a_trial_that_starts_again_says_so(trials: list[Trial]) -> None:
    lines: list[str] = []
    board = Board(4, say=lines.append)
    board.begin(trials[0])
    board.begin(trials[0])
    assert lines[1] == f"{lines[0]} again"


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.6, 3600, 3725)] == ["0 s", "1 min 0 s", "1 h 0 min", "1 h 2 min"]
