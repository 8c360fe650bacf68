"""From YAML and `key=value` words to a checked Config.

`load` merges, in this order: defaults, a YAML file, the command line. The method's section is checked
against the method's own `Config` class, which the caller hands in, so this module knows no methods.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from harness.config import Config, MethodConfig, check, nearest, require
from harness.types import ConfigError

SHORTHANDS = {
    "task": "task.name",
    "model": "task.model",
    "partition": "partition.name",
    "scheduler": "scheduler.policy",
    "method": "method.name",
    "compression": "compression.name",
    "seed": "run.seed",
}
"""`task=digits` on the command line and in YAML means `task.name=digits`."""


def load(
    words: Sequence[str] = (),
    *,
    method_config: Callable[[str], type[MethodConfig]],
    file: Path | None = None,
    tree: Mapping[str, Any] | None = None,
) -> Config:
    """Merge defaults, `tree`, `file` and `key=value` words into a checked Config.

    Raises ConfigError, in one line, for an unknown key, a wrong type or an impossible combination.
    """
    given = _expand(dict(tree or {}))
    if file is not None:
        given = _overlay(given, _expand(_read_yaml(file)))
    for word in words:
        given = _overlay(given, _parse_word(word))
    method = given.pop("method", {})
    name = str(method.get("name", "fedavg"))
    method_cls = method_config(name)
    section = _filled(_Given.of(method_cls, {**method, "name": name}, "method."))
    cfg: Config = dataclasses.replace(_shared_sections(given), method=section)
    check(cfg)
    return cfg


@dataclass(frozen=True, slots=True)
class _Given:
    """What is given of a dataclass; equal ones are filled in once."""

    key: tuple[Any, str]
    """The dataclass, and what is given, as text: 1, 1.0 and True are equal, and not the same."""
    tree: Mapping[str, Any] = field(compare=False)
    prefix: str = field(compare=False)
    """Of its keys in messages."""

    @classmethod
    def of(cls, owner: Any, tree: Mapping[str, Any], prefix: str = "") -> "_Given":
        return cls((owner, repr(tree)), tree, prefix)


def _shared_sections(given: Mapping[str, Any]) -> Config:
    """All sections but the method's."""
    known = {f.name: f.default_factory for f in dataclasses.fields(Config)}
    if not known.keys() >= given.keys() or "${" in repr(given):
        # Only the whole tree can say what an interpolation stands for, or what an unknown section is near to.
        return cast(Config, _filled(_Given.of(Config, given)))
    found = {key: _filled(_Given.of(known[key], tree, f"{key}.")) for key, tree in given.items()}
    return Config(**found)


# Takes milliseconds, and the cells of a sweep share most of their sections.
@functools.lru_cache(maxsize=1024)
def _filled(given: _Given) -> Any:
    """An instance of the dataclass. Raises ConfigError."""
    owner, prefix = given.key[0], given.prefix
    return _to_object(_merge(_schema(owner), OmegaConf.create(dict(given.tree)), prefix), prefix)


@functools.cache
def _schema(cls: Any) -> DictConfig:
    """Names, types and defaults of a dataclass. Merging copies it; making it costs most of a load."""
    return cast(DictConfig, OmegaConf.structured(cls))


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"--config {file}: cannot be read ({error.strerror}); give a YAML file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {file}: not YAML ({' '.join(str(error).split())})") from None
    require(isinstance(tree, dict), f"--config {file}: must hold `section: {{key: value}}`, got {tree!r}")
    return cast(dict[str, Any], tree)


@functools.lru_cache(maxsize=4096)
def _parse_word(word: str) -> dict[str, Any]:
    """What a word sets; kept, since a sweep says the same words for every cell, and only read."""
    require("=" in word, f"{word!r} is not key=value; write for example run.num_rounds=10")
    try:
        tree = OmegaConf.to_container(OmegaConf.from_dotlist([word]))
    except (OmegaConfBaseException, yaml.YAMLError, IndexError, UnicodeError) as error:
        raise ConfigError(f"{word!r}: {' '.join(str(error).split())}") from None
    return _expand(cast(dict[str, Any], tree))


def _overlay(base: dict[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees, neither changed: mappings merge, any other value of `later` wins."""
    out = dict(base)
    for key, value in later.items():
        own = out.get(key)
        out[key] = _overlay(own, value) if isinstance(own, dict) and isinstance(value, dict) else value
    return out


def _expand(tree: dict[str, Any]) -> dict[str, Any]:
    """Replace shorthands (`task: digits`) by the sections they stand for."""
    out: dict[str, Any] = {}
    sections = {f.name for f in dataclasses.fields(Config)}
    for key, value in tree.items():
        if key in sections and value is None:
            continue  # a section without keys, in YAML
        if key in SHORTHANDS and not isinstance(value, dict):
            section, leaf = SHORTHANDS[key].split(".")
            out.setdefault(section, {})[leaf] = value
        elif isinstance(value, dict):
            out.setdefault(key, {}).update(value)
        else:
            require(key not in sections, f"{key}: a section; write {key}.<key>=<value>, got {value!r}")
            out[key] = value
    return out


def _merge(base: DictConfig, given: DictConfig, prefix: str = "") -> DictConfig:
    try:
        return cast(DictConfig, OmegaConf.merge(base, given))
    except ConfigKeyError as error:
        key = str(error.key)
        owner = error.object_type if dataclasses.is_dataclass(error.object_type) else None
        names = [f.name for f in dataclasses.fields(owner)] if owner else []
        raise ConfigError(f"{prefix}{error.full_key}: unknown key{nearest(key, names)}") from None
    except OmegaConfBaseException as error:
        raise _one_line(error, prefix) from None
    except TypeError:  # OmegaConf names no key where a mapping meets a list
        for name in map(str, given):
            own, value = base[name], given[name]
            if isinstance(own, DictConfig) and isinstance(value, DictConfig):
                _merge(own, value, f"{prefix}{name}.")
            elif isinstance(value, DictConfig | ListConfig):
                require(isinstance(value, type(own)), f"{prefix}{name}: of the wrong kind, got {value}")
        raise


def _to_object(tree: DictConfig, prefix: str = "") -> Any:
    try:
        return OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere
        raise _one_line(error, prefix) from None


def _one_line(error: OmegaConfBaseException, prefix: str) -> ConfigError:
    reason = " ".join(str(error).split("full_key:")[0].split())
    at = f"{prefix}{error.full_key}".removesuffix(".")
    return ConfigError(f"{at}: {reason}" if at else reason)
