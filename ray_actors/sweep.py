"""A sweep on Ray Tune: each trial in a process and a placement group of its own, kept warm for the next.

    driver (Tune, the board) -> Trial process (the driver of its runs: writes their files)
                                 -> server, scheduler and client actors, in the trial's placement group

Tune decides who runs when, on what, and what a search tries next. The runs' folders are the only state: a
sweep that was killed starts again, finished runs answer from their files, and a search is told of every
trial of before, round by round, as if it was played now.
"""

import dataclasses
import functools
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.callback import Callback
from ray.tune.experiment import Trial as TuneTrial

from harness.config import Config, require
from harness.run.runtime import LocalRuntime, Runtime
from harness.run.sweep_board import Board
from harness.run.sweep_run import Limits, run_trials, skip_finished
from harness.run.sweep_search import Search
from harness.run.sweep_trial import (
    BudgetSpent,
    Goal,
    MakeSinks,
    Outcome,
    Progress,
    Trial,
    attempt,
    failed,
)
from ray_actors.launch import RayRuntime, connect, plan_layout
from ray_actors.server import Layout
from ray_actors.suggestions import Halving, domain_of, searcher

TELL_EVERY_S = 0.5
"""Seconds between two words of a grid's trial; a search hears of every round."""
AT_DRIVER = 0.001
"""Share of a node's own resource that ties a trial's process to it."""
QUIET = {
    # Folders of results beside ours, a handler that swallows the first Ctrl-C, advice on its own settings.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Paths are relative to where the sweep was started.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True, slots=True)
class Desk:
    """What every trial's process is given."""

    make_trial: Callable[[Mapping[str, Any]], Trial]
    """Tune's configuration of a trial -> the trial."""
    make_sinks: MakeSinks
    layout: Layout | None
    """Of each crew of actors; None: runs stay in their trial's process."""
    goal: Goal | None
    retries: int


def run_grid(trials: Sequence[Trial], *, make_sinks: MakeSinks, board: Board, limits: Limits) -> None:
    """Play a grid's unfinished trials, as many at once as there is room for; one at a time from this process.

    Raises ConfigError where no cluster answers or a run asks for more than it has, BudgetSpent with trials
    left over.
    """
    todo = {trial.number: trial for trial in skip_finished(trials, board=board)}
    if not todo:
        return
    cfgs = [cell.cfg for trial in todo.values() for cell in trial.cells]
    with _cluster(cfgs[0]):
        layout = shared_layout(cfgs, jobs=limits.jobs)
        if layout and min(limits.jobs or len(todo), len(todo), room_for(layout)) == 1:
            with closing(RayRuntime()) as runtime:
                left = list(todo.values())
                run_trials(left, runtime=runtime, make_sinks=make_sinks, board=board, limits=limits)
            return
        desk = Desk(functools.partial(_of_grid, todo), make_sinks, layout, None, limits.retries)
        space = {"cell": tune.grid_search(list(todo))}
        _fit(desk, cfgs[0], space=space, board=board, limits=limits, config=tune.TuneConfig())
    _check_all_played(board, limits)


def run_search(search: Search, *, make_sinks: MakeSinks, board: Board, limits: Limits) -> None:
    """Play a search's trials, those of before from their files. Raises as `run_grid` does."""
    cfg, settings = search.base[0].cfg, search.settings
    known = search.known()
    with _cluster(cfg):
        layout = shared_layout([cfg], jobs=limits.jobs)
        desk = Desk(functools.partial(_of_search, search), make_sinks, layout, search.goal, limits.retries)
        rounds = sum(cell.cfg.run.num_rounds for cell in search.base)
        config = tune.TuneConfig(
            num_samples=settings.num_trials,
            metric="value",
            mode=settings.mode,
            search_alg=searcher(search, known=known),
            scheduler=Halving(search, rounds=rounds) if settings.scheduler == "asha" else None,
        )
        space = {} if settings.method == "optuna" else {key: domain_of(r) for key, r in search.space.items()}
        _fit(desk, cfg, space=space, board=board, limits=limits, config=config, search=search)
    _check_all_played(board, limits)


def shared_layout(cfgs: Sequence[Config], *, jobs: int | None) -> Layout | None:
    """The widest layout that a sweep's runs ask for: all trials share it, so that actors stay warm.

    None where the runs stay in one process each. Raises ConfigError where transports are mixed.
    """
    transports = {cfg.runtime.transport for cfg in cfgs}
    require(len(transports) == 1, "runtime.transport: a sweep's runs must share one, got local and ray")
    if transports == {"local"}:
        return None
    found = [plan_layout(cfg, jobs=jobs or 1) for cfg in cfgs]
    return max(found, key=lambda layout: (layout.num_actors, layout.max_actors, layout.cpus, layout.gpus))


def room_for(layout: Layout) -> int:
    """Runs of this layout that the cluster can hold at once."""
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus = total.get("CPU", 1.0) / (layout.num_actors * layout.cpus)
    held = layout.num_actors * layout.gpus + layout.server_gpus
    gpus = total.get("GPU", 0.0) / held if held else cpus
    return max(1, int(min(cpus, gpus)))


def bundles_of(cfg: Config, layout: Layout | None, *, jobs: int | None) -> list[dict[str, float]]:
    """A trial's placement group: its process on this node, where the files are written, then its actors."""
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    here = {f"node:{address}": AT_DRIVER}
    if layout is not None:
        held = {"CPU": layout.cpus, "GPU": layout.gpus}
        server = [{"GPU": layout.server_gpus}] if layout.server_gpus else []
        return [here, *server, *({k: v for k, v in held.items() if v} for _ in range(layout.num_actors))]
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus = float(max(cfg.runtime.client_threads, cfg.runtime.server_threads))
    gpus = cfg.runtime.gpus_per_actor or float(cfg.runtime.accelerator == "gpu")
    share = {"CPU": min(cpus, total.get("CPU", 1.0) / (jobs or 1))}
    return [here | share | ({"GPU": min(gpus, total.get("GPU", 0.0) / (jobs or 1))} if gpus else {})]


def _fit(
    desk: Desk,
    cfg: Config,
    *,
    space: Mapping[str, Any],
    board: Board,
    limits: Limits,
    config: tune.TuneConfig,
    search: Search | None = None,
) -> None:
    """Let Tune play the trials; the board hears of each."""
    config.reuse_actors = True
    config.time_budget_s = limits.budget_s
    config.max_concurrent_trials = limits.jobs
    bundles = bundles_of(cfg, desk.layout, jobs=limits.jobs)
    halving = config.scheduler if isinstance(config.scheduler, Halving) else None
    trainable = tune.with_resources(
        tune.with_parameters(_play, desk=desk), tune.PlacementGroupFactory(bundles)
    )
    # It warns of result files, which are switched off: the runs' own are the truth.
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="sweep-") as scratch, _environment(QUIET):
        tuner = tune.Tuner(
            trainable,
            param_space=dict(space),
            tune_config=config,
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                callbacks=[_Listener(desk, board, search=search, halving=halving)],
                failure_config=tune.FailureConfig(max_failures=limits.retries),
            ),
        )
        tuner.fit()


def _play(config: dict[str, Any], *, desk: Desk) -> None:
    """One trial, in its process. Tune ends a trial by raising SystemExit where it reports."""
    # What a stopped run may take to close its files, before its process is given up.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    trial = desk.make_trial(config)
    told_at = 0.0

    def tell(progress: Progress) -> None:
        nonlocal told_at
        if desk.goal is None and time.perf_counter() - told_at < TELL_EVERY_S:
            return
        told_at = time.perf_counter()
        report = dataclasses.asdict(progress)
        tune.report({key: value for key, value in report.items() if value is not None})

    outcome = attempt(
        trial,
        runtime=_warm_runtime(desk.layout),
        make_sinks=desk.make_sinks,
        tell=tell,
        goal=desk.goal,
        retries=desk.retries,
    )
    last = {"outcome": dataclasses.asdict(outcome), "round": trial.num_rounds}
    tune.report(last if outcome.value is None else last | {"value": outcome.value})


@functools.cache
def _warm_runtime(layout: Layout | None) -> Runtime:
    """One in a trial's process: the next trial finds its actors there."""
    return LocalRuntime() if layout is None else RayRuntime(layout)


class _Listener(Callback):
    """Tells the board what Tune tells, and notes a search's trials."""

    def __init__(self, desk: Desk, board: Board, *, search: Search | None, halving: Halving | None) -> None:
        self.desk = desk
        self.board = board
        self.search = search
        self.halving = halving
        self.known = dict(enumerate(search.known(), start=1)) if search else {}
        """Trials of before that did not start again yet."""
        self.next = len(self.known) + 1
        self.trials: dict[str, Trial] = {}

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        if trial.trial_id not in self.trials:
            found = self.desk.make_trial(trial.config)
            number = self._number(trial.config) if self.search else found.number
            self.trials[trial.trial_id] = dataclasses.replace(found, number=number)
        self.board.begin(self.trials[trial.trial_id])

    def _number(self, params: Mapping[str, Any]) -> int:
        """Of a search's trial: the one it had before, or the next one."""
        known = next((number for number, old in self.known.items() if old == params), None)
        if known is not None:
            del self.known[known]
            return known
        assert self.search is not None
        self.search.note(self.next, params)
        self.next += 1
        return self.next - 1

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **_: Any
    ) -> None:
        known = self.trials[trial.trial_id]
        if "outcome" in result:
            self.board.end(known, Outcome(**result["outcome"]))
        elif "run_id" in result:
            value = result.get("value")
            self.board.progress(known, Progress(result["run_id"], result["round"], result["told"], value))

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        """The end of a trial that told of no outcome itself: stopped early, or the sweep's time is up."""
        known, last = self.trials[trial.trial_id], trial.last_result or {}
        if self.search and self.halving and trial.trial_id in self.halving.stopped:
            told = f"{self.search.goal.metric} {last['value']:.4g}"
            self.board.end(known, Outcome("stopped", told, value=last["value"]))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any) -> None:
        """Only what killed the trial's process comes here: failures of runs are outcomes."""
        known = self.trials.get(trial.trial_id) or self.desk.make_trial(trial.config)
        text = str(trial.get_error() or "its process died")
        reason = text.strip().splitlines()[-1]
        self.board.end(known, failed(known, reason=reason, text=text))


def _of_grid(trials: Mapping[int, Trial], config: Mapping[str, Any]) -> Trial:
    return trials[config["cell"]]


def _of_search(search: Search, config: Mapping[str, Any]) -> Trial:
    return search.trial(0, config)


def _check_all_played(board: Board, limits: Limits) -> None:
    if limits.budget_s is not None and len(board.outcomes) < board.total:
        raise BudgetSpent


@contextmanager
def _cluster(cfg: Config) -> Iterator[None]:
    """Joined or started, and left again where this call did so."""
    started = connect(cfg)
    try:
        yield
    finally:
        if started:
            ray.shutdown()


@contextmanager
def _environment(given: Mapping[str, str]) -> Iterator[None]:
    """These variables for a while."""
    before = {key: os.environ.get(key) for key in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
