"""The command line: thin commands over the harness."""

import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from harness import cli_papers, cli_remote, loading
from harness.config import Config, nearest
from harness.types import ConfigError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)
data_app = typer.Typer(no_args_is_help=True, help="Data sets: what is found, and fetching what is not.")
app.add_typer(data_app, name="data")
app.add_typer(cli_papers.app)
app.add_typer(cli_remote.app)

Words = Annotated[
    list[str] | None, typer.Argument(metavar="key=value...", help="Configuration, e.g. method=fedavg")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="F", help="YAML file; words override it")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
ResultsDir = Annotated[Path, typer.Argument(metavar="DIR", help="Folder that holds runs")]


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        app()
    except ConfigError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {error}", markup=False)
        sys.exit(2)


@app.command()
def run(words: Words = None, file: ConfigFile = None, as_json: Json = False) -> None:
    """Run one configuration; a finished run is read, not repeated."""
    from harness.run.driver import execute

    cfg = load_config(words, file)
    with runtime_of(cfg, hint="the same command with run.resume=true goes on from here") as runtime:
        summary = execute(cfg, runtime=runtime, sinks=make_sinks(cfg, quiet=as_json))
    if as_json:
        print(json.dumps(summary))
    else:
        print_summary(summary, folder=Path(cfg.run.results_dir) / cfg.run_id)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML of base, grid, variants and scales")],
    scale: Annotated[str | None, typer.Option(help="smoke, small or paper")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="key=value")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Predict what each cell costs, run none.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on with interrupted runs, or start those again.")] = True,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at once; default: as many as fit")] = None,
    retries: Annotated[int, typer.Option(min=0, help="Of a run that fails")] = 0,
    budget_s: Annotated[float | None, typer.Option(min=0, help="Wall seconds for the whole sweep")] = None,
) -> None:
    """Run every cell of a sweep, or its search, on warm actors; finished runs are read, not repeated."""
    from harness.run.sweep import expand
    from harness.run.sweep_run import Limits
    from harness.run.sweep_search import read_search

    words = settings or []
    search = read_search(file, scale=scale, words=words)
    if search and not resume:
        raise ConfigError(f"--no-resume: a search always goes on; to begin anew, delete {search.trials_file}")
    cells = list(search.base) if search else expand(file, scale=scale, words=words)
    if dry_run:
        print_forecast(
            f"{file}: {len(cells)} cells", cells, num_trials=search.settings.num_trials if search else None
        )
        return
    if not play_cells(cells, search=search, resume=resume, limits=Limits(jobs, budget_s, retries)):
        raise typer.Exit(1)


@app.command()
def report(
    directory: ResultsDir = Path("results"),
    out: Annotated[Path | None, typer.Option("--out", metavar="D", help="Default DIR/report")] = None,
    target: Annotated[float | None, typer.Option(help="Metric value for cost-to-target")] = None,
    grid: Annotated[str | None, typer.Option(help="Carbon: a grid of harness/cost/carbon.py")] = None,
    with_claims: Annotated[bool, typer.Option("--claims", help="Also every claim, with a verdict")] = False,
    follow: Annotated[bool, typer.Option("--watch", help="Keep up with runs, until interrupted.")] = False,
) -> None:
    """Write the comparison table, CSV and one HTML page; print the table."""
    from harness import report as reporting
    from harness.report.claims import audit, load_claims, to_html
    from harness.report.tables import comparison, to_rich
    from harness.report.watch import watch

    out = out or directory / "report"
    if follow:
        watch(directory, out=out, target=target, say=say)
    last = [to_html(audit(load_claims(), results=directory))] if with_claims else []
    page = reporting.write(directory, out=out, target=target, last=last, grid=grid)
    for table in to_rich(comparison(reporting.load(directory, ledger=False), target=target)):
        console().print(table)
    console().print(f"report: {page}", highlight=False, soft_wrap=True)


@app.command()
def describe(words: Words = None, file: ConfigFile = None, as_json: Json = False) -> None:
    """Models and exchanges of a configuration, counted without a data set."""
    from harness.run.describe import describe as describe_run

    found = describe_run(load_config(words, file))
    if as_json:
        print(json.dumps(found))
        return
    for kind, rows in found.items():
        if not isinstance(rows, list):
            continue
        title = f"{found['method']} on {found['task']}: {kind}"
        print_rows(title, list(rows[0]) if rows else ["none"], [tuple(row.values()) for row in rows])


@app.command("list")
def list_names(
    kind: Annotated[str, typer.Argument(metavar="methods|tasks|models|policies|profiles|partitions")],
    as_json: Json = False,
) -> None:
    """Names that a configuration may use."""
    kinds = catalogue()
    if kind not in kinds:
        raise ConfigError(f"list: unknown kind {kind!r}{nearest(kind, list(kinds))}")
    names = kinds[kind]()
    if as_json:
        print(json.dumps(list(names)))
    else:
        print_rows(kind, ["name", ""], list(names.items()))


@app.command()
def claims(
    paper: Annotated[str | None, typer.Option(help="One paper's claims")] = None,
    as_json: Json = False,
    directory: Annotated[Path, typer.Option("--results", help="Folder that holds runs")] = Path("results"),
) -> None:
    """Every claim of the papers with its verdict: analytic ones computed, measured ones read from results."""
    from harness.report.claims import audit, load_claims

    verdicts = audit(load_claims(paper), results=directory)
    if as_json:
        print(json.dumps([verdict.as_dict() for verdict in verdicts]))
    else:
        columns = ["claim", "expected", "found", "verdict"]
        print_rows("claims", columns, [verdict.row() for verdict in verdicts])


@app.command()
def doctor(
    as_json: Json = False,
    address: Annotated[str | None, typer.Option(help="Also compare versions with this cluster's")] = None,
) -> None:
    """Versions, cores, GPUs, Ray, data sets found, W&B mode; with --address, a cluster's versions."""
    from harness.run.doctor import compare, examine

    found = examine()
    if address is not None:
        from ray_actors.nodes import look, survey

        found |= compare(look(), survey(address))
    if as_json:
        print(json.dumps(found))
    else:
        print_rows("doctor", ["what", "found"], [(key, str(value)) for key, value in found.items()])


@app.command("wandb-sync")
def wandb_sync(directory: ResultsDir = Path("results")) -> None:
    """Rebuild a clean W&B run from the files of every run in DIR."""
    from harness.run.sinks import sync

    for line in sync(directory):
        print(line)


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """Which data sets are found, and where."""
    from harness.data.prepare import available

    found = [(name, str(where) if where else "not found") for name, where in available()]
    print(json.dumps(dict(found))) if as_json else print_rows("data sets", ["name", "found"], found)


@data_app.command("prepare")
def data_prepare(
    name: str,
    source: Annotated[str | None, typer.Option(help="Local folder or URL in the hub's layout")] = None,
) -> None:
    """Fetch a data set into the cache through Hugging Face datasets."""
    from harness.data.prepare import prepare

    print(f"{name}: {prepare(name, source=source)}")


def play_cells(cells: Sequence[Any], *, search: Any = None, resume: bool = True, limits: Any = None) -> bool:
    """Run what is not finished, or a search; False where a cell failed, after all others."""
    from harness.run.sweep_board import Board
    from harness.run.sweep_run import Limits, trials_of

    trials = trials_of(cells, resume=resume)
    total = search.settings.num_trials if search else len(trials)
    with Board(total, say=say, word="trial" if search else "cell", console=console()) as board:
        play(search or trials, board=board, limits=limits or Limits())
    board.close()
    if search and (best := board.best(search.goal)):
        say(f"best: {best}")
    return not board.failures()


def play(work: Any, *, board: Any, limits: Any) -> None:
    """Play a sweep's trials or its search, on Ray unless it is one local run after another."""
    from harness.run.sweep_run import run_trials
    from harness.run.sweep_search import Search
    from harness.run.sweep_trial import BudgetSpent

    sinks = functools.partial(make_sinks, quiet=True)
    searched = isinstance(work, Search)
    cfg = work.base[0].cfg if isinstance(work, Search) else work[0].cells[0].cfg
    try:
        with interruptible("the same command goes on from here"):
            if not searched and cfg.runtime.transport == "local" and limits.jobs in (None, 1):
                from harness.run.runtime import LocalRuntime

                run_trials(work, runtime=LocalRuntime(), make_sinks=sinks, board=board, limits=limits)
                return
            from ray_actors.sweep import run_grid, run_search

            (run_search if searched else run_grid)(work, make_sinks=sinks, board=board, limits=limits)
    except BudgetSpent:
        say(f"--budget-s {limits.budget_s:g} is spent; the same command goes on from here")


def load_config(words: list[str] | None, file: Path | None) -> Config:
    """The checked configuration of a command."""
    from harness.run.method import method_config

    return loading.load(words or [], method_config=method_config, file=file)


@contextmanager
def interruptible(hint: str) -> Iterator[None]:
    """An interrupt ends with `hint` and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True, soft_wrap=True).print(f"interrupted; {hint}")
        raise typer.Exit(130) from None


@contextmanager
def runtime_of(cfg: Config, *, hint: str) -> Iterator[Any]:
    """A runtime that is closed again, after an interrupt too."""
    runtime = make_runtime(cfg)
    try:
        with interruptible(hint):
            yield runtime
    finally:
        runtime.close()


def make_runtime(cfg: Config) -> Any:
    """Where the engine lives, by runtime.transport."""
    if cfg.runtime.transport == "local":
        from harness.run.runtime import LocalRuntime

        return LocalRuntime()
    from ray_actors.launch import RayRuntime

    return RayRuntime()


def make_sinks(cfg: Config, *, quiet: bool) -> list[Any]:
    """Where records go beside the files."""
    from harness.run.sinks import ConsoleSink, WandbSink

    sinks: list[Any] = [] if quiet or not cfg.log.console else [ConsoleSink()]
    return sinks if cfg.log.wandb == "disabled" else [*sinks, WandbSink()]


def catalogue() -> dict[str, Callable[[], dict[str, str]]]:
    """Kind -> its names with a line about each."""
    from harness.cost.devices import PROFILES
    from harness.data.partition import PARTITIONS, partition_names
    from harness.data.tasks import TASKS
    from harness.run.method import load_method, method_names
    from harness.scheduling.policies import POLICIES
    from lightning_modules.networks import NETWORKS

    def view() -> None:
        """Vertical: every client holds every example and sees it through a view of its own."""

    return {
        "methods": lambda: {
            name: first_line(sys.modules[load_method(name).__module__]) for name in method_names()
        },
        "tasks": lambda: {name: first_line(task) for name, task in sorted(TASKS.items())},
        "models": lambda: {name: first_line(build) for name, build in sorted(NETWORKS.items())},
        "policies": lambda: {name: first_line(policy) for name, policy in sorted(POLICIES.items())},
        "profiles": lambda: {name: profile.description for name, profile in sorted(PROFILES.items())},
        "partitions": lambda: {name: first_line(PARTITIONS.get(name, view)) for name in partition_names()},
    }


def say(line: str) -> None:
    """A line on the console, as it is."""
    console().print(line, markup=False, highlight=False, soft_wrap=True)


def first_line(thing: object) -> str:
    """The first line of a docstring."""
    return (thing.__doc__ or "").strip().split("\n")[0]


def console() -> Console:
    """Standard output; wide enough for a table where it is a file or a pipe."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=120)


def print_rows(title: str, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    """A table on the console; integers with thousands separators."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        numeric = bool(rows) and isinstance(rows[0][index], int | float)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    console().print(table)


def print_forecast(title: str, cells: Any, *, num_trials: int | None) -> None:
    """What a sweep's cells will cost, and their sum."""
    from harness.run.sweep_forecast import COLUMNS, forecast, rows_of

    print_rows(title, list(COLUMNS), rows_of(cells, forecast(cells), num_trials=num_trials))


def print_summary(summary: Any, *, folder: Path) -> None:
    """A run's figures."""
    values = {**summary["metrics"], **summary["totals"]}
    values |= {key: value for key, value in summary["energy"].items() if key in ("measured_j", "measured_g")}
    rows = [
        (key, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}") for key, value in values.items()
    ]
    print_rows(f"{summary['run_id']}: {summary['rounds']} rounds", ["what", "value"], rows)
    console().print(f"files: {folder}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
