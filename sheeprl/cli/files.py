"""The commands about configuration files: schema and convert-config."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from sheeprl.algos import registry
from sheeprl.config import peer_algorithms
from sheeprl.config.json_schema import config_schema
from sheeprl.config.suggestions import nearest
from sheeprl.utils.errors import ConfigError


def schema(
    algorithm: Annotated[
        str | None,
        typer.Argument(metavar="ALGO", help="only this algorithm; default: all", show_default=False),
    ] = None,
) -> None:
    """Print the JSON schema of configuration files, with which editors complete and check them."""
    names = list(registry.registered()) if algorithm is None else [known_algorithm(algorithm)]
    typer.echo(json.dumps(config_schema(names), indent=1, ensure_ascii=False))


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
        hint = f"; use {use}" if use else nearest(name, known) or f"; use one of {', '.join(known)}"
        raise ConfigError([f"{name}: {error}{hint}"]) from error
    return name
