"""The command watch: show the progress of a run from its files."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from sheeprl.cli.completion import complete_run

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from sheeprl.results.watching import Follower

INTERVAL, PLAIN_INTERVAL = 1.0, 5.0  # seconds between updates, on a terminal and elsewhere


def watch(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="folder of a run, @last, @best, or a prefix of its name", autocompletion=complete_run
        ),
    ] = "@last",
    once: Annotated[bool, typer.Option("--once", help="print the progress once")] = False,
) -> None:
    """Show the progress of a run from its files: curves, losses, times; Ctrl-C ends the command, not the run."""
    from rich.console import Console

    from sheeprl.checkpoint.runs import run_folder
    from sheeprl.metrics.display import is_terminal
    from sheeprl.results.watching import Follower

    follower = Follower(run_folder(run))
    console = Console(highlight=False, markup=False, emoji=False)
    follower.update()
    try:
        if once:
            _print(follower, console)
        elif is_terminal(sys.stdout):
            _show(follower, console)
        else:
            _print_lines(follower)
    except KeyboardInterrupt:
        typer.echo(f"{run}: {follower.view.status}", err=True)


def _print(follower: Follower, console: Console) -> None:
    """Print the progress once, as a panel where the output has room for it."""
    from sheeprl.metrics.display import describe, is_terminal
    from sheeprl.metrics.panel import LEAST_WIDTH

    if console.width >= LEAST_WIDTH and is_terminal(sys.stdout):
        console.print(_drawn(follower, console))
    else:
        typer.echo(f"{describe(follower.progress, follower.speed)} | {follower.view.status}")


def _drawn(follower: Follower, console: Console) -> RenderableType:
    """Return the panel, or the line if the terminal is too small."""
    from rich.text import Text

    from sheeprl.metrics.display import describe
    from sheeprl.metrics.panel import draw, has_room

    size = console.size
    if has_room(size.width, size.height):
        return draw(follower.view, size.width, console.encoding.startswith("utf"))
    return Text(describe(follower.progress, follower.speed, size.width), no_wrap=True, overflow="crop")


def _show(follower: Follower, console: Console) -> None:
    """Update the panel until the run has ended."""
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_drawn(follower, console), refresh=True)
            if follower.view.status != "running":
                return
            time.sleep(INTERVAL)
            follower.update()


def _print_lines(follower: Follower) -> None:
    """Print a line every few seconds until the run has ended."""
    from sheeprl.metrics.display import describe

    while True:
        typer.echo(f"{describe(follower.progress, follower.speed)} | {follower.view.status}")
        if follower.view.status != "running":
            return
        time.sleep(PLAIN_INTERVAL)
        follower.update()
