"""The command line: makes a tree of settings of what was typed, and an exit code of how it went.

Help must answer at once: torch, Ray and gymnasium are imported by what a command calls, never here, and only the
algorithm that is named on the command line gets its flags built.
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

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130  # exit codes, beside 0

EPISODES: int = EvalConfig.model_fields["episodes"].default
HELP = "Reinforcement learning with PyTorch and Lightning Fabric, spread over machines by Ray."
EPILOG = (
    "Exit codes: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted (143: terminated) after a checkpoint. "
    "SHEEPRL_TRACEBACK=1 shows the traceback of an unexpected error."
)

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="key=value", help="settings on top, as in run.seed=1; values are YAML")
]


# ------------------------------------------------------------------------------------------- commands


def run(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="a YAML file, or the name of a shipped one, as ppo")],
    overrides: Overrides = None,
) -> None:
    """Train as a configuration says."""

    def read() -> Tree:
        tree = read_tree(config)
        apply_overrides(tree, overrides or [])
        return tree

    _train(read)


def resume(
    run_dir: Annotated[str, typer.Argument(metavar="RUN_DIR", help="the folder of a run")],
    overrides: Overrides = None,
) -> None:
    """Go on with a run from its newest whole checkpoint."""

    def read() -> Tree:
        from sheeprl.checkpoint.resume import resume_tree

        return resume_tree(run_dir, overrides or [])

    _train(read)


def evaluate(
    path: Annotated[
        str, typer.Argument(metavar="RUN_DIR|CHECKPOINT", help="a run's folder (its newest checkpoint), or one")
    ],
    episodes: Annotated[int, typer.Option(min=1, help="episodes to play")] = EPISODES,
    seed: Annotated[int | None, typer.Option(min=0, help="seed of the episodes; default the run's")] = None,
    video: Annotated[bool, typer.Option("--video", help="record the episodes (extra: video)")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Play the saved policy and print its mean return ± standard deviation."""
    try:
        # What environments print of their own accord must not end up in front of the result.
        with contextlib.redirect_stdout(sys.stderr):
            from sheeprl.evaluate import evaluate_checkpoint

            result = evaluate_checkpoint(path, episodes, seed, video)
    except (Exception, KeyboardInterrupt) as error:
        raise typer.Exit(_report(error)) from error
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    else:
        episodes_played = f"{len(result.returns)} episode{'s' if len(result.returns) > 1 else ''}"
        typer.echo(
            f"return {result.mean_return:.2f} ± {result.std_return:.2f} over {episodes_played}, "
            f"after {result.policy_steps} policy steps"
        )


def replay(
    run_dir: Annotated[str, typer.Argument(metavar="RUN_DIR", help="the folder of a run with log.record=true")],
    until_step: Annotated[int | None, typer.Option("--until-step", min=1, help="gradient step to stop after")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="write the agent there, as agent.pt has it")] = None,
) -> None:
    """Play a recorded run again in one process, and compare it bit by bit with what it was."""
    try:
        from sheeprl.debug.replayer import replay_run

        replayed = replay_run(run_dir, until_step, out, typer.echo)
    except (Exception, KeyboardInterrupt) as error:
        raise typer.Exit(_report(error)) from error
    if replayed.difference is not None:
        _say_error(f"not the same: {replayed.difference}")
        raise typer.Exit(FAILED)
    typer.echo(
        f"the same: {replayed.fragments:,} fragments, {replayed.gradient_steps:,} gradient steps, "
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
    try:
        args = registry.args_class(name)
        policy = "on-policy" if isinstance(args.model_construct(name=name).data(), OnPolicy) else "off-policy"
    except Exception as error:  # one broken package must not hide the other algorithms
        return name, "?", "?", "?", _broken(error)
    return name, ", ".join(args.observations), ", ".join(args.actions), policy, args.summary


def _broken(error: Exception) -> str:
    return f"cannot be loaded: {_first_line(error)}"


# ---------------------------------------------------------------------------------------- how it went


def _train(read: Callable[[], Tree], flags: Sequence[Flag] = ()) -> None:
    """Train what `read` returns; `flags` are those to hint at when a setting is missing."""
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
        if error.code == signal.SIGTERM:  # Ray, while it starts, takes a SIGTERM and leaves with the bare number
            raise typer.Exit(128 + signal.SIGTERM) from error
        raise
    if result.interrupted_by is not None:
        raise typer.Exit(128 + result.interrupted_by)


def _report(error: BaseException, debugging: bool = False) -> int:
    """Say on stderr what went wrong, and return the exit code for it."""
    if isinstance(error, ConfigError):
        for mistake in error.mistakes:
            _say_error(mistake)
        return WRONG_INPUT
    if isinstance(error, registry.DuplicateAlgorithmError):
        _say_error(str(error))
        return WRONG_INPUT
    if isinstance(error, KeyboardInterrupt):
        typer.echo("interrupted", err=True)
        return INTERRUPTED
    shown = debugging or os.environ.get("SHEEPRL_TRACEBACK") == "1"
    if shown:
        typer.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    if isinstance(error, RunFailedError):
        _say_error(str(error))
    else:
        _say_error(_first_line(error) + ("" if shown else " (SHEEPRL_TRACEBACK=1 shows the traceback)"))
    return FAILED


def _say_error(text: str) -> None:
    typer.echo(f"error: {text}", err=True)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _wants_debugging(tree: Tree) -> bool:
    log = tree.get("log")
    return isinstance(log, dict) and log.get("level") == "debug"


# ------------------------------------------------------------------------------------- the short form


@dataclass(frozen=True)
class Flag:
    """A setting of the tree as a flag of an algorithm's command."""

    key: str
    field: FieldInfo
    names: tuple[str, ...]
    """Accepted, without the dashes, the shortest first; hyphens may stand for their underscores."""

    @property
    def group(self) -> str:
        """The group of settings that it is in."""
        return self.key.partition(".")[0]

    @property
    def shown(self) -> tuple[str, ...]:
        """The names that help shows; one of a few letters says little without its group (`--id, --env_id`)."""
        short = len(self.names[0]) <= 4 and self.group != "algo"
        return self.names[:2] if short else self.names[:1]

    @property
    def aliases(self) -> tuple[str, ...]:
        """The names that are accepted without being shown."""
        every = dict.fromkeys([*self.names, *(name.replace("_", "-") for name in self.names)])
        return tuple(name for name in every if name not in self.shown)

    @property
    def parameter(self) -> str:
        """The name of the command's parameter."""
        return self.key.replace(".", "__")

    @property
    def help(self) -> str:
        """Description and default, for rich."""
        from rich.markup import escape

        text = self.field.description or ""
        if self.field.is_required():
            text += " [required]"
        elif "default" not in text:  # where it depends on other settings the description says how
            text += f" [default: {_shown_default(self.field)}]"
        return escape(text.strip())


def _candidates(key: str) -> tuple[str, str, str]:
    return key.rpartition(".")[2], key.replace(".", "_"), key


def flags_of(args: type[AlgoArgs]) -> list[Flag]:
    """A flag for every setting: its leaf name and `group_leaf` where no other setting has the same, and its key."""
    settings = [(key, field) for key, field in leaves(config_class(args)) if key != "algo.name"]
    claims = Counter(name for key, _ in settings for name in dict.fromkeys(_candidates(key)))
    claims.update(["config", "help"] * 2)  # flags that every command has
    return [
        Flag(key, field, tuple(name for name in _candidates(key) if "." in name or claims[name] == 1))
        for key, field in settings
    ]


def _short_form(name: str, args: type[AlgoArgs]) -> Callable[..., None]:
    """The command of one algorithm. Its signature is made of the flags, which is how typer learns of them."""
    flags = flags_of(args)

    def command(context: typer.Context, config: str | None, **given: str | None) -> None:
        _train(lambda: _tree_of_flags(name, config, flags, given, context.args), flags)

    base = Annotated[
        str | None, typer.Option("--config", metavar="FILE", show_default=False, help="settings to start from")
    ]
    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, annotation=base, default=None),
        *(parameter for flag in flags for parameter in _parameters(flag)),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _parameters(flag: Flag) -> Iterator[inspect.Parameter]:
    """The shown option, and a hidden one with the other names; both text, since the tree checks the values."""
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
    return [f"--{name}" for name in names]


def _tree_of_flags(
    algorithm: str, config: str | None, flags: Sequence[Flag], given: Mapping[str, str | None], unread: Sequence[str]
) -> Tree:
    """The tree that the flags describe, on top of the file `config`.

    Raises:
        ConfigError: the file cannot be read or is for another algorithm, a flag is unknown or its value isn't YAML.
    """
    tree = read_tree(config) if config else {}
    mistakes = list(_unknown_flags(algorithm, unread, flags))
    for flag in flags:
        texts = [given[name] for name in (flag.parameter, f"{flag.parameter}__alias")]
        if None not in texts:
            mistakes.append(f"--{flag.names[0]}: given twice, under two names")
        text = texts[0] if texts[0] is not None else texts[1]
        if text is None:
            continue
        try:
            set_value(tree, flag.key, _value(flag, text))
        except ConfigError as error:
            mistakes += error.mistakes
    algo = tree.setdefault("algo", {})
    if isinstance(algo, dict) and algo.setdefault("name", algorithm) != algorithm:
        mistakes.append(f"--config {config}: is for algo.name={algo['name']}; use sheeprl run {config}")
    if mistakes:
        raise ConfigError(mistakes)
    return tree


def _value(flag: Flag, text: str) -> Any:
    """What was typed for a flag, as YAML; but a text stays one, since shells take away the quotes that YAML needs."""
    value = parse_yaml(text, f"the value of --{flag.names[0]}")
    is_text = _type_name(flag.field.annotation) == "text"
    return text if is_text and isinstance(value, (bool, int, float)) else value


def _unknown_flags(algorithm: str, unread: Sequence[str], flags: Sequence[Flag]) -> Iterator[str]:
    """A mistake for each flag that doesn't exist and each word that isn't one's value."""
    before = ""
    for word in unread:
        is_value = before.startswith("--") and "=" not in before and not word.startswith("--")
        if word.startswith("-") and not is_value:
            yield f"{word.partition('=')[0]}: {_unknown_flag(word, flags)} (all of them: sheeprl {algorithm} -h)"
        elif not is_value:
            yield f"{word!r}: settings are given as flags, as in --num_envs 8 (all of them: sheeprl {algorithm} -h)"
        before = word


def _unknown_flag(word: str, flags: Sequence[Flag]) -> str:
    name = word.lstrip("-").partition("=")[0].replace("-", "_")
    namesakes = [f"--{flag.names[0]}" for flag in flags if flag.key.rpartition(".")[2] == name]
    if namesakes:
        return f"several settings are called so; one of {', '.join(namesakes)}"
    return f"unknown flag{nearest(name, [name for flag in flags for name in flag.names], '--')}"


def _with_hint(mistake: str, flags: Sequence[Flag]) -> str:
    for flag in flags:
        if mistake.startswith(f"{flag.key}: is missing"):
            return f"{mistake}; give --{flag.shown[-1]}"
    return mistake


def _type_name(annotation: Any) -> str:
    """A type in the words of the one who fills in the value."""
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
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(str(item) for item in value)}]"
    return str(value)


# -------------------------------------------------------------------------------------- the whole app


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sheeprl {__version__}")
        raise typer.Exit


def _print_algos(asked: bool) -> None:
    if asked:
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
    """Nothing to do: both flags answer by themselves."""


def make_app(command: str | None = None) -> typer.Typer:
    """The command-line app. Of the algorithms, only the one called `command` gets its flags."""
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
    # Unknown flags are left to the command, which reports them along with every other mistake.
    lenient = {**settings, "ignore_unknown_options": True, "allow_extra_args": True}
    for name in _algorithms():
        function, summary = _algorithm_command(name, whole=name == command)
        app.command(name, help=summary, rich_help_panel="Algorithms", context_settings=lenient)(function)
    return app


def _algorithms() -> list[str]:
    return [name for name in registry.registered() if name not in COMMANDS]


def _algorithm_command(name: str, whole: bool) -> tuple[Callable[..., None], str]:
    from rich.markup import escape

    try:
        args = registry.args_class(name)
    except Exception as error:  # one broken package must not hide the other commands
        if whole:
            raise
        return (lambda: None), escape(_broken(error))
    return (_short_form(name, args) if whole else (lambda: None)), escape(args.summary)


def _check_command(command: str | None) -> None:
    """Refuse a command that doesn't exist.

    Raises:
        ConfigError: with the nearest that does.
    """
    known = [*COMMANDS, *_algorithms()]
    if command is None or command in known:
        return
    if command.endswith((".yaml", ".yml")):
        raise ConfigError([f"no command {command!r}; did you mean sheeprl run {command}?"])
    raise ConfigError([f"no command {command!r}{nearest(command, known)} (all of them: sheeprl --help)"])


def main(args: Sequence[str] | None = None) -> None:
    """The console script.

    Args:
        args: what was typed after `sheeprl`; by default the process's own arguments.

    Raises:
        SystemExit: always, with the exit code.
    """
    # As with `python -m`: environments and algorithms beside the configuration are found. Ray's workers look there too.
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
