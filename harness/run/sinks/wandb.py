"""W&B: the same records under the same keys, one W&B run per run, its id the run's id.

W&B never decides anything: each W&B run can be rebuilt from the files, and is. A run that is started under
an id that W&B knows replaces what was there (`resume` unset), so an interrupted run that goes on first logs
its earlier rounds again, and `sync` logs all of them: each round shows once, whatever happened before.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import yaml

from harness.config import Config, as_dict, require
from harness.run.files import read_json, read_lines
from harness.run.lock import held_by
from harness.run.records import Summary

if TYPE_CHECKING:
    import wandb

Mode = Literal["online", "offline"]
Numbers = Mapping[str, int | float]

JOINED = ("time/wall_s", "energy/measured_j")
"""Keys of timings.jsonl that are shown beside the record of the same round."""
AXES = (
    "cost/client_flops_total",
    "cost/tx_bytes_total",
    "cost/rx_bytes_total",
    "cost/client_j_total",
    "time/sim_s_total",
)
"""Running totals that stand in every record beside the accuracy: what a panel's x axis may be set to."""
FAMILIES = ("eval", "val", "train", "cost", "time", "energy", "scheduler", "client")
"""First parts of metric keys. W&B gives a metric one default step, `round`; every total is logged in the same
line, so a chart can take any of them as its x axis."""
REBUILD = "the run's files hold everything; `harness wandb-sync` rebuilds it"


class WandbSink:
    """Logs a run while it goes on. W&B out of reach gives a warning and an offline run, never an error."""

    def __init__(self, *, init_timeout_s: float = 15.0, finish_timeout_s: float = 30.0) -> None:
        self._timeouts = (init_timeout_s, finish_timeout_s)
        self._run: wandb.Run | None = None
        self._next_round = 0

    def start(self, cfg: Config, *, run_id: str, first_round: int) -> None:
        """Open the W&B run and log the rounds before `first_round` from the files."""
        if cfg.log.wandb == "disabled":
            return
        folder = Path(cfg.run.results_dir) / run_id
        self._run = _open(folder, as_dict(cfg), mode=choose_mode(cfg.log.wandb), timeouts=self._timeouts)
        self._next_round = 0
        for record, timings in _committed(folder)[:first_round]:
            self.write(record, timings)

    def write(self, record: Numbers, timings: Numbers) -> None:
        """Log a round once: one that comes again after lost processes is equal and left out."""
        round = int(record["round"])
        if self._run is None or round < self._next_round:
            return
        self._next_round = round + 1
        run = self._run
        self._try(lambda: _log(run, record, timings))

    def finish(self, summary: Summary | None) -> None:
        """Close the W&B run; waits a bounded time for its upload. Offline it is written out by the exit."""
        if self._run is not None:
            run, self._run = self._run, None
            self._try(lambda: _finish(run, summary))

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever W&B raises, the run goes on
            self._run = None
            warnings.warn(f"log.wandb: W&B is given up ({_line(error)}); {REBUILD}", stacklevel=3)


def sync(results_dir: Path, *, mode: str = "auto", finish_timeout_s: float = 600.0) -> Iterator[str]:
    """Rebuild a clean W&B run from the files of each run in `results_dir`, finished or not; a line for each.

    Without a key (or with mode="offline") each run gets one offline run, for `wandb sync` to upload.
    Runs that a live process works on are left alone. Raises ConfigError where `results_dir` is no folder.
    """
    require(results_dir.is_dir(), f"{results_dir}: no folder of results; give the one of run.results_dir")
    import wandb

    chosen = choose_mode(mode)
    for folder in sorted(path.parent for path in results_dir.glob("*/config.yaml")):
        if held_by(folder) is not None:
            yield f"{folder.name}: left alone, it is running"
            continue
        try:
            line, chosen = _rebuild(folder, mode=chosen, finish_timeout_s=finish_timeout_s)
        except Exception as error:  # a damaged run, or whatever W&B raises: the others go on
            line = f"failed ({_line(error)})"
        yield f"{folder.name}: {line}"
    wandb.teardown()  # returns once W&B's service has written out what is offline


def _rebuild(folder: Path, *, mode: Mode, finish_timeout_s: float) -> tuple[str, Mode]:
    """What became of it, and the mode it took: once out of reach, W&B is not waited for again."""
    rounds = _committed(folder)
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    run = _open(folder, tree, mode=mode, timeouts=(15.0, finish_timeout_s))
    if run is None:
        return "failed", "offline"
    for record, timings in rounds:
        _log(run, record, timings)
    done = folder / "summary.json"
    _finish(run, read_json(done) if done.exists() else None)
    if not run.offline:
        return f"{len(rounds)} rounds, {run.url}", "online"
    return f"{len(rounds)} rounds, `wandb sync {Path(run.dir).parent}` uploads it", "offline"


def choose_mode(wanted: str) -> Mode:
    """`auto` is online where a key is found. Without one `online` is offline too, with a warning."""
    if wanted == "offline":
        return "offline"
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or _in_netrc(host):
        return "online"
    if wanted == "online":
        # W&B would ask for the key here, and wait.
        warnings.warn("log.wandb=online: no key found, so offline; run `wandb login` first", stacklevel=2)
    return "offline"


def _in_netrc(host: str) -> bool:
    try:
        return netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


def _open(
    folder: Path, tree: Mapping[str, Any], *, mode: Mode, timeouts: tuple[float, float]
) -> "wandb.Run | None":
    """A new W&B run under the run's id: online, else offline, else none; each step down with a warning."""
    import wandb

    for attempt in ("online", "offline") if mode == "online" else ("offline",):
        # Every attempt starts clean, so that exactly one .wandb file lies in the folder.
        shutil.rmtree(folder / "wandb", ignore_errors=True)
        try:
            return _init(folder, tree, mode=attempt, timeouts=timeouts)
        except Exception as error:  # whatever W&B raises, the run goes on
            then = "logging offline" if attempt == "online" else "logging nothing there"
            wandb.teardown()  # else its service holds on to the run id
            warnings.warn(f"log.wandb: {attempt} failed ({_line(error)}), {then}; {REBUILD}", stacklevel=3)
    return None


def _init(folder: Path, tree: Mapping[str, Any], *, mode: str, timeouts: tuple[float, float]) -> "wandb.Run":
    import wandb  # about a second: paid only by runs that use it

    log = tree["log"]
    names = [str(tree[part]["name"]).rsplit(":", 1)[-1].lower() for part in ("method", "task")]
    wandb.setup(wandb.Settings(silent=True))
    run = wandb.init(
        mode="online" if mode == "online" else "offline",
        id=folder.name,
        name=folder.name,
        dir=folder,
        entity=log["entity"],
        project=log["project"],
        group=log["group"] or "-".join(names),
        job_type=log["job_type"],
        tags=list(log["tags"]),
        config=dict(tree),
        reinit="create_new",
        settings=_settings(timeouts),
    )
    run.define_metric("round")
    for family in FAMILIES:
        run.define_metric(f"{family}/*", step_metric="round")
    for axis in AXES:
        run.define_metric(axis, step_metric="round", summary="last")
    return run


def _settings(timeouts: tuple[float, float]) -> "wandb.Settings":
    """Quiet and cheap: no console capture, system metrics, code or requirements; waits that end."""
    import wandb

    wanted: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "init_timeout": timeouts[0],
        "finish_timeout": timeouts[1],
        "finish_timeout_raises": True,
        "disable_git": True,
        "disable_code": True,
        "disable_job_creation": True,
        "save_code": False,
        "symlink": False,
        "x_disable_stats": True,
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
    }
    # Some of these come and go with W&B's versions; none is needed for a right result.
    known = {name: value for name, value in wanted.items() if name in wandb.Settings.model_fields}
    return wandb.Settings(**known)


def _log(run: "wandb.Run", record: Numbers, timings: Numbers) -> None:
    run.log({**record, **{key: timings[key] for key in JOINED if key in timings}}, step=int(record["round"]))


def _finish(run: "wandb.Run", summary: Summary | None) -> None:
    if summary is not None:
        run.summary.update(dict(summary))
    run.finish(exit_code=1 if summary is None else 0)


def _committed(folder: Path) -> list[tuple[Numbers, Numbers]]:
    records, timings = read_lines(folder / "rounds.jsonl"), read_lines(folder / "timings.jsonl")
    by_round = {line["round"]: line for line in timings}
    return [(record, by_round.get(record["round"], {})) for record in records]


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
