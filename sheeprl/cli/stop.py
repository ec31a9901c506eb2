"""The command stop: end a run of this machine after a checkpoint."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from sheeprl.cli.completion import complete_run
from sheeprl.utils.errors import shell_command

INTERVAL = 0.2  # seconds between looks at the run


def stop(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="folder of a run, @last, @best, or a prefix of its name", autocompletion=complete_run
        ),
    ],
) -> None:
    """Stop a run of this machine after a checkpoint, and wait for its end; sheeprl resume continues it."""
    from sheeprl.checkpoint.files import step_of
    from sheeprl.checkpoint.run_dir import checkpoints, is_locked
    from sheeprl.checkpoint.runs import run_folder
    from sheeprl.checkpoint.stopping import stop_run

    folder = run_folder(run)
    stop_run(folder)
    while is_locked(folder):
        time.sleep(INTERVAL)
    if found := checkpoints(folder):
        resume = shell_command("resume", folder)
        typer.echo(f"{folder}: stopped at policy step {step_of(found[-1]):,}; {resume} continues it")
    else:
        typer.echo(f"{folder}: stopped before its first checkpoint")
