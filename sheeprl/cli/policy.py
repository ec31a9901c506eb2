"""The commands about policies: export, enjoy, dream, serve, push and pull."""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from sheeprl.cli.commands import Run, at_least, print_table
from sheeprl.utils.errors import ConfigError, RunFailedError
from sheeprl.utils.text import byte_size, counted

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
    if to not in ("onnx", "pt2"):
        raise ConfigError([f"--to {to}: must be onnx or pt2"])
    if out is not None and not out.endswith(f".{to}"):
        raise ConfigError([f"--out {out}: must end with .{to}"])
    from sheeprl.checkpoint.best import named_checkpoint
    from sheeprl.checkpoint.run_dir import read_config
    from sheeprl.config.loading import validate
    from sheeprl.policy.environment import make_evaluation_env
    from sheeprl.policy.export import TOLERANCE, compare, export_policy, record
    from sheeprl.policy.loading import load_checkpoint

    run_dir, checkpoint = named_checkpoint(path, best)
    origin = load_checkpoint(str(checkpoint))
    file = Path(out or f"{run_dir.name}.{to}")
    env = make_evaluation_env(validate(read_config(run_dir)), checkpoint)
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
        f"{file}: {byte_size(file.stat().st_size)}, {origin.spec.policy_steps:,} policy steps; largest difference "
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
    from sheeprl.policy.enjoy import play
    from sheeprl.policy.screens import NoScreen, choose_screen
    from sheeprl.utils.process import Interrupted, StopSignals

    run, screen = resolve_run(path), choose_screen(terminal)
    if isinstance(screen, NoScreen):
        typer.echo("warning: there is neither a display nor a terminal, so nothing is drawn", err=True)
    watched = play(run, screen, follow, best, seed, fps)
    try:
        with StopSignals():  # the library of a window would ignore SIGTERM
            for played in itertools.islice(watched, episodes or sys.maxsize):
                typer.echo(
                    f"return {played.total:.2f} in {played.length} steps, after {played.policy_steps:,} policy steps"
                )
    except (Interrupted, KeyboardInterrupt):  # the usual end
        typer.echo("")


def dream(
    path: Run,
    episodes: Annotated[int, typer.Option(callback=at_least(1), metavar="int", help="number of episodes")] = 4,
    context: Annotated[
        int, typer.Option(callback=at_least(1), metavar="int", help="rows that the world model sees first")
    ] = 5,
    horizon: Annotated[
        int, typer.Option(callback=at_least(1), metavar="int", help="rows that it imagines after them")
    ] = 45,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="the file: .mp4, .gif, .png, .pdf or .svg (plot); default: in videos of the run's folder",
        ),
    ] = None,
    best: Best = False,
    seed: Annotated[
        int | None, typer.Option(callback=at_least(0), metavar="int", help="seed of the episodes; default run.seed")
    ] = None,
) -> None:
    """Compare what a world model imagines with what happens, and print its errors."""
    from sheeprl.checkpoint.runs import resolve_run
    from sheeprl.policy import dream_files, dreaming

    if out is not None:
        dream_files.check(out)
    found = resolve_run(path)
    dreams = dreaming.dream(found, episodes, context, horizon, seed, best)
    file = Path(out) if out else dream_files.default_file(dreams)
    typer.echo(f"errors (root mean square) by steps of imagination, after {counted(context, 'observed row')}:")
    print_table(dreaming.error_table(dreams))
    dream_files.write(dreams, file)
    typer.echo(str(file))


def serve(
    path: Run,
    follow: Annotated[bool, typer.Option("--follow", help="load newer checkpoints of the run as they appear")] = False,
    best: Best = False,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="address to listen at")] = "127.0.0.1",
    port: Annotated[int, typer.Option(callback=at_least(1), metavar="int", help="port to listen at")] = 8000,
    replicas: Annotated[
        int, typer.Option(callback=at_least(1), metavar="int", help="processes that answer requests")
    ] = 1,
    cpus: Annotated[float, typer.Option(metavar="float", help="cores of each replica")] = 1.0,
    batch: Annotated[
        int, typer.Option(callback=at_least(1), metavar="int", help="most requests that share a call of the policy")
    ] = 64,
    wait: Annotated[
        float, typer.Option(metavar="float", help="milliseconds that a request waits for others of its batch")
    ] = 2.0,
) -> None:
    """Serve a policy over HTTP with Ray Serve (extra: serve)."""
    for name, value in (("cpus", cpus), ("wait", wait)):
        if value < 0:
            raise ConfigError([f"--{name}={value}: must be at least 0"])
    from sheeprl.checkpoint.runs import resolve_run
    from sheeprl.policy import serving
    from sheeprl.utils.process import Interrupted, StopSignals

    found = resolve_run(path)
    place = found if "://" in found else str(Path(found).expanduser().absolute())
    source = serving.Source(place, best, serving.FOLLOW_SECONDS if follow else None)
    policy, token = serving.check_servable(source, host, port)
    try:
        with StopSignals(), serving.serving(source, token, host, port, replicas, cpus, batch, wait / 1000) as url:
            typer.echo(
                f"serving {policy.spec.algo} for {policy.spec.env} after {policy.spec.policy_steps:,} policy steps at "
                f"{url}/act; Ctrl-C ends it"
            )
            while True:
                time.sleep(1)
    except (Interrupted, KeyboardInterrupt):  # the usual end
        typer.echo("the server has ended")


def push(
    path: Run,
    to: Annotated[str, typer.Argument(metavar="hf:USER/REPO", help="repository of the Hugging Face hub")],
    best: Best = False,
    private: Annotated[bool, typer.Option("--private", help="create a private repository")] = False,
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="write the files to this folder and upload nothing")
    ] = None,
) -> None:
    """Publish a policy on the Hugging Face hub, with a model card and without pickled objects (extra: hub)."""
    from sheeprl.checkpoint.best import named_checkpoint
    from sheeprl.checkpoint.hub import Repository, upload
    from sheeprl.policy.package import write_package

    repository = Repository.parse(to)
    run_dir, checkpoint = named_checkpoint(path, best)
    if out is not None:
        folder = _new_folder(out)
        write_package(run_dir, checkpoint, folder, to)
        typer.echo(f"{checkpoint.name} is written to {folder}")
        return
    with tempfile.TemporaryDirectory(prefix="sheeprl_push_") as temporary:
        write_package(run_dir, checkpoint, Path(temporary), to)
        url = upload(Path(temporary), repository, private, f"{run_dir.name}, {checkpoint.name}")
    typer.echo(f"{checkpoint.name} is published at {url}; use it as {to}")


def pull(
    name: Annotated[str, typer.Argument(metavar="hf:USER/REPO", help="repository of the Hugging Face hub")],
    out: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="folder to write; default: logs/hub/USER/REPO")
    ] = None,
) -> None:
    """Download a policy from the Hugging Face hub as the folder of a run (extra: hub)."""
    from sheeprl.checkpoint.hub import Repository, download
    from sheeprl.checkpoint.run_dir import base_folder

    repository = Repository.parse(name)
    folder = _new_folder(out or str(base_folder() / "logs" / "hub" / repository.repo))
    try:
        download(name, folder)
    except ConfigError:
        shutil.rmtree(folder)
        raise
    typer.echo(f"{repository} is in {folder}; sheeprl eval {folder}")


def _new_folder(path: str) -> Path:
    """Create a folder that doesn't exist or is empty, and return it.

    Raises:
        ConfigError: it has files, or can't be created.
    """
    folder = Path(path).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError([f"{folder}: isn't empty; name another folder with --out"])
    except OSError as error:
        raise ConfigError([f"{folder}: can't be created: {error.strerror or error}"]) from error
    return folder
