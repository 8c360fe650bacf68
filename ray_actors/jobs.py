"""A harness command as a Ray job: the folder it is given in travels to the cluster, Ray and torch do not."""

import asyncio
import logging
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from ray.job_submission import JobStatus, JobSubmissionClient

from harness.config import nearest, require
from harness.types import ConfigError
from ray_actors.launch import knock

COMMANDS: Final = {"run": "", "sweep": "--set ", "reproduce": "--set "}
"""What can be submitted, and what stands before a setting there."""
EXCLUDES: Final = (
    *(".git", ".venv*", "venv", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info"),
    *("/results", "/data", "/tests", "wandb"),
)
"""Of the working directory, written as in .gitignore, whose own lines count as well."""
PACKAGES: Final = ("harness", "lightning_modules", "ray_actors")
TALKATIVE: Final = (
    *("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"),
    "ray._private.runtime_env.packaging",
)
"""Parts of Ray that tell of every file they pack."""
AGENT_S: Final = 60.0
"""Seconds that a head may need until it takes jobs."""
RESULTS: Final = "$HOME/harness-results"
"""Folder of the head node that receives runs: the same job again goes on there."""


def entrypoint(words: Sequence[str], *, results: str = RESULTS, to: str | None = None) -> str:
    """The shell command of the job: `words` on the cluster it runs in, then its results copied `to` a URL.

    A `run.results_dir` in `words` wins over `results`. Raises ConfigError for a command that cannot be sent.
    """
    require(len(words) > 0, "submit: give a command, e.g. sweep sweeps/demo.yaml --scale smoke")
    require(words[0] in COMMANDS, f"submit: cannot send {words[0]!r}{nearest(words[0], list(COMMANDS))}")
    before = COMMANDS[words[0]]
    named = [word.partition("=")[2] for word in words if word.startswith("run.results_dir=")]
    folder = shlex.quote(named[-1]) if named else f'"{results}"'
    command = f"python -m harness.cli {shlex.join(words)} {before}runtime.address=auto"
    if not named:
        command += f" {before}run.results_dir={folder}"
    if to is not None:
        # Whatever became of the runs: those that finished are worth keeping.
        command += f"; code=$?; python -m harness.cli gather {folder} {shlex.quote(to)}; exit $code"
    return command


def environment(folder: Path, env: Mapping[str, str]) -> dict[str, Any]:
    """The job's runtime environment. No `pip`: Ray and torch are those that each node has."""
    found: dict[str, Any] = {"working_dir": str(folder), "excludes": list(EXCLUDES), "env_vars": dict(env)}
    if not (folder / "harness" / "cli.py").exists():
        specs = [find_spec(name) for name in PACKAGES]
        found["py_modules"] = [str(Path(spec.origin).parent) for spec in specs if spec and spec.origin]
    return found


def submit(
    words: Sequence[str],
    *,
    address: str,
    results: str = RESULTS,
    to: str | None = None,
    env: Mapping[str, str] | None = None,
    folder: Path,
) -> str:
    """Send a command with the files of `folder`; returns the job's id. Raises ConfigError."""
    command = entrypoint(words, results=results, to=to)
    client = client_of(address)
    given: dict[str, Any] = {"runtime_env": environment(folder, env or {})}
    given["metadata"] = {"command": shlex.join(words)}
    give_up = time.monotonic() + AGENT_S
    while True:
        try:
            return str(client.submit_job(entrypoint=command, **given))
        except (ConnectionError, RuntimeError, ValueError) as error:
            # A head that has just started takes jobs a little later than questions.
            if "No available agent" not in str(error) or time.monotonic() > give_up:
                raise _refused(address, error) from None
            time.sleep(2.0)


def follow(job: str, *, address: str, write: Callable[[str], None]) -> bool:
    """Pass on what the job prints until it ends; whether it ended well."""
    client = client_of(address)

    async def tail() -> None:
        async for text in client.tail_job_logs(job):
            write(text)

    asyncio.run(tail())
    return bool(client.get_job_status(job) == JobStatus.SUCCEEDED)


def client_of(address: str) -> JobSubmissionClient:
    """Raises ConfigError where no dashboard answers."""
    knock(address.partition("://")[2] or address)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _refused(address, error) from None


def _refused(address: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())
    return ConfigError(
        f"--address {address}: takes no job ({reason}); give the dashboard, http://<head>:8265"
    )
