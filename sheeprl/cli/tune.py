"""The command tune: search for good settings."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from typing import TYPE_CHECKING

import typer

from sheeprl.cli.names import is_name
from sheeprl.cli.report import FAILED
from sheeprl.cli.sweep import positive, shown_folder, take_jobs, whole
from sheeprl.cli.training import Session, missing, read_named, refuse
from sheeprl.cli.words import take_name, take_switch, take_value
from sheeprl.utils.errors import ConfigError
from sheeprl.utils.installation import install_command
from sheeprl.utils.text import counted
from sheeprl.utils.time_spans import seconds_of

if TYPE_CHECKING:
    from sheeprl.tune.search import Search

EXAMPLE = "tune ppo --env CartPole-v1 --trials 30 --seeds 2"
PACKAGES = ("optuna", "pyarrow", "pandas")  # the last two are imported by Ray Tune


def tune(words: list[str], session: Session) -> int:
    """Search for good settings with Optuna, several seeds a trial."""
    command = shlex.join(["sheeprl", "tune", *words])
    dry_run = take_switch(words, "dry-run")
    population, parts = whole(words, "population", "0"), whole(words, "parts", "10")
    search, description = _read_search(words, population, parts, dry_run)
    if not dry_run:
        check_packages()
    typer.echo(f"using {description}")
    for key, part in search.space.items():
        typer.echo(f"{key}={part}")
    if dry_run:
        return 0
    if population:
        return _train_population(search, population, parts)
    from sheeprl.tune import search as searching
    from sheeprl.tune import tuning

    found = tuning.tune(search, typer.echo)
    path = searching.write_results(search, found, command)
    for trial in found:
        if trial.status == "failed":
            typer.echo(f"failed: {trial.label}: {trial.cause}", err=True)
    if path is None:
        typer.echo("no trial is complete; the same command continues the search", err=True)
        return FAILED
    best = found[0]
    typer.echo(f"best of {counted(len(found), 'trial')}: {search.metric} {best.score:.2f} with {best.label}")
    typer.echo(f"sheeprl train {shown_folder(path)}")
    return 0


def check_packages() -> None:
    """Check that Ray Tune and Optuna can be imported.

    Raises:
        ConfigError: a package is missing.
    """
    if missing_packages := [name for name in PACKAGES if find_spec(name) is None]:
        raise ConfigError([f"tune needs {' and '.join(missing_packages)}; use {install_command('tune')}"])


def _train_population(search: Search, members: int, parts: int) -> int:
    """Train a population, and print its best member."""
    from sheeprl.tune import population
    from sheeprl.tune.space import shown

    best = population.train_population(search, members, parts, typer.echo)[0]
    folder = population.write_lineage(search, best)
    for part in best:
        label = ", ".join(f"{key}={shown(value)}" for key, value in part.settings.items())
        typer.echo(f"{part.policy_steps:,} policy steps: {search.metric} {part.score:.2f} with {label}")
    typer.echo(f"sheeprl eval {shown_folder(folder)}")
    return 0


def _read_search(words: list[str], population: int, parts: int, dry_run: bool) -> tuple[Search, str]:
    """Return the search that the words describe, and a description of its configuration.

    Args:
        words: words of the command line.
        population: members of a population; 0 for a search by trials.
        parts: parts of the training of a population.
        dry_run: True if the search is only described, so that nothing needs to limit it.

    Raises:
        ConfigError: they have mistakes, all of which it lists.
    """
    no_pruning, out, metric = take_switch(words, "no-pruning"), take_value(words, "out"), take_value(words, "metric")
    span, cpus = take_value(words, "budget"), positive(words, "cpus", "1")
    budget = None if span is None else seconds_of(span, "--budget")
    trials, seeds, jobs = whole(words, "trials", "0"), whole(words, "seeds", "1"), take_jobs(words)
    name = take_name(words, is_name)
    if name is None:
        raise missing("NAME", "tune", EXAMPLE)
    from sheeprl.tune import search as searching
    from sheeprl.tune.space import declared_space, parse_range

    named = {}
    others = []
    for word in words:
        key, equals, text = word.partition("=")
        part = parse_range(key, text) if equals and not word.startswith("-") else None
        if part is None:
            others.append(word)
        else:
            named[key] = part
    base, flags, settings = read_named(name, others, "tune")
    settings.apply(base.tree)
    refuse(settings, base.tree, flags)
    metric = metric or searching.METRICS[0]
    tree = searching.with_evaluations(base.tree, metric)
    fixed = {setting.key for setting in settings.given}
    declared = {key: part for key, part in declared_space(tree).items() if key not in fixed}
    trials = trials or population
    folder = searching.search_folder(name, out)
    limits = (trials or None, budget, cpus, jobs, not no_pruning)
    search = searching.Search(tree, declared | named, folder, metric, seeds, *limits)
    searching.check_search(search, is_limited=not dry_run)
    if population:
        from sheeprl.tune.population import check_population

        check_population(search, population, parts)
    return search, base.description
