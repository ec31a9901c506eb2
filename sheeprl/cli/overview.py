"""The help of the program: its commands and algorithms. This module imports nothing that is slow to import."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping

from sheeprl.algos import registry

HELP = "Distributed reinforcement learning with PyTorch, Lightning Fabric and Ray."
EXAMPLES = {
    "sheeprl train ppo --env CartPole-v1": "train; flags and key=value mix",
    "sheeprl eval @last": "evaluate the newest run",
    "sheeprl COMMAND -h": "help with an example; sheeprl -h exit: the exit codes",
}
TRACEBACK = "--traceback on every command shows the traceback of an unexpected error."

OPTIONS = {
    "--version, -V": "print the version",
    "--sheeprl_help": "list the algorithms",
    "--install-completion": "install completion for the current shell",
    "--show-completion": "print the completion, to copy or change it",
    "--help, -h": "print this text",
}

WITH_SETTINGS = {
    "train": "Train with a configuration or an algorithm.",
    "run": "Train an agent with a configuration.",
    "resume": "Resume a run from its newest complete checkpoint.",
    "sweep": "Train with all combinations of several values, several runs at a time.",
    "tune": "Search for good settings with Ray Tune and Optuna, several seeds a trial (extra: tune).",
    "config": "Print what a configuration means, as YAML with all defaults filled in.",
    "check-env": "Check an environment: mistakes, fitting algorithms, speed and reproducibility.",
}
"""The commands with settings."""

PLAIN = {
    "eval": "Evaluate a saved policy and print its mean return ± standard deviation.",
    "replay": "Re-execute a recorded run in one process, and compare it bit by bit with the recording.",
    "ls": "List the runs in a folder with their status, the last started or resumed one first.",
    "status": "List the runs of a Ray cluster with their progress, the newest first.",
    "watch": "Show the progress of a run from its files: curves, losses, times; Ctrl-C ends the command, not the run.",
    "stop": "Stop a run of this machine after a checkpoint, and wait for its end; sheeprl resume continues it.",
    "compare": "Compare groups of runs: interquartile mean with a 95 % interval, and the probability of a "
    "higher score.",
    "plot": "Draw the interquartile mean of each group of runs with its 95 % interval, a column per environment.",
    "reproduce": "Draw a figure of plot again from its runs, compare the files, and list the commits and commands "
    "of the runs.",
    "report": "Write one HTML file with table, curves, profiles and the commands of the runs; it opens "
    "without a network.",
    "clean": "Remove checkpoints of runs that have ended; metrics, episodes and evaluations stay.",
    "export": "Export a policy to a file that needs no trainer, and compare it with the policy on "
    "recorded observations.",
    "enjoy": "Watch a policy play, in a window or in the terminal.",
    "dream": "Compare what a world model imagines with what happens, and print its errors.",
    "serve": "Serve a policy over HTTP with Ray Serve (extra: serve).",
    "push": "Publish a policy on the Hugging Face hub, with a model card and without pickled objects (extra: hub).",
    "pull": "Download a policy from the Hugging Face hub as the folder of a run (extra: hub).",
    "doctor": "Examine this machine for problems of a run: versions, GPU, compiler, Ray, memory, limits, extras.",
    "algos": "List the algorithms.",
    "configs": "List the shipped configurations.",
    "schema": "Print the JSON schema of configuration files, with which editors complete and check them.",
    "convert-config": "Convert an entry of RL Baselines3 Zoo's hyperparameters; a warning names each setting "
    "without a counterpart.",
    "init": "Write a package with an algorithm derived from another one, its configuration and a test.",
    "version": "Print the version.",
}
"""The commands without settings."""


def print_overview() -> None:
    """Print the commands and the algorithms."""
    width = shutil.get_terminal_size().columns
    algorithms = {name: summary(name) for name in registry.registered() if name not in WITH_SETTINGS | PLAIN}
    names = [*OPTIONS, *WITH_SETTINGS, *PLAIN, *algorithms]
    column = max(len(name) for name in names) + 2
    lines = [
        "",
        " Usage: sheeprl [OPTIONS] COMMAND [ARGS]...",
        "",
        *textwrap.wrap(HELP, width, initial_indent=" ", subsequent_indent=" "),
        "",
    ]
    lines += _panel("Options", OPTIONS, column, width)
    lines += _panel("Commands", WITH_SETTINGS | PLAIN, column, width)
    lines += _panel("Algorithms, with their defaults", algorithms, column, width)
    examples = _table(EXAMPLES, max(len(word) for word in EXAMPLES) + 3, width - 1)
    lines += ["", *(f" {line}" for line in examples)]
    lines += ["", *textwrap.wrap(TRACEBACK, width, initial_indent=" ", subsequent_indent=" "), ""]
    print("\n".join(lines))


def summary(name: str) -> str:
    """Return the summary of an algorithm, or why it can't be loaded."""
    try:
        return registry.summary(name)
    except Exception as error:  # a broken package must not hide the other commands
        from sheeprl.cli.commands import broken

        return broken(error)


def _panel(title: str, entries: Mapping[str, str], column: int, width: int) -> list[str]:
    """Return the lines of a table in a frame.

    Args:
        title: text in the upper edge.
        entries: texts by name.
        column: width of the names.
        width: width of the frame.
    """
    inner = max(20, width - 4)
    top = f"╭─ {title} ".ljust(width - 1, "─") + "╮"
    rows = [f"│ {line.ljust(inner)} │" for line in _table(entries, column, inner)]
    return [top, *rows, "╰".ljust(width - 1, "─") + "╯"]


def _table(entries: Mapping[str, str], column: int, width: int) -> list[str]:
    """Return one or more lines per entry, with the texts in the second column."""
    lines = []
    for name, text in entries.items():
        first, *more = textwrap.wrap(text, max(10, width - column)) or [""]
        lines += [name.ljust(column) + first, *(" " * column + line for line in more)]
    return lines
