"""The page follows the runs, and stands still in the end."""

import json
from collections.abc import Iterator

import pytest
from conftest import one_round

from harness.report import write
from harness.report.watch import state_of, watch
from harness.types import ConfigError


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They take half a second each, and are tested elsewhere."""
    monkeypatch.setattr("harness.report.curves.render", lambda draw, **words: "<svg></svg>")


def follow(folder, steps, **words):
    """Watch, doing a step in each pause, the interrupt last; returns what was said."""
    lines: list[str] = []
    todo: Iterator = iter(steps)

    def pause() -> None:
        step = next(todo, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    words = {"target": None, "out": folder / "report"} | words
    watch(folder, say=lines.append, pause=pause, **words)
    return lines


@pytest.mark.filterwarnings("ignore:.*unfinished")
def test_the_page_is_written_again_when_a_round_was_added(write_run):
    run = write_run("fedavg", val=(None, 0.5), finished=False)
    folder, pages = run.parent, []

    def grow():
        pages.append((folder / "report" / "report.html").read_text())
        with (run / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(one_round(2, accuracy=0.9, scale=1)) + "\n")

    lines = follow(folder, [lambda: None, grow, lambda: None, lambda: None])
    assert len(lines) == 2  # the first page, and the one after the round; nothing where nothing changed
    assert 'data-reload="5"' in pages[0]
    assert "2 rounds" in pages[0]
    page = folder / "report" / "report.html"
    assert "3 rounds" in page.read_text()
    assert 'data-reload="0"' in write(folder, out=folder / "report").read_text()


def test_it_waits_for_a_first_round(tmp_path, write_run):
    folder = tmp_path / "runs"
    folder.mkdir()
    lines = follow(folder, [lambda: write_run("fedavg")])
    assert lines[0] == f"{folder}: waiting for a first round"
    assert "1 runs" in lines[1]
    assert (folder / "report" / "report.html").exists()


@pytest.mark.filterwarnings("ignore:.*unfinished")
def test_an_impossible_target_is_told(write_run):
    folder = write_run("fedavg").parent
    with pytest.raises(ConfigError, match="target: accuracy lies between 0 and 1"):
        follow(folder, [], target=80)


def test_state_is_of_the_files_that_tell(write_run):
    run = write_run("fedavg", finished=False)
    before = state_of(run.parent)
    assert [path.name for path in before] == ["rounds.jsonl"]
    (run / "timings.jsonl").write_text("{}\n")
    assert state_of(run.parent) == before
    (run / "summary.json").write_text("{}")
    assert state_of(run.parent) != before
