"""The commands that take settings: train, run, resume, config and the algorithms."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import typer

from sheeprl.algos import registry
from sheeprl.algos.args import AlgoArgs
from sheeprl.cli.flags import Flags
from sheeprl.cli.names import Base, find_base, is_algorithm, is_name
from sheeprl.cli.words import Words, read_words, take_name, take_switch, take_value
from sheeprl.config.bases import FileTree, locate
from sheeprl.config.loading import get_value, inspect, read_tree, validate
from sheeprl.config.schema import Config, Tree, config_class, leaves
from sheeprl.config.suggestions import shown
from sheeprl.utils.errors import ConfigError, shell_command
from sheeprl.utils.text import counted


@dataclass
class Session:
    """State of one call of the command line.

    Args:
        traceback: show the traceback of an unexpected error.
    """

    traceback: bool = False


def train(words: list[str], session: Session) -> int:
    """Train with a configuration or an algorithm."""
    config = take_value(words, "config")
    dry_run = take_switch(words, "dry-run")
    name = take_name(words, is_name)
    if name is None:
        raise missing("NAME", "train", "train ppo --env CartPole-v1 --seed 3 algo.gamma=0.9")
    if config is not None and is_algorithm(name):
        return _train_algorithm(name, words, session, config, dry_run)
    if config is not None:
        raise ConfigError([f"--config {config}: {name} isn't an algorithm; use sheeprl train {config}"])
    base, flags, settings = read_named(name, words, "train")
    _say(f"using {base.description}")
    return _train(base.tree, settings, flags, session, dry_run)


def run(words: list[str], session: Session) -> int:
    """Train an agent with a configuration."""
    dry_run = take_switch(words, "dry-run")
    name = take_name(words, is_name)
    if name is None:
        raise missing("CONFIG", "run", "run ppo run.seed=3")
    try:
        tree = read_tree(name)
    except ConfigError as error:
        if not is_algorithm(name):
            raise
        raise ConfigError([f"{name}: is an algorithm, not a configuration; use sheeprl train {name}"]) from error
    flags, settings = read_settings(tree, words, f"run {name}")
    return _train(tree, settings, flags, session, dry_run)


def resume(words: list[str], session: Session) -> int:
    """Resume a run from its newest complete checkpoint."""
    dry_run = take_switch(words, "dry-run")
    name = take_name(words, lambda word: word.startswith("@") or "://" in word or Path(word).is_dir())
    if name is None:
        raise missing("RUN", "resume", "resume @last")
    from sheeprl.checkpoint.resume import resume_tree
    from sheeprl.checkpoint.runs import resolve_run

    run_dir = resolve_run(name)
    # Fabric starts further ranks with this command line; another run may be the newest one by then.
    sys.argv = [run_dir if word == name else word for word in sys.argv]
    file = Path(run_dir).expanduser() / "config.yaml"
    flags, settings = read_settings(read_tree(str(file)) if file.is_file() else {}, words, f"resume {name}")
    return _train(resume_tree(run_dir, settings.overrides), Words(), flags, session, dry_run)


def algorithm_command(name: str) -> Callable[[list[str], Session], int]:
    """Return the command of an algorithm, which starts from the algorithm's defaults or from `--config FILE`."""

    def train_algorithm(words: list[str], session: Session) -> int:
        """Train with the settings on the command line."""
        config = take_value(words, "config")
        return _train_algorithm(name, words, session, config, take_switch(words, "dry-run"))

    return train_algorithm


def _train_algorithm(name: str, words: list[str], session: Session, config: str | None, dry_run: bool) -> int:
    """Train with an algorithm's defaults, or a configuration of this algorithm, and the words on top."""
    flags = Flags(registry.args_class(name))
    try:
        tree = read_tree(config) if config else {}
    except ConfigError as error:
        if Path(str(config)).is_file():
            raise
        raise ConfigError([f"--config {mistake}" for mistake in error.mistakes]) from error
    settings = read_words(words, flags, f"sheeprl {name} -h all")
    for setting in settings.given:
        if setting.key == "algo.name":
            settings.mistakes.append(f"algo.name={setting.value}: this command trains {name}; use sheeprl train")
    algo = tree.setdefault("algo", {})
    if isinstance(algo, dict) and algo.setdefault("name", name) != name:
        use = shell_command("train", config)
        settings.mistakes.append(f"--config {config}: has algo.name={algo['name']}; use {use}")
    return _train(tree, settings, flags, session, dry_run)


def print_config(words: list[str], session: Session) -> int:
    """Print what a configuration means."""
    other = _take_other(words)
    diff = take_switch(words, "diff")
    name = take_name(words, is_name)
    if name is None:
        raise missing("NAME", "config", "config ppo run.seed=3 --diff")
    base, flags, settings = read_named(name, words, "config")
    settings.apply(base.tree)
    refuse(settings, base.tree, flags)
    try:
        config = validate(base.tree)
    except ConfigError as error:
        raise ConfigError(_explained(error.mistakes, base.tree, flags)) from error
    typer.echo(f"# {base.description}")
    if diff:
        typer.echo("\n".join(_differences(config, base.tree, other)))
    else:
        from sheeprl.checkpoint.run_dir import without_rollout_sizes
        from sheeprl.config.defaults import fill_in

        typer.echo(without_rollout_sizes(fill_in(config)).to_yaml(), nl=False)
    return 0


def _take_other(words: list[str]) -> str | None:
    """Remove the NAME of the other configuration in `--diff NAME` or `--diff=NAME`, and return it.

    A word after `--diff` is the other NAME only if the command's own NAME stands before it.
    """
    for place, word in enumerate(words):
        option, _, name = word.partition("=")
        if option != "--diff":
            continue
        if name:
            words[place] = option
            return name
        follows = place + 1 < len(words) and is_name(words[place + 1])
        if follows and any(map(is_name, words[:place])):
            return words.pop(place + 1)
    return None


def _differences(config: Config, tree: Tree, other: str | None) -> list[str]:
    """Return the settings that differ from another configuration, as key=value with the other value in a comment.

    The comment also has the file and line of settings of a file that is based on others.

    Args:
        config: the configuration.
        tree: its settings, with their places.
        other: NAME of the other configuration; None for the defaults.
    """
    others, lines = _defaults_of(config) if other is None else _values_of(validate(find_base(other).tree)), []
    for key, value in _values_of(config).items():
        notes = []
        if key in others:
            if value == others[key]:
                continue
            notes.append(f"{other or 'default'} {shown(others[key])}")
        if isinstance(tree, FileTree) and tree.bases and (place := tree.place_of(key)):
            notes.append(place)
        lines.append(f"{key}={shown(value)}" + (f"  # {'; '.join(notes)}" if notes else ""))
    return lines


def _values_of(config: Config) -> dict[str, Any]:
    """Return the value of every setting by dotted key."""
    values = config.model_dump(mode="json")
    return {key: get_value(values, key) for key, _ in leaves(config_class(type(config.algo)))}


def _defaults_of(config: Config) -> dict[str, Any]:
    """Return the default of every setting that has one, by dotted key."""
    fields = {key: field for key, field in leaves(config_class(type(config.algo))) if not field.is_required()}
    defaults = {key: field.get_default(call_default_factory=True) for key, field in fields.items()}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}


# ------------------------------------------------------------------------------------------ settings


def read_named(name: str, words: Sequence[str], command: str) -> tuple[Base, Flags, Words]:
    """Return what a NAME means, its flags and the settings; the environment among them may change the meaning."""
    base = find_base(name)
    flags, settings = read_settings(base.tree, words, f"{command} {name}")
    envs = environments(settings)
    return (find_base(name, *envs) if envs else base), flags, settings


def environments(settings: Words) -> list[str]:
    """Return the environment on the command line as a list, empty if there is none."""
    return [str(setting.value) for setting in settings.given if setting.key == "env.id"][-1:]


def read_settings(tree: Tree, words: Sequence[str], command: str) -> tuple[Flags, Words]:
    """Return the flags of a tree's algorithm and the settings on the command line."""
    names = [word.partition("=")[2] for word in words if word.startswith("algo.name=")]
    name = names[-1] if names else get_value(tree, "algo.name")
    try:
        flags, known = Flags(registry.args_class(str(name))), True
    except registry.UnknownAlgorithmError:  # a mistake, which the schema reports
        flags, known = Flags(AlgoArgs), False
    settings = read_words(words, flags, f"sheeprl {command} -h all")
    if not known:
        settings.mistakes = [mistake for mistake in settings.mistakes if ": unknown flag" not in mistake]
    return flags, settings


def _train(tree: Tree, settings: Words, flags: Flags, session: Session, dry_run: bool) -> int:
    """Train with a tree and the settings on top, or only check them; return the exit code."""
    inherited = _inherited(tree, settings)
    settings.apply(tree)
    refuse(settings, tree, flags, inherited)
    try:
        if dry_run:
            return _check(tree)
        from sheeprl.launch import train_tree

        result = train_tree(tree)
    except ConfigError as error:
        raise ConfigError(_explained(error.mistakes, tree, flags, inherited)) from error
    except Exception:
        session.traceback |= get_value(tree, "log.level") == "debug"
        raise
    return 0 if result.interrupted_by is None else 128 + result.interrupted_by


def _inherited(tree: Tree, settings: Words) -> dict[str, str]:
    """Return a line for each argument of a configuration, by key, if the command line names another algorithm."""
    algo, given = tree.get("algo"), {setting.key: setting.value for setting in settings.given}
    name = given.get("algo.name")
    if not isinstance(algo, dict) or not isinstance(name, str) or name not in registry.registered():
        return {}
    return {
        f"algo.{key}": f"algo.{key}={shown(value)}: comes from the configuration, which is for {algo.get('name')}, and "
        f"{name} has no such setting; use {shell_command(name)}"
        for key, value in algo.items()
        if f"algo.{key}" not in given
    }


def refuse(settings: Words, tree: Tree, flags: Flags, inherited: Mapping[str, str] = MappingProxyType({})) -> None:
    """Raise the mistakes of the command line, together with those of the tree."""
    if settings.mistakes:
        mistakes = _explained(inspect(tree)[1], tree, flags, inherited)
        raise ConfigError(list(dict.fromkeys([*settings.mistakes, *mistakes])))


def _explained(
    mistakes: Sequence[str], tree: Tree, flags: Flags, inherited: Mapping[str, str] = MappingProxyType({})
) -> list[str]:
    """Return mistakes with their file and line, the flags of missing settings, and the origin of inherited ones."""
    lines = []
    for mistake in mistakes:
        key = mistake.partition(": unknown setting")[0]
        lines += [inherited[key]] if key in inherited else locate([_with_flag(mistake, flags)], tree)
    return list(dict.fromkeys(lines))


def _check(tree: Tree) -> int:
    """Check a tree against the schema, the environment and the machine, and start nothing."""
    from sheeprl.launch import check_tree

    config, warnings = check_tree(tree)
    for warning in warnings:
        _say(f"warning: {warning}")
    _say(
        f"valid: {config.algo.name} on {config.env.id}, run.mode={config.run.mode}, "
        f"{counted(config.run.total_steps, 'policy step')}; nothing was started"
    )
    return 0


def _with_flag(mistake: str, flags: Flags) -> str:
    """Append the flag of a missing setting to its mistake."""
    key, _, rest = mistake.partition(": is missing")
    return f"{mistake}; set {flags.name_of(key)}" if not rest and key in flags.by_key else mistake


def missing(argument: str, command: str, example: str) -> ConfigError:
    """Return the mistake of a command without its first argument."""
    usage = f"Usage: sheeprl {command} {argument} [--setting VALUE | key=value]..."
    return ConfigError([f"{argument}: is missing; {usage}, as in sheeprl {example}"])


def _say(text: str) -> None:
    """Print a line, only once if Fabric starts several ranks with the same command line."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        typer.echo(text)
