"""Entry point of the command line: find the command, run it, and exit with its code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence

from sheeprl.algos import registry
from sheeprl.cli import help as help_texts
from sheeprl.cli import training
from sheeprl.cli.check_env import check_env
from sheeprl.cli.completion import flags_for, words_to_complete
from sheeprl.cli.names import is_algorithm, peer_use, shipped_files
from sheeprl.cli.overview import print_overview
from sheeprl.cli.report import report
from sheeprl.cli.sweep import sweep
from sheeprl.cli.training import Session
from sheeprl.cli.tune import tune
from sheeprl.cli.words import ENV_ID, take_switch
from sheeprl.config.suggestions import nearest, nearest_names
from sheeprl.utils.errors import ConfigError, shell_command
from sheeprl.utils.gc_control import leave_to_the_end
from sheeprl.utils.output import lasting_output

WITH_SETTINGS: dict[str, Callable[[list[str], Session], int]] = {
    "train": training.train,
    "run": training.run,
    "resume": training.resume,
    "sweep": sweep,
    "tune": tune,
    "config": training.print_config,
    "check-env": check_env,
}

HELP_FLAGS = ("-h", "--help")
PROGRAM_FLAGS = (*HELP_FLAGS, "-V", "--version", "--sheeprl_help", "--install-completion", "--show-completion")

OTHER_WORDS = {
    "list": "use sheeprl ls for runs, sheeprl algos or sheeprl configs",
    "runs": "use sheeprl ls",
    "ps": "use sheeprl status for the runs of a cluster, or sheeprl ls",
    **dict.fromkeys(("play", "render"), "use sheeprl enjoy RUN, or sheeprl eval RUN --video"),
    **dict.fromkeys(("evaluate", "test"), "use sheeprl eval RUN"),
    **dict.fromkeys(("learn", "fit", "start"), "use sheeprl train NAME"),
    **dict.fromkeys(("continue", "restart"), "use sheeprl resume RUN"),
    **dict.fromkeys(("check", "validate"), "use sheeprl train NAME --dry-run, or sheeprl check-env ID"),
    **dict.fromkeys(("benchmark", "env", "envs"), "use sheeprl check-env ID"),
    **dict.fromkeys(("show", "print"), "use sheeprl config NAME"),
    "verify": "use sheeprl replay RUN",
    **dict.fromkeys(("kill", "cancel"), "use sheeprl stop RUN"),
    **dict.fromkeys(("rm", "remove", "delete"), "use sheeprl clean, or remove the folder of the run"),
    **dict.fromkeys(("top", "monitor", "follow"), "use sheeprl watch RUN"),
    "tensorboard": "use tensorboard --logdir logs",
}
"""Words that users of other programs type, and what to do instead."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; the entry point of the console script.

    Args:
        args: the words after `sheeprl`; by default those of this process.

    Raises:
        SystemExit: always, with the exit code.
    """
    # As `python -m` does: import environments and algorithms from the working folder, also in Ray workers.
    sys.path.append(os.getcwd())
    leave_to_the_end()
    words = list(sys.argv[1:] if args is None else args)
    session = Session()
    with lasting_output():
        try:
            session.traceback = take_switch(words, "traceback")
            code = _run(words, session)
        except (Exception, KeyboardInterrupt) as error:
            code = report(error, session.traceback)
    sys.exit(code)


def _run(words: list[str], session: Session) -> int:
    """Run the command that the words name, and return the exit code."""
    if (incomplete := words_to_complete()) is not None:
        command = incomplete[0] if incomplete else None
        flags = help_texts.flags_of_command(command, flags_for(incomplete))
        return _call(help_texts.make_app(command, flags), words)
    if words[:1] == ["help"] or words[:1] == ["-h"] or words[:1] == ["--help"]:
        return _help(words[1:])
    command = next((word for word in words if not word.startswith("-")), None)
    _check_command(command)
    if not words:
        return _help([])
    if command is None or words[0] != command:
        _check_first(words)
        return _call(help_texts.make_app(), words)
    if not _has_settings(command):
        return _call(help_texts.make_app(), [_hyphenated(word) for word in words])
    rest = words[1:]
    if position := next((place for place, word in enumerate(rest, 1) if word in HELP_FLAGS), None):
        return _settings_help(command, rest[: position - 1], rest[position:])
    handler = WITH_SETTINGS.get(command) or training.algorithm_command(command)
    return handler(rest, session)


def _call(app: Callable[..., object], words: list[str]) -> int:
    """Call the application of typer and return the exit code."""
    code = app(args=words, prog_name="sheeprl", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _hyphenated(word: str) -> str:
    """Return an option with hyphens for underscores, which the other commands accept alike; other words unchanged."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def _has_settings(command: str) -> bool:
    """Return whether a command takes the settings of a run."""
    return command in WITH_SETTINGS or command in help_texts.algorithms()


def _help(words: list[str]) -> int:
    """Print the help of the program, of a command, or of a topic."""
    if not words:
        print_overview()
        return 0
    if words[0] == "exit":
        help_texts.print_exit_codes()
        return 0
    if words[0] in help_texts.TOPICS:
        return _settings_help("train", [], words)
    _check_command(words[0])
    if _has_settings(words[0]):
        names = [word for word in words[1:] if word not in (*help_texts.TOPICS, "exit")]
        return _settings_help(words[0], names, [word for word in words[1:] if word not in names])
    return _call(help_texts.make_app(), [words[0], "--help"])


def _settings_help(command: str, before: list[str], after: list[str]) -> int:
    """Print the help of a command with settings.

    Args:
        command: the command.
        before: the words before `-h`, with the NAME.
        after: the words after `-h`; the first one is the topic.
    """
    topic = next((word for word in after if not word.startswith("-")), None)
    if topic == "exit":
        help_texts.print_exit_codes()
        return 0
    if command in registry.registered():
        registry.args_class(command)  # raises if the package is broken
    listing = " ".join(["sheeprl", command, *(word for word in before[:1] if not word.startswith("-"))])
    flags = flags_for([command, *before])
    return _call(help_texts.settings_app(command, flags, topic, listing), [command, "--help"])


def _check_first(words: list[str]) -> None:
    """Check that a flag before the command is one of the program.

    Raises:
        ConfigError: it belongs after a command.
    """
    if not words or words[0].partition("=")[0] in PROGRAM_FLAGS:
        return
    name = words[0].partition("=")[0]
    if name == "-v":
        raise ConfigError(["-v: unknown flag; use -V or sheeprl version"])
    known = [flag.removeprefix("--") for flag in PROGRAM_FLAGS]
    hint = (
        nearest(name.lstrip("-"), known, "--")
        or "; flags follow the command, as in sheeprl train ppo --env CartPole-v1"
    )
    raise ConfigError([f"{name}: unknown flag{hint} (list: sheeprl -h)"])


def _check_command(command: str | None) -> None:
    """Check that a command exists.

    Raises:
        ConfigError: the command doesn't exist; the message has what to use instead.
    """
    known = [*WITH_SETTINGS, *help_texts.PLAIN, *help_texts.algorithms(), "help"]
    if command is None or command in known:
        return
    name, equals, value = command.partition("=")
    if command.endswith((".yaml", ".yml")) or command in shipped_files():
        reason = f"; did you mean {shell_command('train', command)}?"
    elif equals and re.fullmatch(r"[\w.]+", name):
        reason = f"; use sheeprl train {value if name == 'exp' else 'NAME ' + command}"
    elif is_algorithm(command):
        reason = f"; use sheeprl train {command}"
    elif re.fullmatch(ENV_ID, command):
        reason = f"; use sheeprl train ppo --env {command}"
    elif use := peer_use(command):
        reason = f"; use sheeprl train {use}"
    elif command in OTHER_WORDS:
        reason = f"; {OTHER_WORDS[command]}"
    else:
        reason = nearest_names(command, known, "sheeprl --help")
    raise ConfigError([f"no command {command!r}{reason}"])
