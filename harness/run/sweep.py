"""A sweep: one YAML of base, variants, grid and scales -> checked configurations.

    name: demo
    base: {task: digits, run: {num_rounds: 20}}              # what all cells share; sections or dotted keys
    variants: {fedavg: {method: fedavg}, fedprox: {method: fedprox, method.mu: 0.1}}
    grid: {partition: [iid, dirichlet], run.seed: [0, 1]}    # crossed with each other and with the variants
    scales: {smoke: {run.num_rounds: 2, run.seed: [0]}}      # win over base, variants and grid

Later ones win: base, variant, scale, the scale's own `variants: {fedavg: {...}}`, grid, `--set` words. A
scale or a word replaces the list of a grid key; `variant` is such a key too. A section `search` looks for
good values of further keys (harness/run/sweep_search.py), `printed` is what a paper reports
(harness/report/printed.py).
"""

import copy
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

import yaml

from harness import loading
from harness.config import Config, nearest, require
from harness.loading import SHORTHANDS
from harness.run.method import method_config
from harness.types import ConfigError

SECTIONS: Final = ("name", "description", "base", "variants", "grid", "scales", "search", "printed")
SCALES: Final = ("smoke", "small", "paper")
"""Does it work at all; does it show the effect; the numbers that a paper reports."""
VARIANT: Final = "variant"
SEARCH: Final = "search"

Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep."""

    cfg: Config
    """Checked."""
    label: str
    """The settings that vary within the sweep."""
    settings: Mapping[str, object]
    """Value of every grid key, and of `variant` where the sweep has some."""


def expand(file: Path, *, scale: str | None = None, words: Sequence[str] = ()) -> list[Cell]:
    """Every cell of the sweep in `file`, in the order they run: variants outermost, last grid key innermost.

    `scale` is one of the file's scales; without one, base and grid are taken as they stand. `words` are
    `key=value` settings for all cells. Cells resume where they were interrupted. Raises ConfigError naming
    the file, and the cell where one is to blame.
    """
    sections = read_sections(file)
    scales = sections["scales"]
    if scale is not None and scale not in scales:
        known = f"; it has {', '.join(scales)}" if scales else "; it has none"
        raise ConfigError(f"{file}: no scale {scale!r}{known}")
    overrides = {} if scale is None else dict(scales[scale] or {})
    scaled = overrides.pop("variants", None) or {}
    overrides.pop(SEARCH, None)
    words = [word for word in words if not word.startswith(f"{SEARCH}.")]
    axes, fixed = _axes(sections, overrides, words, file=file)
    told = [key for key, values in axes.items() if len(values) > 1]
    name = str(sections["name"] or file.stem)
    cells = []
    loaded: dict[str, Config] = {}
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        label = " ".join(_setting(key, settings[key]) for key in told) or name
        tree = _tree(sections, overrides, settings, scaled=scaled)
        seed = settings.get("run.seed")
        # Loading takes 20 ms; cells that differ in their seed alone are loaded once.
        key = repr({**settings, "run.seed": 0 if _is_seed(seed) else seed})
        try:
            cfg = loaded.get(key) or loading.load(fixed, method_config=method_config, tree=tree)
        except ConfigError as error:
            raise ConfigError(f"{file}, cell {label}: {error}") from None
        loaded[key] = cfg
        if _is_seed(seed):
            cfg = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, seed=seed))
        cells.append(Cell(_marked(cfg, sweep=name, scale=scale), label, settings))
    _check_distinct(cells, file=file)
    return cells


def read_sections(file: Path) -> Tree:
    """The file's sections, each present and of the right kind. Raises ConfigError naming file and section."""
    try:
        found = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); give a sweep's YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    require(isinstance(found, dict), f"{file}: must hold {', '.join(SECTIONS)}, got {type(found).__name__}")
    for key in found:
        require(key in SECTIONS, f"{file}: unknown section {key!r}{nearest(str(key), SECTIONS)}")
    sections: Tree = {key: found.get(key) for key in SECTIONS}
    for key in ("base", "variants", "grid", "scales", "search"):
        sections[key] = _mapping(sections[key], f"{file}: {key}")
    for part in ("variants", "scales"):
        for key, value in sections[part].items():
            sections[part][key] = _mapping(value, f"{file}: {part}.{key}")
    for key in sections["scales"]:
        require(key in SCALES, f"{file}: scales.{key}: unknown scale{nearest(key, SCALES)}")
        where, known = f"{file}: scales.{key}.variants", list(sections["variants"])
        for name, value in _mapping(sections["scales"][key].get("variants"), where).items():
            require(name in known, f"{where}: unknown variant {name!r}{nearest(str(name), known)}")
            _mapping(value, f"{where}.{name}")
    return sections


def _axes(
    sections: Tree, overrides: Tree, words: Sequence[str], *, file: Path
) -> tuple[dict[str, list[Any]], list[str]]:
    """What is crossed, and the words that go to every cell. Takes the axes' lists out of `overrides`."""
    axes: dict[str, Any] = {VARIANT: list(sections["variants"])} if sections["variants"] else {}
    axes |= {SHORTHANDS.get(key, key): values for key, values in sections["grid"].items()}
    for key in list(overrides):
        if SHORTHANDS.get(key, key) in axes:
            axes[SHORTHANDS.get(key, key)] = overrides.pop(key)
    fixed = []
    for word in words:
        key, _, value = word.partition("=")
        if (axis := SHORTHANDS.get(key, key)) in axes:
            axes[axis] = yaml.safe_load(value)
        else:
            fixed.append(word)
    for key, values in axes.items():
        axes[key] = values if isinstance(values, list) else [values]
        require(len(axes[key]) > 0, f"{file}: {key} has no values; give a list of at least one")
    for name in axes.get(VARIANT, []):
        known = list(sections["variants"])
        require(name in known, f"{file}: unknown variant {name!r}{nearest(str(name), known)}")
    return axes, fixed


def _tree(sections: Tree, overrides: Tree, settings: Mapping[str, object], *, scaled: Tree) -> Tree:
    """The configuration tree of one cell; `scaled` is what its scale changes in single variants."""
    variant = settings.get(VARIANT)
    layers = [
        sections["base"],
        sections["variants"][variant] if variant is not None else {},
        overrides,
        scaled.get(str(variant)) or {},
        {key: value for key, value in settings.items() if key != VARIANT},
    ]
    tree: Tree = {}
    for layer in layers:
        for key, value in layer.items():
            _put(tree, str(key), copy.deepcopy(value))
    return tree


def _put(tree: Tree, key: str, value: object) -> None:
    """Set a dotted key. A section merges, whatever lies below one (a table of profiles, say) is replaced."""
    if isinstance(value, dict) and "." not in key:
        for inner, leaf in value.items():
            _put(tree, f"{key}.{inner}", leaf)
        return
    *path, last = SHORTHANDS.get(key, key).split(".")
    for part in path:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            below = tree[part] = {}
        tree = below
    tree[last] = value


def _is_seed(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _marked(cfg: Config, *, sweep: str, scale: str | None) -> Config:
    """Tagged for W&B, and set to go on where it was interrupted; neither is part of a run's id."""
    tags = dict.fromkeys([*cfg.log.tags, f"sweep:{sweep}", f"scale:{scale or 'default'}"])
    return dataclasses.replace(
        cfg,
        log=dataclasses.replace(cfg.log, tags=list(tags)),
        run=dataclasses.replace(cfg.run, resume=not cfg.run.force),
    )


def _check_distinct(cells: Sequence[Cell], *, file: Path) -> None:
    seen: dict[str, str] = {}
    for cell in cells:
        other = seen.setdefault(cell.cfg.run_id, cell.label)
        if other is not cell.label:
            raise ConfigError(f"{file}: cells {other} and {cell.label} are one run, {cell.cfg.run_id}")


def _setting(key: str, value: object) -> str:
    short = {path: word for word, path in SHORTHANDS.items()}.get(key, key)
    return str(value) if key == VARIANT else f"{short}={value}"


def _mapping(value: object, what: str) -> Tree:
    require(value is None or isinstance(value, dict), f"{what}: must hold `key: value` lines, got {value!r}")
    return dict(value) if isinstance(value, dict) else {}
