"""One torch thread for all tests, and `--update-golden`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:  # torch and Lightning take 5 s to import, and pytest-xdist's own process needs neither
    from local_run import Play, Played

# How long an example takes is the machine's business.
hypothesis.settings.register_profile("harness", deadline=None)
hypothesis.settings.load_profile("harness")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden; review the diff")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def play(tmp_path: Path) -> "Play":
    """`play("method=fedavg", ...)`: a tiny run in this process, with states in a folder of its own."""
    from local_run import TINY, make_config, make_job, play_job

    count = 0

    def run(*words: str, base: Sequence[str] = TINY, **options: object) -> "Played":
        nonlocal count
        count += 1
        job = make_job(make_config(words, base=base), tmp_path / f"states{count}")
        return play_job(job, **options)  # type: ignore[arg-type]

    return run
