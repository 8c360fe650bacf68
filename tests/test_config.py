"""The configuration: every key reachable, every mistake one line, one hash per result."""

import ast
import dataclasses
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import attrgetter, getitem
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import config, loading
from harness.config import CHOICES, Config, MethodConfig, as_dict, nearest
from harness.run.method import load_method, method_config, method_names
from harness.types import ConfigError


@dataclass(frozen=True, slots=True)
class OddConfig(MethodConfig):
    """A method with a key of every kind."""

    rate: float = 0.1
    steps: int = 3
    deep: bool = False
    word: str = "a"
    maybe: int | None = None
    widths: list[float] = field(default_factory=list)
    share: dict[str, float] = field(default_factory=dict)


def load(*words: str, **keys: Any) -> Config:
    return loading.load(words, method_config=lambda name: OddConfig, **keys)


def mistake(*words: str, **keys: Any) -> str:
    """The one line that a user reads."""
    with pytest.raises(ConfigError) as caught:
        load(*words, **keys)
    line = str(caught.value)
    assert "\n" not in line
    return line


# --- every key

OTHER = {
    "bool": lambda old: str(not old).lower(),
    "int": lambda old: str((old or 1) + 1),
    "float": lambda old: str((old or 0.0) / 2 + 0.125),
    "str": lambda old: "something",
    "list[str]": lambda old: "[a, b]",
    "list[float]": lambda old: "[0.5, 1]",
    "list[int]": lambda old: "[2, 3]",
    "list[list[int]]": lambda old: "[[1, 2], [3, 4]]",
    "dict[str, list[int]]": lambda old: "{thin: [1, 2]}",
    "dict[str, str]": lambda old: "{blur: mlp}",
    "dict[str, float]": lambda old: "{phone: 1, laptop: 2.5}",
    "dict[str, Any]": lambda old: "{a: 1, b: [x, y]}",
}
"""Type -> another value than the one given, as it is written on a command line."""


def leaves() -> Iterator[tuple[str, str, Any]]:
    """Path, type and default of every key."""

    def below(holder: Any, prefix: str) -> Iterator[tuple[str, str, Any]]:
        for leaf in dataclasses.fields(holder):
            value, path = getattr(holder, leaf.name), f"{prefix}.{leaf.name}"
            kind = leaf.type if isinstance(leaf.type, str) else inspect.formatannotation(leaf.type)
            if dataclasses.is_dataclass(value):
                yield from below(value, path)
            else:
                yield path, kind.replace(" | None", "").replace("typing.", ""), value

    defaults = load()
    for section in dataclasses.fields(Config):
        yield from below(getattr(defaults, section.name), section.name)


LEAVES = list(leaves())
PATHS = [path for path, _, _ in LEAVES]


def other_value(path: str, kind: str, default: Any) -> str:
    if path in CHOICES:
        return next(word for word in CHOICES[path] if word != default)
    return OTHER[kind](default)


FREE = {
    *(path for path in PATHS if path.startswith("log.")),
    "run.seed",
    "run.resume",
    "run.force",
    "run.results_dir",
    "run.checkpoint_every",
    "runtime.transport",
    "runtime.address",
    "runtime.min_actors",
    "runtime.max_actors",
    "runtime.clients_per_actor",
    "runtime.gpus_per_actor",
    "runtime.server_gpus",
    "runtime.exact_meter",
    "runtime.max_retries",
    "runtime.state_dir",
    # Without a compressor; with one they are in the hash: tests/exchange/test_compression.py.
    *(path for path in PATHS if path.startswith("compression.") and path != "compression.name"),
}
"""Keys that must not change a bit, and therefore not the hash."""
DEFAULTS = load()


@pytest.mark.parametrize(("path", "kind", "default"), LEAVES, ids=PATHS)
def test_every_key_is_reached_and_is_in_the_hash_if_it_may_change_a_result(
    path: str, kind: str, default: Any
) -> None:
    word = other_value(path, kind, default)
    cfg = load(f"{path}={word}")
    assert attrgetter(path)(cfg) == yaml.safe_load(word) != default
    assert (cfg.digest == DEFAULTS.digest) is (path in FREE)
    # Nothing else moved.
    *sections, key = path.split(".")
    tree, defaults = as_dict(cfg), as_dict(DEFAULTS)
    inner, same = (reduce(getitem, sections, whole) for whole in (tree, defaults))
    del inner[key], same[key]
    assert tree == defaults


def test_what_decides_the_bits_is_in_the_hash() -> None:
    decisive = {"run.precision", "runtime.client_threads", "runtime.server_threads", "runtime.accelerator"}
    assert decisive | {"runtime.channels_last", "method.rate", "run.num_rounds"} <= set(PATHS) - FREE


def test_words_yaml_and_trees_say_the_same(tmp_path: Path) -> None:
    words = {path: other_value(path, kind, default) for path, kind, default in LEAVES}
    tree: dict[str, Any] = {}
    for path, word in words.items():
        *sections, key = path.split(".")
        reduce(lambda inner, name: inner.setdefault(name, {}), sections, tree)[key] = yaml.safe_load(word)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(tree))
    cfg = load(*(f"{path}={word}" for path, word in words.items()))
    assert cfg == load(file=file) == load(tree=tree)
    assert as_dict(cfg) == tree


def test_every_key_of_the_sections_is_documented() -> None:
    tree = ast.parse(inspect.getsource(config))
    for node in (n for n in tree.body if isinstance(n, ast.ClassDef)):
        for this, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(this, ast.AnnAssign) and node.name != "Config":
                assert isinstance(after, ast.Expr), f"{node.name}.{ast.unparse(this.target)} has no doc line"


@pytest.mark.parametrize("name", method_names())
def test_every_key_of_every_method_is_reached(name: str) -> None:
    cls = load_method(name).Config
    for leaf in dataclasses.fields(cls):
        if leaf.name == "name":
            continue
        default = leaf.default if leaf.default is not dataclasses.MISSING else leaf.default_factory()  # type: ignore[misc]
        kind = leaf.type if isinstance(leaf.type, str) else inspect.formatannotation(leaf.type)
        word = OTHER[kind.replace(" | None", "").replace("typing.", "")](default)
        cfg = loading.load([f"method={name}", f"method.{leaf.name}={word}"], method_config=method_config)
        assert type(cfg.method) is cls
        assert getattr(cfg.method, leaf.name) == yaml.safe_load(word) != default


def test_the_resolved_configuration_loads_to_itself() -> None:
    cfg = load("task=synthetic", "fleet.profiles={phone: 1}", "method.widths=[0.5]", "run.seed=3")
    tree = yaml.safe_load(yaml.safe_dump(as_dict(cfg)))
    assert load(tree=tree) == cfg
    assert load(tree=tree).run_id == cfg.run_id


def test_it_is_frozen_and_plain() -> None:
    cfg = load("method.widths=[0.5]", "fleet.profiles={phone: 1}")
    assert type(cfg.method.widths) is list
    assert type(cfg.fleet.profiles) is dict
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.run.seed = 1  # type: ignore[misc]


# --- precedence and shorthands


def test_words_win_over_the_file_and_the_file_over_the_tree(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("run: {num_rounds: 2, seed: 2, eval_every: 2}\n")
    tree = {"run": {"num_rounds": 1, "seed": 1, "eval_every": 1, "checkpoint_every": 5}}
    cfg = load("run.num_rounds=3", "run.seed=4", "run.seed=5", file=file, tree=tree)
    assert (cfg.run.num_rounds, cfg.run.seed, cfg.run.eval_every, cfg.run.checkpoint_every) == (3, 5, 2, 5)


SHORT = {
    "task": ("task.name", "synthetic"),
    "model": ("task.model", "mlp"),
    "partition": ("partition.name", "shards"),
    "scheduler": ("scheduler.policy", "other"),
    "method": ("method.name", "odd"),
    "seed": ("run.seed", "7"),
}


@pytest.mark.parametrize("short", SHORT)
def test_shorthands(short: str, tmp_path: Path) -> None:
    path, value = SHORT[short]
    file = tmp_path / "run.yaml"
    file.write_text(f"{short}: {value}\n")
    assert load(f"{short}={value}") == load(f"{path}={value}") == load(file=file) != DEFAULTS


def test_a_shorthand_and_keys_of_its_section_live_together() -> None:
    cfg = load("task=synthetic", "task.limit_train=5", tree={"task": "digits", "model": "mlp"})
    assert (cfg.task.name, cfg.task.model, cfg.task.limit_train) == ("synthetic", "mlp", 5)


def test_the_method_section_is_the_methods_own() -> None:
    asked = []

    def method_config(name: str) -> type[MethodConfig]:
        asked.append(name)
        return OddConfig

    cfg = loading.load(["method=odd", "method.rate=1e-3"], method_config=method_config)
    assert asked == ["odd"]
    assert cfg.method == OddConfig(name="odd", rate=1e-3)
    loading.load([], method_config=method_config)
    assert asked == ["odd", "fedavg"]


def test_an_empty_section_in_yaml_is_no_section(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("task:\nrun:\nmethod:\n")
    assert load(file=file) == DEFAULTS


# --- mistakes


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["rum.seed=1"], "rum: unknown key; did you mean run?"),
        (["run.num_round=1"], "run.num_round: unknown key; did you mean num_rounds?"),
        (["method.rat=1"], "method.rat: unknown key; did you mean rate?"),
        (["tsk=digits"], "tsk: unknown key; did you mean task?"),
        (["run.seed=x"], "run.seed: Value 'x' of type 'str' could not be converted to Integer"),
        (["seed=1.5"], "run.seed: Value '1.5' of type 'float' could not be converted to Integer"),
        (["run.seed=null"], "run.seed: Incompatible value 'None' for field of type 'int'"),
        (["method.rate=fast"], "method.rate: Value 'fast' of type 'str' could not be converted to Float"),
        (["method.share={a: b}"], "method.share.a: Value 'b' of type 'str' could not be converted to Float"),
        (["task.augment={a: 1}"], "task.augment: of the wrong kind, got {'a': 1}"),
        (["log.tags={a: 1}", "method.rate=1"], "log.tags: of the wrong kind, got {'a': 1}"),
        (["fleet.profiles=[phone]"], "fleet.profiles: of the wrong kind, got ['phone']"),
        (["method.widths={a: 1}"], "method.widths: of the wrong kind, got {'a': 1}"),
        (["log.tags=[a]", "log.tags={a: 1}"], "log.tags: of the wrong kind, got {'a': 1}"),
        (["run=3"], "run: a section; write run.<key>=<value>, got 3"),
        (["num_rounds"], "'num_rounds' is not key=value; write for example run.num_rounds=10"),
        (["task.path=${nowhere}"], "task.path: Interpolation key 'nowhere' not found"),
        (["method.word=${nowhere}"], "method.word: Interpolation key 'nowhere' not found"),
        (
            ["scheduler.cohort_size=12"],
            "scheduler.cohort_size must be <= partition.num_clients, got 12 > 10",
        ),
        (
            ["runtime.min_actors=3", "runtime.max_actors=2"],
            "runtime.min_actors must be <= runtime.max_actors, got 3 > 2",
        ),
        (["task.val_fraction=1"], "task.val_fraction must be in (0, 1), got 1.0"),
        (["task.val_fraction=nan"], "task.val_fraction must be in (0, 1), got nan"),
        (["scheduler.failure_probability=1.1"], "scheduler.failure_probability must be in [0, 1], got 1.1"),
        (["scheduler.deadline_s=0"], "scheduler.deadline_s must be > 0, got 0.0"),
        (["run.seed=-1"], "run.seed must be >= 0, got -1"),
        (["run.num_rounds=0"], "run.num_rounds must be >= 1, got 0"),
        (["partition.num_clients=0"], "partition.num_clients must be >= 1, got 0"),
        (["partition.min_examples=0"], "partition.min_examples must be >= 1, got 0"),
        (["runtime.client_threads=0"], "runtime.client_threads must be >= 1, got 0"),
        (["runtime.gpus_per_actor=-0.5"], "runtime.gpus_per_actor must be >= 0, got -0.5"),
        (["runtime.transport=rai"], "runtime.transport: unknown value 'rai'; did you mean ray?"),
        (
            ["run.precision=8"],
            "run.precision: unknown value '8'; choose one of 32-true, bf16-mixed",
        ),
        (
            ["fleet.profiles={phone: -1, laptop: 2}"],
            "fleet.profiles must hold shares >= 0 with a positive sum, got {'phone': -1.0, 'laptop': 2.0}",
        ),
        (
            ["fleet.profiles={phone: 0}"],
            "fleet.profiles must hold shares >= 0 with a positive sum, got {'phone': 0.0}",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_one_line_with_the_key_path(words: list[str], line: str) -> None:
    assert mistake(*words) == line


@pytest.mark.parametrize("word", ["[=3", "run.seed=[", "run.seed={a", "=3", "a.b.c=3", "run..seed=3"])
def test_words_that_are_no_words(word: str) -> None:
    assert mistake(word)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (None, "--config {file}: cannot be read (No such file or directory); give a YAML file"),
        ("run: [", "--config {file}: not YAML (while parsing"),
        ("- a\n- b\n", "--config {file}: must hold `section: {{key: value}}`, got ['a', 'b']"),
        ("", "--config {file}: must hold"),
        ("run: {sed: 1}\n", "run.sed: unknown key; did you mean seed?"),
        ("method: {rat: 1}\n", "method.rat: unknown key; did you mean rate?"),
    ],
)
def test_mistakes_in_a_file(text: str | None, start: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    assert mistake(file=file).startswith(start.format(file=file))


@settings(max_examples=50)
@given(st.text(st.characters(exclude_characters="\n"), max_size=30))
def test_no_word_at_all_shows_a_traceback(word: str) -> None:
    assert "\n" not in (outcome(word) or "")


@settings(max_examples=50)
@given(path=st.sampled_from(PATHS), value=st.text("0123456789.-+eE[]{},: $\"'truefalsn", max_size=12))
def test_no_value_at_all_shows_a_traceback(path: str, value: str) -> None:
    assert "\n" not in (outcome(f"{path}={value}") or "")


def outcome(word: str) -> str | None:
    """The user's line, or None where the word is fine."""
    try:
        load(word)
    except ConfigError as error:
        return str(error)
    return None


def test_names_near_and_far() -> None:
    assert nearest("unifrom", ["uniform", "rotation"]) == "; did you mean uniform?"
    assert nearest("zzz", ["b", "a"]) == "; choose one of a, b"


# --- run_id


def test_a_run_id_reads_method_task_hash_seed() -> None:
    cfg = load("method=odd", "task=synthetic", "seed=12")
    assert cfg.run_id == f"odd-synthetic-{cfg.digest}-12"
    assert len(cfg.digest) == 8
    own = load("method=my.package:Fancy", "task=my.tasks:Digits")
    assert own.run_id == f"fancy-digits-{own.digest}-0"


def test_one_configuration_has_one_run_id_however_it_is_written(tmp_path: Path) -> None:
    words = ["method=odd", "task=synthetic", "fleet.profiles={phone: 1, laptop: 2}", "method.rate=0.001"]
    file = tmp_path / "run.yaml"
    file.write_text(
        "method: {rate: 1e-3, name: odd}\n"
        "fleet: {profiles: {laptop: 2.0, phone: 1.0}}\n"
        "task: {name: synthetic}\n"
    )
    assert load(*words).run_id == load(*reversed(words)).run_id == load(file=file).run_id
    assert load(*words, "seed=0", "method.steps=3").run_id == load(*words).run_id


def test_the_hash_is_the_same_in_every_process() -> None:
    words = ["fleet.profiles={phone: 1, laptop: 2}", "task.options={b: 1, a: [x]}"]
    code = (
        "from harness import config, loading;"
        "print(loading.load(%r, method_config=lambda n: config.MethodConfig).digest)"
    )
    here = loading.load(words, method_config=lambda name: MethodConfig).digest
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code % words],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == here
