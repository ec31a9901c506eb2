"""Print errors on stderr, one line per mistake, and choose exit codes."""

from __future__ import annotations

import os
import re
import signal
import traceback
from typing import Any

import typer

from sheeprl.algos.args import AlgoArgs
from sheeprl.algos.registry import DuplicateAlgorithmError
from sheeprl.cli.flags import Flags
from sheeprl.config.suggestions import nearest
from sheeprl.utils.errors import ConfigError, RunFailedError, one_line

FAILED, WRONG_INPUT = 1, 2  # exit codes besides 0, and 128 + number of the signal that ended the command

EXIT_CODES = """\
Exit codes:
  0    success
  1    the run failed; one line has the cause
  2    wrong input; one line per mistake, and nothing was started
  129  its terminal was closed (SIGHUP), after a checkpoint
  130  interrupted (Ctrl-C), after a checkpoint
  143  terminated (SIGTERM), after a checkpoint"""

USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]
"""Base class of typer's errors of usage; depending on typer's version, a class of click or of typer."""


NUMBERS = {"integer": "whole number", "number": "number", "float": "number"}
"""Kinds of numbers by the word for them in typer's errors."""

EVAL_WORDS = {
    **dict.fromkeys(("deterministic", "greedy"), "an evaluation is deterministic; eval.explore=true makes it explore"),
    **dict.fromkeys(("stochastic", "sample", "no_deterministic"), "use eval.explore=true"),
    **dict.fromkeys(("n_eval_episodes", "n_episodes", "num_episodes", "eval_episodes"), "use --episodes"),
    **dict.fromkeys(("render", "render_mode", "record", "record_video", "capture_video", "save_video"), "use --video"),
    **dict.fromkeys(("no_render", "no_video"), "an evaluation renders only with --video; leave it out"),
    **dict.fromkeys(("max_steps", "n_timesteps", "max_episode_length"), "use --step-limit"),
    **dict.fromkeys(
        ("checkpoint", "checkpoint_path", "ckpt", "load_checkpoint", "model", "model_path", "path", "folder", "run"),
        "name the run or the checkpoint without a flag, as in sheeprl eval @last",
    ),
    **dict.fromkeys(("load_best", "best"), "use --best"),
    **dict.fromkeys(("algo", "config"), "the checkpoint contains its algorithm and its configuration; leave it out"),
    **dict.fromkeys(("device", "cuda", "accelerator", "gpu"), "an evaluation runs on the CPU; leave it out"),
}
"""Options with which other programs evaluate, and what to do instead."""

WORDS = {
    "eval": EVAL_WORDS,
    "plot": {
        **dict.fromkeys(("facet", "col"), "an environment has its own column; leave it out"),
        **dict.fromkeys(("iqm", "ci"), "curves are interquartile means with 95 % intervals; leave it out"),
        **dict.fromkeys(("output", "save", "file"), "use --out"),
    },
    "compare": {
        **dict.fromkeys(("iqm", "ci"), "the table has interquartile means with 95 % intervals; leave it out"),
        **dict.fromkeys(("group", "groupby", "group_by"), "use --by"),
    },
    "push": {
        **dict.fromkeys(("card", "readme"), "a model card is always written; leave it out"),
        **dict.fromkeys(("repo", "repo_id"), "name it without a flag, as in sheeprl push @last hf:USER/REPO"),
    },
    "serve": dict.fromkeys(("follow_best", "watch", "reload"), "use --follow"),
    "export": {
        **dict.fromkeys(("format", "fmt"), "use --to"),
        **dict.fromkeys(("output", "file", "path"), "use --out"),
    },
    "clean": dict.fromkeys(("older_than", "age"), "use --older"),
}
"""Options that users of other commands and programs expect, by command, and what to do instead."""


def report(error: BaseException, with_traceback: bool = False) -> int:
    """Print an error and return its exit code."""
    if isinstance(error, ConfigError):
        for mistake in error.mistakes:
            print_error(mistake)
        return WRONG_INPUT
    if isinstance(error, DuplicateAlgorithmError):
        print_error(str(error))
        return WRONG_INPUT
    if isinstance(error, USAGE_ERROR):
        print_error(usage_mistake(error))
        return WRONG_INPUT
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        typer.echo("interrupted", err=True)
        return 128 + int(getattr(error, "number", signal.SIGINT))
    shown = with_traceback or os.environ.get("SHEEPRL_TRACEBACK") == "1"
    if shown:
        typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    if isinstance(error, RunFailedError):
        print_error(str(error))
    else:
        print_error(first_line(error) + ("" if shown else " (--traceback shows the traceback)"))
    return FAILED


def print_error(text: str) -> None:
    """Print an error message on stderr."""
    typer.echo(f"error: {text}", err=True)


def first_line(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    kind, line = type(error).__name__, one_line(error)
    return line if line == kind else f"{kind}: {line}"


def usage_mistake(error: Any) -> str:
    """Return the line of a usage error of typer: the cause, then what to do."""
    kind, parameter = type(error).__name__, getattr(error, "param", None)
    command = error.ctx.command_path if error.ctx else "sheeprl"
    usage = " ".join(error.ctx.get_usage().split()) if error.ctx else ""
    if kind == "MissingParameter" and parameter is not None:
        return f"{parameter.metavar or parameter.name}: is missing; {usage}"
    if kind == "NoSuchOption":
        known = [name.lstrip("-") for name in error.possibilities or ()]
        hint = nearest(error.option_name.lstrip("-"), known, "--") or _hint(error.option_name, command)
        return f"{error.option_name}: unknown flag{hint} (list: {command} -h)"
    if kind == "BadOptionUsage":
        return f"{error.option_name}: needs a value"
    if kind == "BadParameter" and parameter is not None:
        number = next((name for word, name in NUMBERS.items() if word in error.message), None)
        if number is None:
            return f"{parameter.opts[0]}: {error.message}"
        # Old versions of typer quote the value; newer ones raise from an error of pydantic, which contains it.
        quoted = re.search(r"^'(.*)'|input_value='(.*)', input_type", f"{error.message} {error.__cause__}")
        value = f"={quoted[1] or quoted[2]}" if quoted else ""
        return f"{parameter.opts[0]}{value}: must be a {number}"
    if "extra argument" in error.message:
        words = error.message.partition("(")[2].partition(")")[2].strip(" ()")
        return f"{words}: unexpected; {usage}"
    return str(error.format_message())


def _hint(option: str, command: str) -> str:
    """Return what a command has for another program's option, or `eval` for a setting; "" for other options."""
    name, own = option.lstrip("-").replace("-", "_"), command.rpartition(" ")[2]
    if (use := WORDS.get(own, {}).get(name)) is not None:
        return f"; {use}"
    if own != "eval":
        return ""
    flag, _ = Flags(AlgoArgs).find(name)
    if flag is None:
        return ""
    from sheeprl.evaluate import OPTIONS, SETTINGS

    if flag.key in OPTIONS:
        return f"; use {OPTIONS[flag.key]}"
    return f"; use {flag.key}=VALUE" if flag.key in SETTINGS else f"; an evaluation takes {', '.join(SETTINGS)}"
