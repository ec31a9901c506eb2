"""The typer application: it prints help, completes words and parses the commands without settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from sheeprl.algos import registry
from sheeprl.cli import commands, files, machine, overview, policy, project, results
from sheeprl.cli.check_env import SECONDS, TIMEOUT
from sheeprl.cli.completion import (
    complete_env,
    complete_name,
    complete_run,
    complete_setting,
    values_of,
    words_to_complete,
)
from sheeprl.cli.flags import Flag, Flags, type_name
from sheeprl.cli.names import example_env, shipped_files
from sheeprl.cli.overview import HELP, WITH_SETTINGS, summary
from sheeprl.cli.report import EXIT_CODES
from sheeprl.cli.status import status
from sheeprl.cli.stop import stop
from sheeprl.cli.watch import watch
from sheeprl.config.schema import Config
from sheeprl.config.suggestions import nearest
from sheeprl.utils.errors import ConfigError

TRACEBACK = "--traceback shows the traceback of an unexpected error."

SWITCHES = "A setting that is true|false is also a switch: --capture_video, --no-capture_video."

SECTIONS = tuple(Config.model_fields)
TOPICS = ("all", *SECTIONS)

EXAMPLES = {
    "train": "sheeprl train ppo --env CartPole-v1 --seed 3 algo.gamma=0.9",
    "run": "sheeprl run ppo run.seed=3 --num_envs 8",
    "resume": "sheeprl resume @last --total_steps 200000",
    "sweep": "sheeprl sweep ppo env.id=CartPole-v1,Acrobot-v1 run.seed=0..9 --cpus 0.5",
    "tune": "sheeprl tune ppo --env CartPole-v1 --trials 30 --seeds 2 algo.learning_rate=log(1e-5,1e-2)",
    "config": "sheeprl config ppo algo.gamma=0.9 --diff",
    "check-env": "sheeprl check-env Pendulum-v1 --num_envs 8 env.wrappers=[frame_stack]",
}

PLAIN: dict[str, Callable[..., None]] = {
    "eval": commands.evaluate,
    "replay": commands.replay,
    "ls": commands.list_runs,
    "status": status,
    "watch": watch,
    "stop": stop,
    "compare": results.compare,
    "plot": results.plot,
    "reproduce": results.reproduce,
    "report": results.report,
    "clean": results.clean,
    "export": policy.export,
    "enjoy": policy.enjoy,
    "dream": policy.dream,
    "serve": policy.serve,
    "push": policy.push,
    "pull": policy.pull,
    "doctor": machine.doctor,
    "algos": commands.algos,
    "configs": commands.configs,
    "schema": files.schema,
    "convert-config": files.convert_config,
    "init": project.init,
    "version": commands.version,
}
"""The commands without settings."""


class _PlainTypes:
    """Mixin of commands whose help shows no type for switches and arguments."""

    def get_params(self, context: Any) -> list[Any]:
        """Return the parameters, without types that help would show in angle brackets."""
        parameters: list[Any] = super().get_params(context)  # type: ignore[misc]
        for parameter in parameters:
            if parameter.param_type_name == "argument":
                parameter.display_type_rich = lambda ctx: None
            elif getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return parameters


class _Command(_PlainTypes, TyperCommand):
    """Command in the style of this program."""


class _Group(_PlainTypes, TyperGroup):
    """The program."""


def make_app(
    command: str | None = None, flags: Sequence[Flag] = (), epilog: str = "", panel: str | None = None
) -> typer.Typer:
    """Return the application.

    Args:
        command: the command on the command line.
        flags: the settings in the help of this command.
        epilog: the text below its options.
        panel: the title above the settings; None for one title per section.
    """
    from rich.markup import escape

    settings = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(
        name="sheeprl",
        cls=_Group,
        help=HELP,
        callback=_flags_of_sheeprl,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings=settings,
    )
    lenient = {**settings, "ignore_unknown_options": True, "allow_extra_args": True}
    described = _described(command, flags, panel) if command else _nothing
    for name in [*WITH_SETTINGS, *algorithms()]:
        whole = name == command
        app.command(
            name,
            cls=_Command,
            help=WITH_SETTINGS.get(name) or escape(summary(name)),
            epilog=epilog if whole else "",
            context_settings=lenient,
            rich_help_panel=None if name in WITH_SETTINGS else "Algorithms, with their defaults",
        )(described if whole else _nothing)
    for name, function in PLAIN.items():
        app.command(name, cls=_Command, help=overview.PLAIN[name], context_settings=settings, epilog=TRACEBACK)(
            function
        )
    return app


def _nothing() -> None:
    """Stand for a command that isn't on the command line."""


def algorithms() -> list[str]:
    """Return the algorithms whose names aren't commands."""
    return [name for name in registry.registered() if name not in WITH_SETTINGS and name not in PLAIN]


# ----------------------------------------------------------------------------- commands with settings


def settings_app(command: str, flags: Flags, topic: str | None, listing: str) -> typer.Typer:
    """Return the application for the help of a command with settings.

    Args:
        command: the command, for its example.
        flags: all flags.
        topic: the word after `-h`: a section, or all; None for the settings that matter.
        listing: the command line without `-h`.

    Raises:
        ConfigError: there is no such topic.
    """
    if command == "check-env":
        chosen = flags_of_command(command, flags)
    elif topic is None:
        chosen = flags.first()
    elif topic in TOPICS:
        chosen = [flag for flag in flags.every if topic in ("all", flag.section)]
    else:
        mistake = f"-h {topic}: no such section{nearest(topic, TOPICS)} (use {', '.join(TOPICS)} or exit)"
        raise ConfigError([mistake])
    env = example_env(flags.args)
    example = EXAMPLES.get(command, f"sheeprl {command} --env {env} --seed 3 run.total_steps=50000")
    more = f"More: {listing} -h all: all {len(flags.every)} settings; -h SECTION: those of {', '.join(SECTIONS)}"
    panel = None if topic else "The settings that matter"
    if command == "check-env":
        more, panel = "Exit code 0 if it can be trained on, 2 with one line per mistake if not.", "Its settings"
    epilog = "\n\n".join([f"Example: {example}", more, SWITCHES, TRACEBACK])
    return make_app(command, chosen, epilog, panel)


def flags_of_command(command: str | None, flags: Flags) -> list[Flag]:
    """Return the flags that a command accepts: all, or those of the environment besides its id."""
    if command != "check-env":
        return flags.every
    return [flag for flag in flags.every if flag.section == "env" and flag.key != "env.id"]


def _described(command: str, flags: Sequence[Flag], panel: str | None) -> Callable[..., None]:
    """Return a function with the arguments and options of a command with settings; it is never called."""

    def described(**given: Any) -> None:
        """Do nothing; `sheeprl.cli.training` has the commands."""

    parameters = [
        *_arguments(command),
        *_own_options(command),
        *(parameter for flag in flags for parameter in _parameters(flag, panel)),
    ]
    described.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return described


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    """Return a parameter of a command."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _arguments(command: str) -> Iterator[inspect.Parameter]:
    """Yield the arguments of a command with settings."""
    configurations = ", ".join(shipped_files())
    if command in ("train", "config", "sweep", "tune"):
        text = f"YAML file, shipped configuration ({configurations}) or algorithm ({', '.join(registry.registered())})"
        argument = typer.Argument(metavar="NAME", help=text, autocompletion=complete_name, show_default=False)
        yield _parameter("name", Annotated[str | None, argument])
    elif command == "run":
        text = f"YAML file, or shipped configuration: {configurations}"
        argument = typer.Argument(metavar="CONFIG", help=text, autocompletion=complete_name, show_default=False)
        yield _parameter("name", Annotated[str | None, argument])
    elif command == "resume":
        text = "folder of a run, its URL in a checkpoint.storage, @last, @best, or a prefix of its name"
        argument = typer.Argument(metavar="RUN", help=text, autocompletion=complete_run, show_default=False)
        yield _parameter("name", Annotated[str | None, argument])
    elif command == "check-env":
        text = "id of a gymnasium environment, also module:id"
        argument = typer.Argument(metavar="ID", help=text, autocompletion=complete_env, show_default=False)
        yield _parameter("name", Annotated[str | None, argument])
    words = typer.Argument(
        metavar="key=value",
        help="settings such as run.seed=1, mixed with flags such as --seed 1; values are YAML",
        autocompletion=complete_setting,
        hidden=command not in WITH_SETTINGS,
    )
    yield _parameter("words", Annotated[list[str] | None, words])


def _own_options(command: str) -> Iterator[inspect.Parameter]:
    """Yield the options of a command itself."""
    if command == "config":
        text = "print only what differs from the defaults, or from another NAME: --diff NAME"
        yield _parameter("diff", Annotated[bool, typer.Option("--diff", help=text)], False)
        return
    if command == "check-env":
        yield from _check_env_options()
        return
    if command == "sweep":
        yield from _sweep_options()
    if command == "tune":
        yield from _tune_options()
    if command not in WITH_SETTINGS:
        option = typer.Option("--config", metavar="FILE", show_default=False, help="configuration to start from")
        yield _parameter("config", Annotated[str | None, option])
    text = "check the settings, the environment and the machine, and stop"
    yield _parameter("dry_run", Annotated[bool, typer.Option("--dry-run", help=text)], False)


def _sweep_options() -> Iterator[inspect.Parameter]:
    """Yield the options of `sweep`."""
    text = "folder of the sweep; default: logs/sweeps, and the name and the varied settings"
    yield _parameter("out", Annotated[str | None, typer.Option("--out", metavar="FOLDER", help=text)])
    text = "cores of each run; with 0.5, two runs share a core"
    yield _parameter("cpus", Annotated[str | None, typer.Option("--cpus", metavar="float", help=text)])
    text = "most runs at a time; auto, the default: as many as the cores permit"
    yield _parameter("jobs", Annotated[str | None, typer.Option("--jobs", metavar="int", help=text)])


def _tune_options() -> Iterator[inspect.Parameter]:
    """Yield the options of `tune`."""
    texts = {
        "trials": ("int", "number of trials"),
        "budget": ("TIME", "time after which no trial goes on, such as 2h or 30m"),
        "seeds": ("int", "runs of each trial, with different seeds; default 1"),
        "metric": ("NAME", "eval/return (the default) or episode/return"),
        "population": ("int", "members of population-based training, which replaces the trials"),
        "parts": ("int", "parts of a member's training, after which networks are passed on; default 10"),
        "cpus": ("float", "cores of each trial; default 1"),
        "jobs": ("int", "most trials at a time; auto, the default: as many as the cores permit"),
        "out": ("FOLDER", "folder of the search; default: logs/tune and the name"),
    }
    for name, (kind, text) in texts.items():
        yield _parameter(name, Annotated[str | None, typer.Option(f"--{name}", metavar=kind, help=text)])
    text = "train all trials to their end"
    yield _parameter("no_pruning", Annotated[bool, typer.Option("--no-pruning", help=text)], False)


def _check_env_options() -> Iterator[inspect.Parameter]:
    """Yield the options of `check-env`."""
    from rich.markup import escape

    text = f"seconds of each measurement; there are up to eight [default: {SECONDS:g}]"
    option = typer.Option("--seconds", metavar="float", help=escape(text), show_default=False)
    yield _parameter("seconds", Annotated[str | None, option])
    text = f"seconds after which one step or reset is interrupted [default: {TIMEOUT:g}]"
    option = typer.Option("--timeout", metavar="float", help=escape(text), show_default=False)
    yield _parameter("timeout", Annotated[str | None, option])
    yield _parameter("as_json", Annotated[bool, typer.Option("--json", help="print one JSON object")], False)


def _parameters(flag: Flag, panel: str | None) -> Iterator[inspect.Parameter]:
    """Yield the shown option of a flag; the shell also completes the negative name of a switch."""
    kind, values = type_name(flag.field.annotation), values_of(flag)
    if values == ["true", "false"] and words_to_complete() is not None:
        option = typer.Option(f"--{flag.name}/--no-{flag.name}", help=flag.help)
        yield _parameter(flag.parameter, Annotated[bool | None, option])
        return
    option = typer.Option(
        f"--{flag.name}",
        help=flag.help,
        show_default=False,
        rich_help_panel=panel or flag.section,
        metavar=kind,
        autocompletion=(lambda: values) if values else None,
    )
    yield _parameter(flag.parameter, Annotated[str | None, option])


# -------------------------------------------------------------------------------------- the program


def print_exit_codes() -> None:
    """Print the meaning of the exit codes."""
    typer.echo(EXIT_CODES)


def _print_version(requested: bool) -> None:
    """Print the version and exit, if requested."""
    if requested:
        commands.version()
        raise typer.Exit


def _print_algos(requested: bool) -> None:
    """Print the algorithms and exit, if requested."""
    if requested:
        commands.algos()
        raise typer.Exit


def _flags_of_sheeprl(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
    sheeprl_help: Annotated[
        bool, typer.Option("--sheeprl_help", callback=_print_algos, is_eager=True, help="list the algorithms")
    ] = False,
) -> None:
    """Accept the flags without a command; their callbacks do the work."""
