"""The command sweep: train with all combinations of several values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from sheeprl.cli.names import find_base, is_name
from sheeprl.cli.report import FAILED
from sheeprl.cli.training import Session, environments, missing, read_settings, refuse
from sheeprl.cli.words import take_name, take_switch, take_value
from sheeprl.utils.errors import ConfigError
from sheeprl.utils.text import counted

EXAMPLE = "sweep ppo env.id=CartPole-v1,Acrobot-v1 run.seed=0..9"


def sweep(words: list[str], session: Session) -> int:
    """Train a configuration with all combinations of several values."""
    dry_run = take_switch(words, "dry-run")
    out = take_value(words, "out")
    cpus, jobs = positive(words, "cpus", "1"), take_jobs(words)
    name = take_name(words, is_name)
    if name is None:
        raise missing("NAME", "sweep", EXAMPLE)
    from sheeprl import sweep as sweeping

    varied, others = _varied(words)
    firsts = [f"{key}={values[0]}" for key, values in varied.items()]
    base = find_base(name)  # one meaning of NAME for all environments
    flags, settings = read_settings(base.tree, [*others, *firsts], f"sweep {name}")
    base = replace(base, envs=tuple(varied.get("env.id") or environments(settings)))
    settings.apply(base.tree)
    refuse(settings, base.tree, flags)
    folder = sweeping.sweep_folder(name, varied, out)
    runs = sweeping.plan(base.tree, varied, folder)
    typer.echo(f"using {base.description}")
    typer.echo(f"{counted(len(runs), 'run')} in {shown_folder(folder)}")
    if dry_run:
        for run in runs:
            typer.echo(f"{run.label}{' (finished)' if run.is_finished else ''}")
        return 0
    sweeping.check_sweep(folder, base.tree, varied)
    outcomes = sweeping.sweep(runs, cpus, jobs, typer.echo)
    failed = [outcome for outcome in outcomes if outcome.status != "done"]
    done = len(outcomes) - len(failed)
    # Seeds are repetitions, unless nothing else varies.
    groups = [key for key in varied if key != "run.seed"] or list(varied)
    typer.echo(
        f"{done} of {len(runs)} runs are finished; sheeprl compare {shown_folder(folder)} --by {','.join(groups)}"
    )
    if failed:
        typer.echo(f"{len(failed)} are not; the same command continues them", err=True)
    return FAILED if failed else 0


def _varied(words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the settings with several values, by key, and the other words."""
    from sheeprl.sweep import values_of

    varied: dict[str, list[str]] = {}
    others = []
    for word in words:
        key, equals, text = word.partition("=")
        values = values_of(text) if equals and not word.startswith("-") else []
        if len(values) > 1:
            varied[key] = values
        else:
            others.append(word)
    if not varied:
        raise ConfigError([f"no setting has several values; use key=A,B or key=0..9, as in sheeprl {EXAMPLE}"])
    return varied, others


def positive(words: list[str], name: str, default: str) -> float:
    """Remove an option with a number from the words, and return the number.

    Raises:
        ConfigError: it isn't a positive number.
    """
    given = take_value(words, name)
    try:
        number = float(given or default)
    except ValueError:
        number = -1.0
    if number < 0 or (given is not None and not 0 < number < 1e6):
        raise ConfigError([f"--{name} {given}: must be a positive number"])
    return number


def whole(words: list[str], name: str, default: str) -> int:
    """Remove an option with a whole number from the words, and return the number.

    Raises:
        ConfigError: it isn't a positive whole number.
    """
    number = positive(words, name, default)
    if number != int(number):
        raise ConfigError([f"--{name} {number:g}: must be a whole number"])
    return int(number)


def take_jobs(words: list[str]) -> int | None:
    """Remove `--jobs` from the words, and return its number; None for `auto`, the default.

    Raises:
        ConfigError: it isn't `auto` or a positive whole number.
    """
    given = take_value(words, "jobs")
    return None if given in (None, "auto") else whole(["--jobs", str(given)], "jobs", "0")


def shown_folder(folder: Path) -> str:
    """Return a folder, relative to the working folder if it is below it."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)
