"""The section `search` of a sweep: which keys to look through, for what, with how many trials.

    search:
      method: optuna            # or random
      num_trials: 30
      metric: val/accuracy      # of val, never of test; default: the task's own
      scheduler: asha           # gives up trials that lag behind; or none
      space:
        method.lr: {log_uniform: [0.001, 1]}
        method.local_epochs: {integer: [1, 5]}
        method.optimizer: {choice: [sgd, adam]}

Every trial runs the seeds of the grid's `run.seed`; what else the grid and the variants hold must come down
to one value (`--set variant=NAME`). A scale may change single keys (`scales: {smoke: {search: {num_trials:
2}}}`), and so may words (`--set search.num_trials=5`).
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from harness.config import nearest, require
from harness.data.tasks import load_task
from harness.run.files import LineLog, read_lines
from harness.run.sweep import SEARCH, VARIANT, Cell, expand, read_sections
from harness.run.sweep_run import check
from harness.run.sweep_trial import Goal, Trial
from harness.types import ConfigError

KINDS: Final = ("log_uniform", "uniform", "integer", "choice")
CHOICES: Final = {"method": ("random", "optuna"), "mode": ("max", "min"), "scheduler": ("asha", "none")}


@dataclass(frozen=True, slots=True)
class Range:
    """Values that one key may take."""

    kind: str
    """One of KINDS."""
    values: tuple[Any, ...]
    """Both ends, or the choices."""

    def holds(self, value: object) -> bool:
        """Whether it may take this one."""
        if self.kind == "choice":
            return value in self.values
        low, high = self.values
        whole = self.kind != "integer" or isinstance(value, int)
        return isinstance(value, int | float) and whole and low <= value <= high


@dataclass(frozen=True, slots=True)
class Settings:
    """The keys of the section."""

    method: str = "optuna"
    """random, or optuna's tree-structured Parzen estimator."""
    num_trials: int = 20
    metric: str = ""
    """Default val/<metric of the task>."""
    mode: str = "max"
    scheduler: str = "asha"
    """asha: asynchronous successive halving (Li et al., MLSys 2020); or none."""
    grace: int = 1
    """Rounds that every trial gets at least."""
    reduction: float = 3.0
    """One of so many trials goes on from each rung, so many times longer than to the one before."""
    seed: int = 0
    """Of the suggestions."""
    space: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Search:
    """A search, checked."""

    file: Path
    scale: str | None
    words: tuple[str, ...]
    settings: Settings
    space: Mapping[str, Range]
    goal: Goal
    base: tuple[Cell, ...]
    """One run for each seed, at the values that the file gives the searched keys."""

    def trial(self, number: int, params: Mapping[str, object]) -> Trial:
        """A candidate as runs. Raises ConfigError for values that no run can have."""
        cells = expand(self.file, scale=self.scale, words=[*self.words, *map(_word, params.items())])
        told = [f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
                for key, value in params.items()]  # fmt: skip
        return Trial(number, " ".join(told), tuple(cells))

    def corners(self) -> list[Trial]:
        """Candidates that between them hold both ends of every range and every choice."""
        most = max(2, *(len(values.values) for values in self.space.values()))
        return [
            self.trial(0, {key: r.values[min(i, len(r.values) - 1)] for key, r in self.space.items()})
            for i in range(most)
        ]

    @property
    def trials_file(self) -> Path:
        """One line a trial: its values, in order of start. What became of it lies with its runs."""
        cfg = self.base[0].cfg
        name = next(tag for tag in cfg.log.tags if tag.startswith("sweep:")).removeprefix("sweep:")
        scale = f".{self.scale}" if self.scale else ""
        return Path(cfg.run.results_dir) / f"{name}{scale}.trials.jsonl"

    def known(self) -> list[dict[str, Any]]:
        """Values of the trials started before. Raises ConfigError where they are of another space."""
        found = [dict(line["params"]) for line in read_lines(self.trials_file)]  # type: ignore[call-overload]
        for params in found:
            fits = params.keys() == self.space.keys() and all(
                self.space[key].holds(value) for key, value in params.items()
            )
            require(
                fits,
                f"{self.trials_file}: holds trials of another space ({params}); search into another "
                "run.results_dir, or delete this file",
            )
        return found

    def note(self, number: int, params: Mapping[str, object]) -> None:
        """Write down a trial that starts."""
        self.trials_file.parent.mkdir(parents=True, exist_ok=True)
        log = LineLog(self.trials_file)
        log.append({"trial": number, "params": dict(params)})  # type: ignore[dict-item]
        log.sync()
        log.close()


def read_search(file: Path, *, scale: str | None = None, words: Sequence[str] = ()) -> Search | None:
    """The search of a sweep, or None where the file has no such section.

    Raises ConfigError naming file and key: an unknown key, a range that is none, a metric of the test split.
    """
    sections = read_sections(file)
    told = [word.removeprefix(f"{SEARCH}.") for word in words if word.startswith(f"{SEARCH}.")]
    if not sections[SEARCH]:
        require(not told, f"{file}: has no section search, got search.{told[0] if told else ''}")
        return None
    given = dict(sections[SEARCH])
    over = (sections["scales"].get(scale) or {}).get(SEARCH) or {}
    require(isinstance(over, dict), f"{file}: scales.{scale}.search: must hold `key: value`, got {over!r}")
    given |= over
    for word in told:
        key, _, value = word.partition("=")
        given[key] = yaml.safe_load(value)
    settings = _settings(given, file=file)
    rest = tuple(word for word in words if not word.startswith(f"{SEARCH}."))
    base = expand(file, scale=scale, words=rest)
    _check_one(base, file=file)
    metric = settings.metric or f"val/{load_task(base[0].cfg.task).metric}"
    require(
        metric.startswith("val/"),
        f"{file}: search.metric must start with val/, got {metric!r}: tuning never reads the test split",
    )
    space = {str(key): _range(value, f"{file}: search.space.{key}") for key, value in settings.space.items()}
    goal = Goal(metric, "max" if settings.mode == "max" else "min")
    search = Search(file, scale, rest, settings, space, goal, tuple(base))
    check([cell for trial in search.corners() for cell in trial.cells])
    return search


def _settings(given: Mapping[str, Any], *, file: Path) -> Settings:
    names = [f.name for f in dataclasses.fields(Settings)]
    for key, value in given.items():
        require(key in names, f"{file}: search.{key}: unknown key{nearest(str(key), names)}")
        default = getattr(Settings(), key) if key != "space" else {}
        kind = (int, float) if isinstance(default, float) else type(default)
        require(
            isinstance(value, kind) and not isinstance(value, bool),
            f"{file}: search.{key}: must be like {default!r}, got {value!r}",
        )
    settings = Settings(**given)
    for key, words in CHOICES.items():
        word = getattr(settings, key)
        require(word in words, f"{file}: search.{key}: unknown value {word!r}{nearest(word, words)}")
    for key, least in (("num_trials", 1), ("grace", 1), ("seed", 0)):
        value = getattr(settings, key)
        require(value >= least, f"{file}: search.{key} must be >= {least}, got {value}")
    require(settings.reduction > 1, f"{file}: search.reduction must be > 1, got {settings.reduction}")
    require(
        len(settings.space) > 0, f"{file}: search.space: names no key; e.g. method.lr: {{uniform: [0, 1]}}"
    )
    require("run.seed" not in settings.space and "seed" not in settings.space,
            f"{file}: search.space: a seed is not searched; give grid.run.seed a list")  # fmt: skip
    return settings


def _range(value: object, where: str) -> Range:
    require(
        isinstance(value, dict) and len(value) == 1,
        f"{where}: must be {{kind: [...]}} with one kind of {', '.join(KINDS)}, got {value!r}",
    )
    assert isinstance(value, dict)
    ((kind, values),) = value.items()
    require(kind in KINDS, f"{where}: unknown kind {kind!r}{nearest(str(kind), KINDS)}")
    require(isinstance(values, list) and len(values) > 0, f"{where}.{kind}: must be a list, got {values!r}")
    if kind == "choice":
        plain = all(isinstance(v, str | int | float) for v in values) and len(set(values)) == len(values)
        require(plain, f"{where}.choice: must hold different plain values, got {values}")
        return Range(kind, tuple(values))
    try:
        low, high = map(float, values)
    except (TypeError, ValueError):
        raise ConfigError(f"{where}.{kind}: must be [low, high], got {values}") from None
    require(low < high, f"{where}.{kind}: low must be < high, got {values}")
    require(kind != "log_uniform" or low > 0, f"{where}.{kind}: low must be > 0, got {values}")
    if kind == "integer":
        require(low.is_integer() and high.is_integer(), f"{where}.{kind}: must be whole, got {values}")
        return Range(kind, (int(low), int(high)))
    return Range(kind, (low, high))


def _check_one(cells: Sequence[Cell], *, file: Path) -> None:
    """Raise ConfigError unless the cells differ in their seed alone."""
    first = cells[0].settings
    for key in first:
        if key != "run.seed" and len(values := {repr(cell.settings[key]) for cell in cells}) > 1:
            many = ", ".join(sorted(value.strip("'") for value in values))
            what = "variant" if key == VARIANT else key
            raise ConfigError(f"{file}: a search takes one {what}, got {many}; choose with --set {what}=...")


def _word(item: tuple[str, object]) -> str:
    key, value = item
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"
