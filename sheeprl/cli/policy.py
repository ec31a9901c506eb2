"""The commands about policies: export and enjoy."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Annotated

import typer

from sheeprl.cli.commands import at_least
from sheeprl.cli.completion import complete_run
from sheeprl.utils.errors import ConfigError, RunFailedError

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN|CHECKPOINT",
        help="folder of a run (newest checkpoint) or of a checkpoint, @last, a prefix of a run's name, or a run's "
        "URL at checkpoint.storage",
        autocompletion=complete_run,
    ),
]
Best = Annotated[bool, typer.Option("--best", help="the best checkpoint, by the run's checkpoint.best_by")]


def export(
    path: Run,
    to: Annotated[str, typer.Option(metavar="FORMAT", help="onnx or pt2")] = "onnx",
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="the file; default: the run's name", show_default=False)
    ] = None,
    best: Best = False,
    steps: Annotated[
        int, typer.Option(callback=at_least(1), metavar="int", help="observations for the comparison")
    ] = 200,
) -> None:
    """Export a policy to a file that needs no trainer, and compare it with the policy on recorded observations."""
    formats = ("onnx", "pt2")
    if to not in formats:
        raise ConfigError([f"--to {to}: must be onnx or pt2"])
    if out is not None and not out.endswith(f".{to}"):
        raise ConfigError([f"--out {out}: must end with .{to}"])
    from sheeprl.checkpoint.best import named_checkpoint
    from sheeprl.checkpoint.run_dir import read_config
    from sheeprl.config.loading import validate
    from sheeprl.envs.make import EnvSettingsError, make_env
    from sheeprl.policy.export import TOLERANCE, compare, export_policy, record
    from sheeprl.policy.loading import load_checkpoint

    run_dir, checkpoint = named_checkpoint(path, best)
    origin = load_checkpoint(str(checkpoint))
    file = Path(out or f"{run_dir.name}.{to}")
    try:
        env = make_env(validate(read_config(run_dir)).eval_env)
    except EnvSettingsError as error:
        raise ConfigError([str(error)]) from error
    export_policy(origin, file)
    recorded = record(origin, env, steps)
    env.close()
    check = compare(origin, file, recorded)
    if check.difference > TOLERANCE:
        raise RunFailedError(
            f"{file}: its actions differ from the policy's by {check.difference:.2g} of their range on "
            f"{check.observations} observations, more than {TOLERANCE:g}"
        )
    typer.echo(
        f"{file}: {file.stat().st_size / 1024:.0f} KiB, {origin.spec.policy_steps:,} policy steps; largest difference "
        f"{check.difference:.1g} on {check.observations} observations; one decision takes {1e6 * check.p50:.0f} µs "
        f"(99 %: {1e6 * check.p99:.0f} µs)"
    )


def enjoy(
    path: Run,
    terminal: Annotated[
        bool | None,
        typer.Option("--terminal/--window", help="draw in the terminal; default: a window if there is a display"),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="load the newest checkpoint before each episode")] = False,
    best: Best = False,
    episodes: Annotated[
        int | None, typer.Option(callback=at_least(1), metavar="int", help="stop after these; default: until Ctrl-C")
    ] = None,
    seed: Annotated[int, typer.Option(callback=at_least(0), metavar="int", help="seed of the first reset")] = 0,
    fps: Annotated[
        float | None, typer.Option(metavar="float", help="steps per second; default: the environment's")
    ] = None,
) -> None:
    """Watch a policy play, in a window or in the terminal."""
    if fps is not None and fps <= 0:
        raise ConfigError([f"--fps={fps}: must be positive"])
    if follow and best:
        raise ConfigError(["--follow --best: use only one of them"])
    from sheeprl.checkpoint.runs import resolve_run
    from sheeprl.policy import enjoy as watching

    watched = watching.enjoy(resolve_run(path), terminal, follow, best, seed, fps)
    try:
        for played in itertools.islice(watched, episodes or sys.maxsize):
            typer.echo(
                f"return {played.total:.2f} in {played.length} steps, after {played.policy_steps:,} policy steps"
            )
    except KeyboardInterrupt:  # the usual end
        typer.echo("")
