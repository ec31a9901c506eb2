"""Completions for the shell: names, runs, settings and values."""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Iterator
from types import UnionType
from typing import Literal, Union, get_args, get_origin

from sheeprl.algos import registry
from sheeprl.algos.args import AlgoArgs
from sheeprl.checkpoint.runs import BEST, LAST, find_runs, resolve_run
from sheeprl.cli.flags import Flag, Flags
from sheeprl.cli.names import is_algorithm, is_name, shipped_files
from sheeprl.cli.words import take_name
from sheeprl.config.loading import get_value, read_tree
from sheeprl.config.schema import leaves
from sheeprl.utils.errors import ConfigError


def words_to_complete() -> list[str] | None:
    """Return the words after `sheeprl` if the shell requests completions, else None."""
    if "_SHEEPRL_COMPLETE" not in os.environ:
        return None
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    try:
        return shlex.split(line)[1:]
    except ValueError:  # an open quote
        return line.split()[1:]


def flags_for(words: list[str]) -> Flags:
    """Return the flags of the algorithm that a command line means, or those of every run."""
    command, *rest = words or [""]
    name = command if command in registry.registered() else take_name(rest, is_name)
    try:
        if name is not None and command == "resume":
            name = _algorithm_of(os.path.join(resolve_run(name), "config.yaml"))
        elif name is not None and name not in registry.registered():
            name = _algorithm_of(name)
        if chosen := [word.partition("=")[2] for word in rest if word.startswith("algo.name=")]:
            name = chosen[-1]
        return Flags(registry.args_class(name) if name else AlgoArgs)
    except (ConfigError, registry.UnknownAlgorithmError):
        return Flags(AlgoArgs)


def _algorithm_of(config: str) -> str:
    """Return the algorithm of a configuration, or a path to an algorithm as it is."""
    return config if ":" in config and is_algorithm(config) else str(get_value(read_tree(config), "algo.name"))


def complete_name(incomplete: str) -> list[str]:
    """Return the configurations and algorithms that begin so."""
    paths = sorted(glob.glob(f"{glob.escape(incomplete)}*"))
    files = [path for path in paths if path.endswith((".yaml", ".yml"))]
    names = dict.fromkeys([*shipped_files(), *registry.registered(), *files])
    return [name for name in names if name.startswith(incomplete)]


def complete_env(incomplete: str) -> list[str]:
    """Return the registered environments that begin so."""
    import gymnasium

    from sheeprl.envs.families import FAMILIES, is_installed

    for family in FAMILIES if incomplete else ():
        begins = (incomplete.startswith(prefix) or prefix.startswith(incomplete) for prefix in family.prefixes)
        if any(begins) and is_installed(family):  # an import may take seconds
            family.register()
    return [env_id for env_id in sorted(gymnasium.registry) if env_id.startswith(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    """Return `@last`, `@best` and the runs that begin so."""
    runs = find_runs()
    names = [LAST, BEST, *(run.name for run in runs), *(os.path.relpath(run.folder) for run in runs)]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def complete_setting(incomplete: str) -> list[str]:
    """Return the settings `key=` that begin so, and the values after `key=`."""
    words = words_to_complete() or []
    model = flags_for(words).model
    key, equals, _ = incomplete.partition("=")
    if not equals:
        section = "env." if words[:1] == ["check-env"] else ""
        return [f"{name}=" for name, _ in leaves(model) if name.startswith(incomplete) and name.startswith(section)]
    field = dict(leaves(model)).get(key)
    found = [f"{key}={value}" for value in _values(field.annotation)] if field else []
    return [value for value in found if value.startswith(incomplete)]


def values_of(flag: Flag) -> list[str]:
    """Return the values of a setting that has only a few."""
    return list(_values(flag.field.annotation))


def _values(annotation: object) -> Iterator[str]:
    """Yield the values of a type that has only a few."""
    if annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _values(part)
