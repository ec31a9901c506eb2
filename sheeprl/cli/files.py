"""The commands about configuration files: schema and convert-config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sheeprl.algos import registry
from sheeprl.config import peer_algorithms
from sheeprl.config.json_schema import config_schema
from sheeprl.config.suggestions import nearest_names
from sheeprl.utils.errors import ConfigError, shell_command


def schema(
    algorithm: Annotated[
        str | None,
        typer.Argument(metavar="ALGO", help="only this algorithm; default: all", show_default=False),
    ] = None,
) -> None:
    """Print the JSON schema of configuration files, with which editors complete and check them."""
    names = list(registry.registered()) if algorithm is None else [known_algorithm(algorithm)]
    typer.echo(schema_text(names), nl=False)


def schema_text(algorithms: Sequence[str]) -> str:
    """Return the file with the JSON schema of configurations of some algorithms."""
    return json.dumps(config_schema(algorithms), indent=1, ensure_ascii=False) + "\n"


def convert_config(
    file: Annotated[str, typer.Argument(metavar="FILE", help="file of the zoo, such as hyperparams/ppo.yml")],
    env: Annotated[str, typer.Argument(metavar="ENV", help="environment of the entry, such as CartPole-v1")],
    algorithm: Annotated[
        str | None,
        typer.Option("--algo", metavar="ALGO", help="algorithm of the file; default: its name", show_default=False),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="write the configuration here; default: print it")
    ] = None,
) -> None:
    """Convert an entry of RL Baselines3 Zoo's hyperparameters; a warning names each setting without a counterpart."""
    from sheeprl.config.zoo import convert

    converted = convert(Path(file), env, algorithm)
    for note in converted.notes:
        typer.echo(f"warning: {note}", err=True)
    title = f"# {converted.algorithm} on {env}, converted from {Path(file).name} of RL Baselines3 Zoo"
    text = f"{title}\n{converted.to_yaml()}"
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        Path(out).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError([f"--out {out}: can't be written: {error.strerror}"]) from error
    typer.echo(f"{out}: train with it by {shell_command('train', out)}")


def known_algorithm(name: str) -> str:
    """Return the name of an algorithm.

    Raises:
        ConfigError: the algorithm isn't registered.
    """
    known = registry.registered()
    try:
        registry.args_class(name)
    except registry.UnknownAlgorithmError as error:
        use = peer_algorithms.find(name, known)
        hint = f"; use {use}" if use else nearest_names(name, known, "sheeprl algos")
        raise ConfigError([f"{name}: {error}{hint}"]) from error
    return name
