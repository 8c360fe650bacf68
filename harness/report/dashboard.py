"""The comparison on W&B: a saved workspace and a report, described here and created there.

The runs must be on W&B already (`log.wandb`, or `harness wandb-sync`). Both show the same: the metric against
every running total that `rounds.jsonl` holds, with runs of one method and settings joined over their seeds.
The report adds the comparison and the claims, both read from the files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from harness.config import require
from harness.report import tables
from harness.report.claims import Outcome, Verdict
from harness.report.frames import Results
from harness.run.sinks.wandb import AXES, choose_mode
from harness.types import ConfigError

NAME: Final = "Methods and what they cost"
TITLES: Final = {
    "round": "rounds",
    "cost/client_flops_total": "client FLOPs",
    "cost/tx_bytes_total": "uplink bytes",
    "cost/rx_bytes_total": "downlink bytes",
    "cost/client_j_total": "client energy, J",
    "time/sim_s_total": "simulated time, s",
}
"""What a panel's x axis is called."""
MOST_KEYS: Final = 5
"""Settings that runs are grouped by, at most: W&B nests a level for each."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a dashboard is about, W&B's objects left out."""

    project: str
    entity: str
    """Empty: the entity of the key's owner."""
    metrics: dict[str, str]
    """Task -> its metric; a task `` stands for all runs of the project."""
    group_by: list[str]
    """Keys of the configuration: runs that agree in them are drawn as one, mean and deviation over seeds."""
    table: str
    """The comparison, as Markdown."""
    claims: str
    """Claims that these runs speak of, as Markdown."""


def describe(
    results: Results | None, verdicts: Sequence[Verdict], *, project: str | None, entity: str | None
) -> Comparison:
    """A comparison of `results`, or without any of whatever a project holds.

    Project and entity default to those that the runs were logged under. Raises ConfigError without a project.
    """
    if results is None:
        require(
            project is not None, "dashboard: name runs or a project: `harness dashboard DIR` or --project P"
        )
        assert project is not None
        keys = ["task.name", "method.name"]
        return Comparison(project, entity or "", {"": "accuracy"}, keys, table="", claims="")
    runs = tables.compared(results)
    logged = {key: runs[f"config.log.{key}"].dropna() for key in ("project", "entity") if _has(runs, key)}
    defaults = {key: str(values.iloc[0]) for key, values in logged.items() if len(values)}
    project = project or defaults.get("project")
    require(project is not None, "dashboard: these runs name no project; add --project P")
    assert project is not None
    return Comparison(
        project=project,
        entity=entity or defaults.get("entity", ""),
        metrics=dict(zip(runs["task"].astype(str), runs["metric"].astype(str), strict=True)),
        group_by=group_keys(results),
        table=tables.to_markdown(tables.comparison(results)),
        claims=claims_table(verdicts),
    )


def _has(runs: Any, key: str) -> bool:
    return f"config.log.{key}" in runs.columns


def group_keys(results: Results) -> list[str]:
    """Method, and the settings in which the runs of one task and method differ, the most telling first."""
    runs = results.runs
    told: list[str] = []
    for _, group in runs.groupby(["task", "method"], sort=False):
        variants = group.drop_duplicates("digest")
        told += tables.telling(variants, tables.differing(variants, tables.hashed_keys(runs)))
    keys = ["method.name", *(key.removeprefix("config.") for key in dict.fromkeys(told))]
    return list(dict.fromkeys(keys))[:MOST_KEYS]


def claims_table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts that were reached, as a Markdown table; empty where there are none."""
    rows = [v.row() for v in verdicts if v.outcome is not Outcome.NOT_RUN]
    cells = [[cell.replace("\n", "<br>").replace("|", "\\|") for cell in row] for row in rows]
    lines = [["claim", "expected", "found", "verdict"], ["---"] * 4, *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if cells else ""


def as_json(comparison: Comparison) -> dict[str, Any]:
    """What would be created, as W&B's own JSON: no network, no key."""
    views = {"workspace": workspace_of(comparison), "report": report_of(comparison)}
    return {
        name: view._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
        for name, view in views.items()
    }


def save(comparison: Comparison) -> list[str]:
    """Create both on W&B; returns their addresses. Raises ConfigError without a key or an answer."""
    require(
        choose_mode("auto") == "online",
        "dashboard: no W&B key found; run `wandb login`, or --out FILE to see what would be created",
    )
    _require_package()
    import wandb

    try:
        entity = comparison.entity or str(wandb.Api().default_entity)
        views = [
            build(
                comparison, entity=entity
            ).save()  # the report first: it makes the project where there is none
            for build in (report_of, workspace_of)
        ]
        return [str(view.url) for view in views]
    except Exception as error:  # whatever W&B raises: no key that it knows, no network, no such project
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(f"dashboard: W&B refused ({reason}); --out FILE writes it without W&B") from None


def workspace_of(comparison: Comparison, *, entity: str | None = None) -> Any:
    """The saved view of a project: a section for each task."""
    _require_package()
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(
            name=f"{task or 'Runs'}: {metric} against its cost", panels=panels_of(metric), is_open=True
        )
        for task, metric in comparison.metrics.items()
    ]
    return ws.Workspace(
        entity=comparison.entity if entity is None else entity,
        project=comparison.project,
        name=NAME,
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="round", max_runs=100),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config(key) for key in dict.fromkeys(["task.name", *comparison.group_by])],
            pinned_columns=columns_of(comparison),
        ),
    )


def report_of(comparison: Comparison, *, entity: str | None = None) -> Any:
    """The page: comparison, a section for each task with its runs below the panels, claims."""
    _require_package()
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    blocks: list[Any] = [wr.TableOfContents()]
    if comparison.table:
        blocks += [wr.H1("Comparison"), wr.MarkdownBlock(comparison.table)]
    for task, metric in comparison.metrics.items():
        runs = wr.Runset(
            name=task or "Runs",
            filters=[ws.Config("task.value.name") == task] if task else "",
            groupby=[f"config.{key}" for key in comparison.group_by],
            pinned_columns=columns_of(comparison),
        )
        blocks += [wr.H1(f"{task or 'Runs'}: {metric} against its cost")]
        blocks += [wr.PanelGrid(runsets=[runs], panels=panels_of(metric))]
    if comparison.claims:
        blocks += [wr.H1("Claims"), wr.MarkdownBlock(comparison.claims)]
    return wr.Report(
        entity=comparison.entity if entity is None else entity,
        project=comparison.project,
        title=NAME,
        description="Federated methods on weak devices, compared at equal cost (`harness dashboard`).",
        blocks=blocks,
        width="fluid",
    )


def panels_of(metric: str) -> list[Any]:
    """The metric against rounds and each running total, then where every run ended."""
    import wandb_workspaces.reports.v2 as wr

    def place(number: int) -> Any:
        return wr.Layout(x=8 * (number % 3), y=6 * (number // 3), w=8, h=6)

    lines = [
        wr.LinePlot(
            title=f"Test {metric} against {TITLES[axis]}",
            x=axis,
            y=[f"eval/{metric}"],
            title_x=TITLES[axis],
            smoothing_type="none",
            layout=place(number),
        )
        for number, axis in enumerate(("round", *AXES))
    ]
    ends = [
        wr.ScatterPlot(
            title=f"Last test {metric} for the {TITLES[axis]} of a run",
            x=wr.SummaryMetric(axis),
            y=wr.SummaryMetric(f"eval/{metric}"),
            layout=place(len(lines) + number),
        )
        for number, axis in enumerate(AXES)
    ]
    return [*lines, *ends]


def columns_of(comparison: Comparison) -> list[str]:
    """Columns of the table of runs: settings, state, last metrics, totals."""
    keys = dict.fromkeys(["task.name", *comparison.group_by, "run.seed"])
    settings = ["config:" + key.replace(".", ".value.", 1) for key in keys]
    metrics = [f"summary:eval/{metric}" for metric in dict.fromkeys(comparison.metrics.values())]
    return ["run:displayName", *settings, "run:state", *metrics, *(f"summary:{axis}" for axis in AXES)]


def _require_package() -> None:
    require(
        find_spec("wandb_workspaces") is not None,
        "dashboard: needs the package wandb-workspaces; pip install 'edge-fl-harness[dashboards]'",
    )
