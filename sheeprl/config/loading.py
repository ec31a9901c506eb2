"""Read configuration files, apply settings on top and validate the result."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sheeprl.algos import registry
from sheeprl.algos.args import AlgoArgs
from sheeprl.config import peer_algorithms
from sheeprl.config.bases import FileTree, locate, read_file
from sheeprl.config.schema import Config, Tree, config_class
from sheeprl.config.suggestions import describe_error, nearest, nearest_names, shown
from sheeprl.config.yaml_io import parse_value
from sheeprl.utils.errors import ConfigError


def shipped_folder() -> Path:
    """Return the folder of the shipped configurations, in the wheel or in the checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str) -> Path:
    """Return the file of a configuration, given its path or the name of a shipped configuration.

    Raises:
        ConfigError: the file doesn't exist.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = {file.stem: file for file in sorted(shipped_folder().glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    kind = "is a folder, not a file" if path.is_dir() else "isn't a file"
    if use := peer_algorithms.find(name, [*shipped, *registry.registered()]):
        raise ConfigError([f"{name}: {kind} or a shipped configuration; use sheeprl train {use}"])
    hint = nearest_names(path.stem, shipped, "sheeprl configs")
    raise ConfigError([f"{name}: {kind} or a shipped configuration{hint}"])


def presets() -> dict[str, Path]:
    """Return the files of the presets, which only bases of a configuration can be, by name."""
    return {file.stem: file for file in sorted((shipped_folder() / "presets").glob("*.yaml"))}


def find_base(name: str, file: Path) -> Path:
    """Return the file that `base` names: a shipped configuration, a preset, or a path.

    Args:
        name: the name; with a suffix or a slash it is a path.
        file: the file that contains it, which relative paths start from.

    Raises:
        ConfigError: the file doesn't exist.
    """
    if "/" in name or os.sep in name or Path(name).suffix in (".yaml", ".yml"):
        path = file.parent / Path(name).expanduser()
        if path.is_file():
            return path
        raise ConfigError([f"{path} isn't a file; paths are relative to the folder of this file"])
    known = {path.stem: path for path in sorted(shipped_folder().glob("*.yaml"))} | presets()
    if name in known:
        return known[name]
    hint = nearest(name, known)
    advice = hint or "; use a name of sheeprl configs, or a path such as ./mine.yaml"
    raise ConfigError([f"isn't a shipped configuration or a preset ({', '.join(presets())}){advice}"])


def read_tree(name: str) -> FileTree:
    """Return the unvalidated tree of a configuration file, on top of the files that it is based on.

    Raises:
        ConfigError: the file or one of its bases doesn't exist, isn't YAML, or isn't a mapping.
    """
    return read_file(find_config(name), find_base)


def set_value(tree: Tree, key: str, value: Any) -> None:
    """Set the value of a dotted key, and create missing sections.

    Raises:
        ConfigError: a part of the key isn't a section.
    """
    if isinstance(tree, FileTree):
        tree.replace(key)
    *sections, leaf = key.split(".")
    for depth, section in enumerate(sections, 1):
        below = tree.get(section)
        if below is None:
            below = tree[section] = {}
        if not isinstance(below, dict):
            path = ".".join(sections[:depth])
            raise ConfigError([f"{path}={shown(below)}: must be a section of settings to contain {key}"])
        tree = below
    tree[leaf] = value


def get_value(tree: Tree, key: str) -> Any:
    """Return the value of a dotted key, None if it isn't set."""
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def apply_overrides(tree: Tree, overrides: Sequence[str]) -> None:
    """Apply settings of the form `key=value`; values are YAML.

    Raises:
        ConfigError: a setting has another form.
    """
    mistakes = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[\w/+-]+)*", key):
            mistakes.append(f"{override!r}: isn't a setting; use key=value, as in run.seed=1")
            continue
        try:
            set_value(tree, key, parse_value(text, f"the value of {key}"))
        except ConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)


def load_config(name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a configuration, apply settings on top and validate it.

    Args:
        name: a YAML file, or the name of a shipped configuration such as `ppo`.
        overrides: settings, each as `section.key=value`; values are YAML.

    Raises:
        ConfigError: lists every mistake that can be found without creating the environment.
    """
    tree = read_tree(os.fspath(name))
    apply_overrides(tree, overrides)
    try:
        return validate(tree)
    except ConfigError as error:
        raise ConfigError(locate(error.mistakes, tree)) from error


def validate(tree: Mapping[str, Any]) -> Config:
    """Validate a tree against the schema.

    Raises:
        ConfigError: lists every mistake.
    """
    config, mistakes = inspect(tree)
    if mistakes or config is None:
        raise ConfigError(mistakes)
    return config


def inspect(tree: Mapping[str, Any]) -> tuple[Config | None, list[str]]:
    """Return a tree as a Config, and its mistakes.

    Defaults replace wrong values, so that later checks can still find other mistakes. Return None instead of a Config
    if that is impossible (an unknown algorithm, no `env.id`).
    """
    # A missing section, or one whose settings are all commented out, counts as empty.
    tree = {"env": {}} | {name: {} if below is None else below for name, below in _plain_copy(dict(tree)).items()}
    args, mistakes = _args_of(tree)
    model = config_class(args or AlgoArgs)
    if args is None:
        tree["algo"] = {"name": "unknown"}
    config = None
    try:
        config = model.model_validate(tree)
    except ValidationError as error:
        details = error.errors(include_url=False)
        mistakes += dict.fromkeys(line for detail in details for line in describe_error(detail, model))
        for detail in details:
            _remove(tree, detail["loc"])
        with contextlib.suppress(ValidationError):
            config = model.model_validate(tree)
    return (config if args else None), mistakes


def _args_of(tree: Tree) -> tuple[type[AlgoArgs] | None, list[str]]:
    """Return the argument class of the tree's algorithm, or None and the mistakes."""
    algo = tree.get("algo")
    name = algo.get("name") if isinstance(algo, dict) else None
    if name is None and (algo is None or isinstance(algo, dict)):
        return None, [f"algo.name: is missing; use one of {', '.join(registry.registered())}"]
    if not isinstance(name, str):
        example = algo if isinstance(algo, str) and algo in registry.registered() else "ppo"
        return None, [f"algo={shown(algo)}: must be a section of settings with a name; use algo.name={example}"]
    try:
        return registry.args_class(name), []
    except registry.UnknownAlgorithmError as error:
        known = registry.registered()
        if use := peer_algorithms.find(name, known):
            return None, [f"algo.name={name}: {error}; use algo.name={use}"]
        hint = "" if ":" in name else nearest_names(name, known, "sheeprl algos")
        return None, [f"algo.name={name}: {error}{hint}"]


def _plain_copy(value: Any, levels: int = 3) -> Any:
    """Return a copy of the upper levels of a tree: sections, their settings, and the arguments in these."""
    if levels and (type(value) is dict or (isinstance(value, Mapping) and not isinstance(value, dict))):
        return {key: _plain_copy(below, levels - 1) for key, below in value.items()}
    return list(value) if type(value) is list else value


def _remove(tree: Any, location: tuple[int | str, ...]) -> None:
    """Remove the value at a location from the tree; if it is in a list, remove the list."""
    for key in location[:-1]:
        if not isinstance(tree, dict) or key not in tree or not isinstance(tree[key], dict):
            break
        tree = tree[key]
    else:
        key = location[-1]
    if isinstance(tree, dict):
        tree.pop(key, None)
