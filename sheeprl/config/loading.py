"""Read configuration files, apply overrides and validate the result."""

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
from sheeprl.config.schema import Config, Tree, config_class
from sheeprl.config.suggestions import describe_error, nearest, shown
from sheeprl.config.yaml_io import parse_yaml
from sheeprl.utils.errors import ConfigError


def shipped_folder() -> Path:
    """The folder of the shipped configurations: in the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str) -> Path:
    """The file of a configuration given by path or by the bare name of a shipped one.

    Raises:
        ConfigError: there is no such file.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = {file.stem: file for file in sorted(shipped_folder().glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    kind = "is a folder, not a file" if path.is_dir() else "is no file"
    hint = nearest(path.stem, shipped)
    raise ConfigError([f"{name}: {kind}, and no shipped configuration is called so ({', '.join(shipped)}){hint}"])


def read_tree(name: str) -> Tree:
    """The raw tree of a configuration file.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    path = find_config(name)
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    if not isinstance(tree, dict):
        held = "nothing" if tree is None else "a list" if isinstance(tree, list) else "a single value"
        raise ConfigError([f"{path}: holds {held}, not groups of settings such as `env:` and `algo:`"])
    return tree


def set_value(tree: Tree, key: str, value: Any) -> None:
    """Set a dotted key, making the groups on its way.

    Raises:
        ConfigError: what should be a group isn't one.
    """
    *groups, leaf = key.split(".")
    for group in groups:
        below = tree.get(group)
        if below is None:
            below = tree[group] = {}
        if not isinstance(below, dict):
            raise ConfigError([f"{group}={shown(below)}: must be a group of settings, to set {key} in it"])
        tree = below
    tree[leaf] = value


def get_value(tree: Tree, key: str) -> Any:
    """The value at a dotted key, None if there is none."""
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def apply_overrides(tree: Tree, overrides: Sequence[str]) -> None:
    """Apply `key=value` overrides; values are YAML.

    Raises:
        ConfigError: one isn't of that form.
    """
    mistakes = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key):
            mistakes.append(f"{override!r}: an override is written key=value, as in run.seed=1")
            continue
        try:
            set_value(tree, key, parse_yaml(text, f"the value of {key}"))
        except ConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)


def load_config(name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        name: a YAML file, or the bare name of a shipped configuration such as `ppo`.
        overrides: `group.key=value`, applied on top; values are YAML.

    Raises:
        ConfigError: with every mistake that can be told without making the environment.
    """
    tree = read_tree(os.fspath(name))
    apply_overrides(tree, overrides)
    return validate(tree)


def validate(tree: Mapping[str, Any]) -> Config:
    """Check a tree of plain values as a whole.

    Raises:
        ConfigError: with every mistake of the schema.
    """
    config, mistakes = inspect(tree)
    if mistakes or config is None:
        raise ConfigError(mistakes)
    return config


def inspect(tree: Mapping[str, Any]) -> tuple[Config | None, list[str]]:
    """The tree as a Config, with its mistakes.

    Where a value is wrong its default stands in, so that the rest can be looked at in the same go; None when
    not even that is possible (an unknown algorithm, no env.id).
    """
    # A group that is left out, or whose settings are all commented out, is an empty one.
    tree = {"env": {}} | {group: {} if below is None else below for group, below in _plain_copy(tree).items()}
    args, mistakes = _args_of(tree)
    model = config_class(args or AlgoArgs)
    if args is None:
        tree["algo"] = {"name": "unknown"}
    config = None
    try:
        config = model.model_validate(tree)
    except ValidationError as error:
        details = error.errors(include_url=False)
        mistakes += dict.fromkeys(describe_error(detail, model) for detail in details)
        for detail in details:
            _remove(tree, detail["loc"])
        with contextlib.suppress(ValidationError):
            config = model.model_validate(tree)
    return (config if args else None), mistakes


def _args_of(tree: Tree) -> tuple[type[AlgoArgs] | None, list[str]]:
    algo = tree.get("algo")
    name = algo.get("name") if isinstance(algo, dict) else None
    if name is None and (algo is None or isinstance(algo, dict)):
        return None, [f"algo.name: is missing; one of {', '.join(registry.registered())}"]
    if not isinstance(name, str):
        return None, [f"algo: give a group of settings with a name, as in `algo: {{name: ppo}}`, not {algo!r}"]
    try:
        return registry.args_class(name), []
    except registry.UnknownAlgorithmError as error:
        known = registry.registered()
        return None, [f"algo.name={name}: {error}; one of {', '.join(known)}{nearest(name, known)}"]


def _plain_copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain_copy(below) for key, below in value.items()}
    return list(value) if isinstance(value, list) else value


def _remove(tree: Any, location: tuple[int | str, ...]) -> None:
    """Take the value at `location` out of the tree, or, inside a list, the list."""
    for key in location[:-1]:
        if not isinstance(tree, dict) or key not in tree or not isinstance(tree[key], dict):
            break
        tree = tree[key]
    else:
        key = location[-1]
    if isinstance(tree, dict):
        tree.pop(key, None)
