"""The commands without settings: eval, replay, ls, algos, configs and version."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from sheeprl.algos import registry
from sheeprl.algos.args import OnPolicy
from sheeprl.cli.completion import complete_run
from sheeprl.cli.names import shipped
from sheeprl.cli.report import FAILED, first_line, print_error
from sheeprl.config.loading import get_value, presets, shipped_folder
from sheeprl.config.schema import EvalConfig
from sheeprl.utils.errors import ConfigError
from sheeprl.utils.text import counted
from sheeprl.version import __version__

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN|CHECKPOINT",
        help="folder of a run (newest checkpoint) or of a checkpoint, @last, @best, a prefix of a run's name, a "
        "run's URL at checkpoint.storage, or hf:user/repo",
        autocompletion=complete_run,
    ),
]

EPISODES: int = EvalConfig.model_fields["episodes"].default


def at_least(least: int) -> Callable[..., Any]:
    """Return a callback that refuses smaller values."""

    def check(context: typer.Context, parameter: typer.CallbackParam, value: int | None) -> int | None:
        """Return the value.

        Raises:
            ConfigError: the value is too small.
        """
        if value is not None and value < least:
            raise ConfigError([f"{parameter.opts[0]}={value}: must be at least {least}"])
        return value

    return check


def evaluate(
    path: Run,
    episodes: Annotated[int, typer.Option(callback=at_least(1), metavar="int", help="number of episodes")] = EPISODES,
    seed: Annotated[
        int | None, typer.Option(callback=at_least(0), metavar="int", help="seed of the episodes; default run.seed")
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="evaluate the best checkpoint, by the run's checkpoint.best_by")
    ] = False,
    video: Annotated[
        bool, typer.Option("--video", help="film the best, the worst and the median episode (extra: video)")
    ] = False,
    step_limit: Annotated[
        int | None,
        typer.Option(
            callback=at_least(1),
            metavar="int",
            help="steps after which an episode is cut; default eval.step_limit of the run",
        ),
    ] = None,
    evals: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="evaluate on these environments of eval.envs, separated by commas"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="env.key=value",
            help="settings of the environment that differ from the run's, such as env.kwargs.gravity=9.8 or env.id of "
            "an environment with the same spaces",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Evaluate a saved policy and print its mean return ± standard deviation."""
    from sheeprl.checkpoint.runs import is_stored, resolve_run

    with only_result_on_stdout() as stdout:
        from sheeprl.evaluate import check_names, describe_cut, evaluate_checkpoint

        run = resolve_run(path)
        if best or is_stored(run):
            from sheeprl.checkpoint.best import named_checkpoint

            run = str(named_checkpoint(run, best)[1])
        if run != path:
            typer.echo(f"folder: {run}", err=True)
        names = evals.split(",") if evals is not None else []
        if names:  # before the first episode
            check_names(run, names)
        results = {}
        for name in names or (None,):
            result = evaluate_checkpoint(run, episodes, seed, video, step_limit, settings or [], name)
            if result.cut:
                typer.echo(f"warning: {describe_cut(result)}", err=True)
            about = f"{result}, after {counted(result.policy_steps, 'policy step')}"
            results[name or ""] = {key: value for key, value in asdict(result).items() if key != "named"}
            if not as_json:
                changed = f" with {' '.join(settings)}" if settings else ""
                typer.echo(f"{name}{changed}: {about}" if name else about, stdout)
        if as_json:
            typer.echo(json.dumps(results if names else results[""]), stdout)


@contextlib.contextmanager
def only_result_on_stdout() -> Iterator[TextIO]:
    """Yield a stream to stdout, and redirect all other output to stderr, also that of C code and child processes.

    The redirection of the file descriptor lasts until the process ends, because simulators also print at exit.
    """
    stream = sys.stdout
    try:
        descriptor = stream.fileno()
        others = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()
    except (AttributeError, OSError):  # no stdout, or objects in memory
        with contextlib.redirect_stdout(sys.stderr):
            yield stream
        return
    stream.flush()
    with open(os.dup(descriptor), "w", encoding=stream.encoding, errors=stream.errors) as result:
        os.dup2(others, descriptor)
        yield result


def replay(
    run_dir: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="folder of a run with log.record=true, @last, @best, or a prefix of its name",
            autocompletion=complete_run,
        ),
    ],
    until_step: Annotated[
        int | None,
        typer.Option("--until-step", callback=at_least(1), metavar="int", help="stop after this gradient step"),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="write the agent to this file, in the format of agent.pt")
    ] = None,
) -> None:
    """Re-execute a recorded run in one process, and compare it bit by bit with the recording."""
    from sheeprl.checkpoint.run_dir import is_locked
    from sheeprl.checkpoint.runs import resolve_run
    from sheeprl.debug.replayer import replay_run

    folder = resolve_run(run_dir)
    if is_locked(Path(folder).expanduser()):
        typer.echo("warning: the run is in progress; only the calls recorded so far are re-executed", err=True)
    replayed = replay_run(folder, until_step, out, typer.echo)
    if replayed.difference is not None:
        print_error(f"re-execution differs: {replayed.difference}")
        raise typer.Exit(FAILED)
    after = f" after the first {replayed.recorded_from:,}, which the record misses" if replayed.recorded_from else ""
    typer.echo(
        f"re-execution is identical: {counted(replayed.fragments, 'fragment')}, "
        f"{counted(replayed.gradient_steps - replayed.recorded_from, 'gradient step')}{after}, "
        f"final parameters {replayed.parameters}"
    )


def list_runs(
    folder: Annotated[
        str | None,
        typer.Argument(
            metavar="FOLDER",
            help="list the runs below it, also at a URL; default: the working folder and logs",
            show_default=False,
        ),
    ] = None,
    tag: Annotated[str | None, typer.Option(metavar="WORD", help="only runs with this word in run.tags")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object per run and line")] = False,
) -> None:
    """List the runs in a folder with their status, the last started or resumed one first."""
    from sheeprl.checkpoint.run_dir import base_folder
    from sheeprl.checkpoint.runs import TAG, find_runs

    if folder is not None and folder.startswith(TAG):  # as in the commands that take several runs
        tag, folder = folder.removeprefix(TAG), None
    rows = [("run", "started", "status", "algorithm", "environment", "policy steps saved", "tags")]
    for run in find_runs(folder):
        tags = run.listed("run.tags") or ()
        if tag is not None and tag not in tags:
            continue
        steps = run.policy_steps
        if as_json:
            times = {"started": run.first_started, "last_started": run.started}
            about = {"run": run.path, **times, "status": run.status, "policy_steps": steps}
            typer.echo(json.dumps(about | {name: part for name, part in run.info.items() if name != "starts"}))
            continue
        algorithm, env = (str(run.listed(key) or "?") for key in ("algo.name", "env.id"))
        saved = "none" if steps is None else f"{steps:,}"
        name = run.name if folder is None else run.path
        rows.append((name, run.started_at, run.status, algorithm, env, saved, " ".join(tags)))
    if as_json:
        return
    if len(rows) == 1:
        tagged = f" with the tag {tag}" if tag else ""
        typer.echo(f"no run{tagged} in {folder or base_folder()}; start one with sheeprl train ppo")
    else:
        print_table(rows)


def algos() -> None:
    """List the algorithms."""
    rows = [("name", "observations", "actions", "policy", "summary")]
    print_table(rows + [_algorithm_row(name) for name in registry.registered()])


def configs() -> None:
    """List the shipped configurations."""
    rows = [("name", "algorithm", "environment", "policy steps", "summary")]
    for found in shipped():
        steps = get_value(found.tree, "run.total_steps")
        rows.append((found.name, found.algorithm, found.env, f"{steps:,}" if steps else "default", found.summary))
    print_table(rows)
    typer.echo(f"\npresets, for base in a file: {', '.join(presets())}")
    typer.echo(f"files: {shipped_folder()}; train with one: sheeprl train NAME; print one: sheeprl config NAME")


def version() -> None:
    """Print the version."""
    typer.echo(f"sheeprl {__version__}")


def _algorithm_row(name: str) -> tuple[str, str, str, str, str]:
    """Return the row of an algorithm in the list."""
    try:
        args = registry.args_class(name)
        policy = "on-policy" if isinstance(args.model_construct(name=name).data(), OnPolicy) else "off-policy"
    except Exception as error:  # a broken package must not hide the other algorithms
        return name, "?", "?", "?", broken(error)
    return name, ", ".join(args.observations), ", ".join(args.actions), policy, args.summary


def broken(error: Exception) -> str:
    """Return the summary of an algorithm that can't be imported."""
    return f"can't be loaded: {first_line(error)}"


def print_table(rows: Iterable[Sequence[str]]) -> None:
    """Print rows in aligned columns."""
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
