"""Command line: convert the arguments to a tree of settings, run a command, and return an exit code.

Help must be fast. Therefore this module doesn't import torch, Ray and gymnasium; the called functions do. Only the
algorithm on the command line gets its flags.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from sheeprl.algos import registry
from sheeprl.algos.args import AlgoArgs, OnPolicy
from sheeprl.config.loading import apply_overrides, read_tree, set_value
from sheeprl.config.schema import EvalConfig, Tree, config_class, leaves
from sheeprl.config.suggestions import nearest
from sheeprl.config.yaml_io import parse_yaml
from sheeprl.utils.errors import ConfigError, RunFailedError
from sheeprl.utils.gc_control import leave_to_the_end
from sheeprl.version import __version__

FAILED, WRONG_INPUT = 1, 2  # exit codes besides 0, and 128 + number of the signal that ended the command

EPISODES: int = EvalConfig.model_fields["episodes"].default
HELP = "Distributed reinforcement learning with PyTorch, Lightning Fabric and Ray."
EPILOG = (
    "Exit codes: 0 success, 1 failed run, 2 wrong input, 130 interrupted or 143 terminated after a checkpoint. "
    "SHEEPRL_TRACEBACK=1 shows the traceback of an unexpected error."
)

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="key=value", help="overrides such as run.seed=1; values are YAML")
]


# ------------------------------------------------------------------------------------------- commands


def run(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file, or the name of a shipped configuration such as ppo")
    ],
    overrides: Overrides = None,
) -> None:
    """Train an agent with a configuration."""

    def read() -> Tree:
        tree = read_tree(config)
        apply_overrides(tree, overrides or [])
        return tree

    _train(read)


def resume(
    run_dir: Annotated[
        str, typer.Argument(metavar="RUN_DIR", help="folder of the run, or its URL in a checkpoint.mirror")
    ],
    overrides: Overrides = None,
) -> None:
    """Resume a run from its newest complete checkpoint."""

    def read() -> Tree:
        from sheeprl.checkpoint.resume import resume_tree

        return resume_tree(run_dir, overrides or [])

    _train(read)


def evaluate(
    path: Annotated[
        str, typer.Argument(metavar="RUN_DIR|CHECKPOINT", help="folder of a run (newest checkpoint) or of a checkpoint")
    ],
    episodes: Annotated[int, typer.Option(min=1, help="number of episodes")] = EPISODES,
    seed: Annotated[int | None, typer.Option(min=0, help="seed of the episodes; default run.seed")] = None,
    video: Annotated[bool, typer.Option("--video", help="record the episodes (extra: video)")] = False,
    max_episode_steps: Annotated[
        int | None,
        typer.Option(min=1, help="steps after which an episode is cut; default eval.max_episode_steps of the run"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Evaluate a saved policy and print its mean return ± standard deviation."""
    try:
        # Output of environments must not precede the result on stdout.
        with contextlib.redirect_stdout(sys.stderr):
            from sheeprl.evaluate import describe_cut, evaluate_checkpoint

            result = evaluate_checkpoint(path, episodes, seed, video, max_episode_steps)
    except (Exception, KeyboardInterrupt) as error:
        raise typer.Exit(_report(error)) from error
    if result.cut:
        typer.echo(f"warning: {describe_cut(result)}", err=True)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    else:
        episodes_played = f"{len(result.returns)} episode{'s' if len(result.returns) > 1 else ''}"
        typer.echo(
            f"return {result.mean_return:.2f} ± {result.std_return:.2f} over {episodes_played}, "
            f"after {result.policy_steps} policy steps"
        )


def replay(
    run_dir: Annotated[str, typer.Argument(metavar="RUN_DIR", help="folder of a run with log.record=true")],
    until_step: Annotated[int | None, typer.Option("--until-step", min=1, help="stop after this gradient step")] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="write the agent to this file, in the format of agent.pt")
    ] = None,
) -> None:
    """Re-execute a recorded run in one process, and compare it bit by bit with the recording."""
    try:
        from sheeprl.debug.replayer import replay_run

        replayed = replay_run(run_dir, until_step, out, typer.echo)
    except (Exception, KeyboardInterrupt) as error:
        raise typer.Exit(_report(error)) from error
    if replayed.difference is not None:
        _print_error(f"re-execution differs: {replayed.difference}")
        raise typer.Exit(FAILED)
    typer.echo(
        f"re-execution is identical: {replayed.fragments:,} fragments, {replayed.gradient_steps:,} gradient steps, "
        f"final parameters {replayed.parameters}"
    )


def algos() -> None:
    """List the algorithms."""
    rows = [("name", "observations", "actions", "policy", "summary")]
    rows += [_algorithm_row(name) for name in registry.registered()]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        typer.echo("  ".join([*cells, row[4]]))


COMMANDS: dict[str, Callable[..., None]] = {
    **{"run": run, "resume": resume, "replay": replay},
    **{"eval": evaluate, "algos": algos},
}


def _algorithm_row(name: str) -> tuple[str, str, str, str, str]:
    """Return the row of an algorithm in the list."""
    try:
        args = registry.args_class(name)
        policy = "on-policy" if isinstance(args.model_construct(name=name).data(), OnPolicy) else "off-policy"
    except Exception as error:  # a broken package must not hide the other algorithms
        return name, "?", "?", "?", _broken(error)
    return name, ", ".join(args.observations), ", ".join(args.actions), policy, args.summary


def _broken(error: Exception) -> str:
    """Return the summary of an algorithm that can't be imported."""
    return f"can't be loaded: {_first_line(error)}"


# ------------------------------------------------------------------------------------- training, errors


def _train(read: Callable[[], Tree], flags: Sequence[Flag] = ()) -> None:
    """Train with the tree that `read` returns; errors of missing settings mention their flag, if `flags` has it."""
    tree: Tree = {}
    try:
        tree.update(read())
        from sheeprl.launch import train_tree

        result = train_tree(tree)
    except ConfigError as error:
        raise typer.Exit(_report(ConfigError([_with_hint(mistake, flags) for mistake in error.mistakes]))) from error
    except (Exception, KeyboardInterrupt) as error:
        raise typer.Exit(_report(error, _wants_debugging(tree))) from error
    except SystemExit as error:
        if error.code == signal.SIGTERM:  # while Ray starts, it handles SIGTERM and exits with 15
            raise typer.Exit(128 + signal.SIGTERM) from error
        raise
    if result.interrupted_by is not None:
        raise typer.Exit(128 + result.interrupted_by)


def _report(error: BaseException, debugging: bool = False) -> int:
    """Print an error on stderr and return its exit code."""
    if isinstance(error, ConfigError):
        for mistake in error.mistakes:
            _print_error(mistake)
        return WRONG_INPUT
    if isinstance(error, registry.DuplicateAlgorithmError):
        _print_error(str(error))
        return WRONG_INPUT
    if isinstance(error, KeyboardInterrupt):
        typer.echo("interrupted", err=True)
        return 128 + getattr(error, "number", signal.SIGINT)
    shown = debugging or os.environ.get("SHEEPRL_TRACEBACK") == "1"
    if shown:
        typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    if isinstance(error, RunFailedError):
        _print_error(str(error))
    else:
        _print_error(_first_line(error) + ("" if shown else " (SHEEPRL_TRACEBACK=1 shows the traceback)"))
    return FAILED


def _print_error(text: str) -> None:
    """Print an error message on stderr."""
    typer.echo(f"error: {text}", err=True)


def _first_line(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _wants_debugging(tree: Tree) -> bool:
    """Return whether `log.level` is debug."""
    log = tree.get("log")
    return isinstance(log, dict) and log.get("level") == "debug"


# --------------------------------------------------------------------------------------- algorithms


@dataclass(frozen=True)
class Flag:
    """Setting of the tree, as a flag of an algorithm's command."""

    key: str
    field: FieldInfo
    names: tuple[str, ...]
    """Accepted names without dashes, the shortest first; hyphens may replace underscores."""

    @property
    def group(self) -> str:
        """Return the group of the setting."""
        return self.key.partition(".")[0]

    @property
    def shown(self) -> tuple[str, ...]:
        """Return the names in the help text; a very short name also appears with its group (`--id, --env_id`)."""
        short = len(self.names[0]) <= 4 and self.group != "algo"
        return self.names[:2] if short else self.names[:1]

    @property
    def aliases(self) -> tuple[str, ...]:
        """Return the accepted names that help doesn't show."""
        every = dict.fromkeys([*self.names, *(name.replace("_", "-") for name in self.names)])
        return tuple(name for name in every if name not in self.shown)

    @property
    def parameter(self) -> str:
        """Return the name of the command's parameter."""
        return self.key.replace(".", "__")

    @property
    def help(self) -> str:
        """Return the description and the default, escaped for rich."""
        from rich.markup import escape

        text = self.field.description or ""
        if self.field.is_required():
            text += " [required]"
        elif "default" not in text:  # otherwise the description explains the default
            text += f" [default: {_shown_default(self.field)}]"
        return escape(text.strip())


def _candidates(key: str) -> tuple[str, str, str]:
    """Return the possible flag names of a key: `leaf`, `group_leaf` and the key."""
    return key.rpartition(".")[2], key.replace(".", "_"), key


def flags_of(args: type[AlgoArgs]) -> list[Flag]:
    """Return a flag for every setting, named by its key, and by `leaf` and `group_leaf` where these are unique."""
    settings = [(key, field) for key, field in leaves(config_class(args)) if key != "algo.name"]
    claims = Counter(name for key, _ in settings for name in dict.fromkeys(_candidates(key)))
    claims.update(["config", "help"] * 2)  # flags of every command
    return [
        Flag(key, field, tuple(name for name in _candidates(key) if "." in name or claims[name] == 1))
        for key, field in settings
    ]


def _short_form(name: str, args: type[AlgoArgs]) -> Callable[..., None]:
    """Return the command of an algorithm. Its signature contains the flags, because typer reads them there."""
    flags = flags_of(args)

    def command(context: typer.Context, config: str | None, **given: str | None) -> None:
        """Train with the flags."""
        _train(lambda: _tree_of_flags(name, config, flags, given, context.args), flags)

    base = Annotated[
        str | None, typer.Option("--config", metavar="FILE", show_default=False, help="configuration to start from")
    ]
    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, annotation=base, default=None),
        *(parameter for flag in flags for parameter in _parameters(flag)),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _parameters(flag: Flag) -> Iterator[inspect.Parameter]:
    """Yield the shown option and a hidden one with the other names; both are text, the tree validates them."""
    shown = typer.Option(
        *_dashed(flag.shown),
        metavar=_type_name(flag.field.annotation),
        help=flag.help,
        show_default=False,
        rich_help_panel=flag.group,
    )
    hidden = typer.Option(*_dashed(flag.aliases), hidden=True)
    for name, option in ((flag.parameter, shown), (f"{flag.parameter}__alias", hidden)):
        annotation = Annotated[str | None, option]
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=None)


def _dashed(names: Sequence[str]) -> list[str]:
    """Return the names with leading dashes."""
    return [f"--{name}" for name in names]


def _tree_of_flags(
    algorithm: str, config: str | None, flags: Sequence[Flag], given: Mapping[str, str | None], unread: Sequence[str]
) -> Tree:
    """Return the tree of the file `config`, overridden by the flags.

    Raises:
        ConfigError: the file can't be read or has another algorithm, a flag is unknown, or a value isn't YAML.
    """
    tree = read_tree(config) if config else {}
    mistakes = list(_unknown_flags(algorithm, unread, flags))
    for flag in flags:
        texts = [given[name] for name in (flag.parameter, f"{flag.parameter}__alias")]
        if None not in texts:
            mistakes.append(f"--{flag.names[0]}: set twice, under two names")
        text = texts[0] if texts[0] is not None else texts[1]
        if text is None:
            continue
        try:
            set_value(tree, flag.key, _value(flag, text))
        except ConfigError as error:
            mistakes += error.mistakes
    algo = tree.setdefault("algo", {})
    if isinstance(algo, dict) and algo.setdefault("name", algorithm) != algorithm:
        mistakes.append(f"--config {config}: has algo.name={algo['name']}; use sheeprl run {config}")
    if mistakes:
        raise ConfigError(mistakes)
    return tree


def _value(flag: Flag, text: str) -> Any:
    """Return a flag's value parsed as YAML; text settings stay text, because the shell removes quotes."""
    value = parse_yaml(text, f"the value of --{flag.names[0]}")
    is_text = _type_name(flag.field.annotation) == "text"
    return text if is_text and isinstance(value, (bool, int, float)) else value


def _unknown_flags(algorithm: str, unread: Sequence[str], flags: Sequence[Flag]) -> Iterator[str]:
    """Yield a mistake for each unknown flag and each word that isn't the value of a flag."""
    before = ""
    for word in unread:
        is_value = before.startswith("--") and "=" not in before and not word.startswith("--")
        if word.startswith("-") and not is_value:
            yield f"{word.partition('=')[0]}: {_unknown_flag(word, flags)} (list: sheeprl {algorithm} -h)"
        elif not is_value:
            yield f"{word!r}: not a flag; set settings as in --num_envs 8 (list: sheeprl {algorithm} -h)"
        before = word


def _unknown_flag(word: str, flags: Sequence[Flag]) -> str:
    """Return the reason why a flag is unknown, with similar flags."""
    name = word.lstrip("-").partition("=")[0].replace("-", "_")
    namesakes = [f"--{flag.names[0]}" for flag in flags if flag.key.rpartition(".")[2] == name]
    if namesakes:
        return f"ambiguous; use one of {', '.join(namesakes)}"
    return f"unknown flag{nearest(name, [name for flag in flags for name in flag.names], '--')}"


def _with_hint(mistake: str, flags: Sequence[Flag]) -> str:
    """Append the flag of a missing setting to its mistake."""
    for flag in flags:
        if mistake.startswith(f"{flag.key}: is missing"):
            return f"{mistake}; set --{flag.shown[-1]}"
    return mistake


def _type_name(annotation: Any) -> str:
    """Return the name of a type for the help text."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_name(inner[0])
    if origin is Literal:
        return "|".join(str(value) for value in inner)
    if origin in (Union, UnionType):
        return "|".join(_type_name(part) for part in inner if part is not type(None))
    if origin in (tuple, list):
        return f"[{_type_name(inner[0])}, ...]"
    if origin is dict:
        return "{key: value}"
    names = {bool: "true|false", str: "text"}
    return names.get(annotation) or (annotation.__name__ if isinstance(annotation, type) else str(annotation))


def _shown_default(field: FieldInfo) -> str:
    """Format the default of a setting for the help text."""
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(str(item) for item in value)}]"
    return str(value)


# -------------------------------------------------------------------------------------- application


def _print_version(requested: bool) -> None:
    """Print the version and exit, if requested."""
    if requested:
        typer.echo(f"sheeprl {__version__}")
        raise typer.Exit


def _print_algos(requested: bool) -> None:
    """Print the algorithms and exit, if requested."""
    if requested:
        algos()
        raise typer.Exit


def _flags_of_sheeprl(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
    sheeprl_help: Annotated[
        bool, typer.Option("--sheeprl_help", callback=_print_algos, is_eager=True, help="list the algorithms")
    ] = False,
) -> None:
    """Accept the flags without a command; their callbacks do the work."""


def make_app(command: str | None = None) -> typer.Typer:
    """Return the command-line application, with flags only for the algorithm `command`."""
    settings = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(
        name="sheeprl",
        help=HELP,
        epilog=EPILOG,
        callback=_flags_of_sheeprl,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings=settings,
    )
    for name, function in COMMANDS.items():
        app.command(name, context_settings=settings)(function)
    # The command reports unknown flags, together with all other mistakes.
    lenient = {**settings, "ignore_unknown_options": True, "allow_extra_args": True}
    for name in _algorithms():
        function, summary = _algorithm_command(name, whole=name == command)
        app.command(name, help=summary, rich_help_panel="Algorithms", context_settings=lenient)(function)
    return app


def _algorithms() -> list[str]:
    """Return the algorithms whose names aren't commands."""
    return [name for name in registry.registered() if name not in COMMANDS]


def _algorithm_command(name: str, whole: bool) -> tuple[Callable[..., None], str]:
    """Return the command of an algorithm, without flags unless `whole`, and its summary."""
    from rich.markup import escape

    try:
        args = registry.args_class(name)
    except Exception as error:  # a broken package must not hide the other commands
        if whole:
            raise
        return (lambda: None), escape(_broken(error))
    return (_short_form(name, args) if whole else (lambda: None)), escape(args.summary)


def _check_command(command: str | None) -> None:
    """Check that a command exists.

    Raises:
        ConfigError: the command doesn't exist; the message has the nearest one.
    """
    known = [*COMMANDS, *_algorithms()]
    if command is None or command in known:
        return
    if command.endswith((".yaml", ".yml")):
        raise ConfigError([f"no command {command!r}; did you mean sheeprl run {command}?"])
    raise ConfigError([f"no command {command!r}{nearest(command, known)} (list: sheeprl --help)"])


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
    command = next((word for word in words if not word.startswith("-")), None)
    try:
        _check_command(command)
        app = make_app(command)
    except Exception as error:
        sys.exit(_report(error))
    app(args=words or ["--help"], prog_name="sheeprl")
