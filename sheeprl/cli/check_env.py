"""The command `check-env`: inspect an environment and print the findings."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import typer

from sheeprl.algos import registry
from sheeprl.algos.args import AlgoArgs
from sheeprl.cli.commands import only_result_on_stdout
from sheeprl.cli.flags import Flags
from sheeprl.cli.names import shipped
from sheeprl.cli.report import WRONG_INPUT, print_error
from sheeprl.cli.training import Session, missing
from sheeprl.cli.words import ENV_ID, Words, read_words, take_name, take_switch, take_value
from sheeprl.config.loading import inspect
from sheeprl.config.schema import Tree
from sheeprl.envs.config import EnvConfig
from sheeprl.utils.errors import ConfigError
from sheeprl.utils.text import byte_size, counted

if TYPE_CHECKING:
    from sheeprl.envs.inspection import Inspection
    from sheeprl.envs.transforms import Spaces

SECONDS, TIMEOUT = 1.0, 10.0
"""Defaults of `--seconds` and `--timeout`."""

FIRST = {"continuous": ("sac", "ppo")}
"""Algorithms to start with, by the kind of actions; other kinds start with PPO."""

CLEAR = 1.2
"""Least ratio of two speeds that is shown."""

MILLION = 10**6
SHOWN_KEYS = 6  # observation or info keys in one line
WIDTH = 13  # of the first column


@dataclass(frozen=True)
class Report:
    """Findings of the command.

    Args:
        found: what the environments themselves show.
        spaces: spaces of the agent; None if the environment can't be made.
        algorithms: mistakes of each registered algorithm; empty for one that fits.
        start: command to start with; "" without a fitting algorithm.
    """

    found: Inspection
    spaces: Spaces | None
    algorithms: dict[str, list[str]]
    start: str


def check_env(words: list[str], session: Session) -> int:
    """Check an environment, print the findings and return the exit code."""
    as_json = take_switch(words, "json")
    seconds = _number(words, "seconds", SECONDS)
    timeout = _number(words, "timeout", TIMEOUT)
    env_id = take_name(words, lambda word: bool(re.fullmatch(ENV_ID, word)))
    settings = _env_settings(words)
    config = _read_config(env_id, settings)
    with only_result_on_stdout() as stdout:
        with _without_output(session.traceback) as errors:
            report = _inspect(config, settings, seconds, timeout, errors)
        if as_json:
            typer.echo(json.dumps(_as_json(report)), stdout)
        elif not report.found.mistakes:
            typer.echo("\n".join(_lines(report, config)), stdout)
        for warning in () if as_json else report.found.warnings:
            typer.echo(f"warning: {warning}", err=True)
        for mistake in () if as_json else report.found.mistakes:
            print_error(mistake)
    return WRONG_INPUT if report.found.mistakes else 0


@contextlib.contextmanager
def _without_output(is_shown: bool) -> Iterator[int]:
    """Discard the output of the environment and its processes, which many instances would repeat, unless it is shown.

    Yield a file descriptor for errors.
    """
    if is_shown:
        yield 2
        return
    stdout, stderr, discard = os.dup(1), os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(discard, 1)
        os.dup2(discard, 2)
        yield stderr
    finally:
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        for descriptor in (stdout, stderr, discard):
            os.close(descriptor)


def _number(words: list[str], name: str, default: float) -> float:
    """Remove an option of the command and return its value, a positive number.

    Raises:
        ConfigError: it is another value.
    """
    text = take_value(words, name)
    try:
        number = default if text is None else float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ConfigError([f"--{name}={text}: must be a positive number of seconds"])
    return number


def _env_settings(words: Sequence[str]) -> Words:
    """Return the settings on the command line; all of them must be of the environment."""
    settings = read_words(words, Flags(AlgoArgs), "sheeprl check-env -h")
    for setting in settings.given:
        if not setting.key.startswith("env."):
            settings.mistakes.append(f"{setting.spelled}: isn't a setting of the environment; leave it out")
    return settings


def _read_config(env_id: str | None, settings: Words) -> EnvConfig:
    """Return the settings of the environment.

    Raises:
        ConfigError: lists every mistake on the command line.
    """
    tree: Tree = {"algo": {"name": "ppo"}, "env": {} if env_id is None else {"id": env_id}}
    named = [setting.spelled for setting in settings.given if setting.key == "env.id"]
    if env_id is None and not named and not settings.mistakes:
        raise missing("ID", "check-env", "check-env CartPole-v1 --num_envs 8")
    if env_id is not None and named:
        settings.mistakes.append(f"{named[0]}: the environment is {env_id} already; leave it out")
    settings.apply(tree)
    config, mistakes = inspect(tree)
    mistakes = list(dict.fromkeys([*settings.mistakes, *mistakes]))
    if mistakes or config is None:
        raise ConfigError(mistakes)
    return config.env


def _inspect(config: EnvConfig, settings: Words, seconds: float, timeout: float, errors: int) -> Report:
    """Return all findings about an environment."""
    from sheeprl.config.checks import algorithm_mistakes, probe_env, unsupported_spaces  # imports gymnasium
    from sheeprl.envs.inspection import Inspection, inspect_env
    from sheeprl.envs.timeout import StepWatch

    watch = StepWatch(timeout, last_resort=True, setting="--timeout", errors=errors)
    warnings: list[str] = []
    with watch.watching():
        watch.begin()
        spaces, mistakes = probe_env(config, warnings)
    if spaces is None:
        return Report(Inspection(config.id, mistakes, warnings), None, {}, "")
    if mistakes := unsupported_spaces(config.id, spaces):
        return Report(Inspection(config.id, mistakes, warnings), spaces, {}, "")
    algorithms = {name: algorithm_mistakes(name, config.id, spaces) for name in registry.registered()}
    fitting = [name for name, reasons in algorithms.items() if not reasons]
    if not fitting:
        mistakes = [reason for reasons in algorithms.values() for reason in reasons]
        return Report(Inspection(config.id, mistakes, warnings), spaces, algorithms, "")
    found = inspect_env(config, spaces, watch, seconds)
    found.warnings[:0] = warnings
    return Report(found, spaces, algorithms, _start(config, settings, spaces, fitting, found.vectorization))


def _start(config: EnvConfig, settings: Words, spaces: Spaces, fitting: list[str], vectorization: str | None) -> str:
    """Return the command to start with: of a shipped configuration if one is for this environment."""
    fitted = {tuned.algorithm: tuned.name for tuned in reversed(shipped()) if tuned.env == config.id}
    preferred = [*FIRST.get(spaces.action_kind, ("ppo",)), *fitting]
    name = min(fitting, key=lambda name: (name not in fitted, preferred.index(name)))
    given = {setting.key: setting.assignment for setting in settings.given if setting.key != "env.id"}
    if vectorization is not None and vectorization != config.vectorization:
        given["env.vectorization"] = f"env.vectorization={vectorization}"
    base = [fitted[name]] if name in fitted else [name, "--env", config.id]
    return shlex.join(["sheeprl", "train", *base, *given.values()])


# ------------------------------------------------------------------------------------------------ the lines


def _lines(report: Report, config: EnvConfig) -> Iterator[str]:
    """Yield the lines of a report without mistakes."""
    from sheeprl.envs.transforms import row_bytes

    found, spaces = report.found, report.spaces
    assert spaces is not None
    rows = {
        "observation": _observation_text(spaces),
        "action": f"{spaces.action} ({spaces.action_kind})",
        "random play": _episodes_text(found),
        "metrics": _metrics_text(found),
        "seed": "the same seed gives the same episodes" if found.is_deterministic else "episodes can't be repeated",
        "resume": _resume_text(found),
        "video": _video_text(found),
        "steps/s": _speed_text(found, config),
        "vectorize": _vectorization_text(found),
        "replay": f"{byte_size(row_bytes(spaces) * MILLION)} per million rows",
        "algorithms": _algorithms_text(report.algorithms, config.id),
        "start with": report.start,
    }
    yield f"{config.id} can be trained on"
    for name, text in rows.items():
        yield f"{name:<{WIDTH}}{text}"


def _observation_text(spaces: Spaces) -> str:
    """Return the observation as agents see it."""
    from sheeprl.envs.transforms import ACTION_MASK, flat_spaces, input_spaces, is_picture

    parts = []
    for key, part in input_spaces(spaces.observation).items():
        kind = "picture" if is_picture(part) else "vector"
        parts.append(f"{'' if key == 'obs' else f'{key}: '}{_shape_text(part)} ({kind})")
    if any(key.endswith(f"/{ACTION_MASK}") for key in flat_spaces(spaces.observation)):
        parts.append("action mask")
    shown = ", ".join(parts[:SHOWN_KEYS]) + (f", … ({len(parts)} in all)" if len(parts) > SHOWN_KEYS else "")
    return shown + (f"; replay stores one frame of {max(spaces.frame_stack.values())}" if spaces.frame_stack else "")


def _shape_text(space: Any) -> str:
    """Return a space without its bounds, which agents don't use."""
    return f"{space.dtype}{list(space.shape)}" if type(space).__name__ == "Box" else str(space)


def _episodes_text(found: Inspection) -> str:
    """Return the lengths and returns of random play."""
    episodes = found.episodes
    if not episodes.returns:
        limit = f"; the time limit is {found.max_episode_steps:,}" if found.max_episode_steps else ""
        return f"no episode ended in {counted(episodes.steps, 'step')}{limit}"
    count = len(episodes.returns)
    returns = _spread(episodes.returns) if episodes.found_reward else "0 (no reward was found)"
    return f"{counted(count, 'episode')}, return {returns}, length {_spread(episodes.lengths)}"


def _spread(values: Sequence[float]) -> str:
    """Return the mean, the least and the greatest value."""
    least, mean, most = min(values), sum(values) / len(values), max(values)
    return f"{mean:.4g}" if least == most else f"{mean:.4g} ({least:.4g} to {most:.4g})"


def _metrics_text(found: Inspection) -> str:
    """Return the metrics that the last infos of episodes add."""
    if not found.episodes.returns:
        return "unknown, since no episode ended"
    names = [f"Episode/{name}" for name in found.metrics]
    if {"success", "is_success"} & set(found.metrics):
        names.append("Episode/success_rate")
    text = _some(names) or "none besides returns and lengths"
    return text + (f"; not shown: {_some(found.other_infos)}" if found.other_infos else "")


def _some(names: Sequence[str]) -> str:
    """Return some names, and the number of all if these are more."""
    return ", ".join(names[:SHOWN_KEYS]) + (f", … ({len(names)} in all)" if len(names) > SHOWN_KEYS else "")


def _resume_text(found: Inspection) -> str:
    """Return the exactness of a resumed run."""
    if found.why_not_saved:
        return f"episodes restart: the state can't be saved ({found.why_not_saved})"
    setting = "by default" if found.is_saved_by_default else "with checkpoint.envs=true"
    return f"bit-identical {setting}: the state can be saved"


def _video_text(found: Inspection) -> str:
    """Return the size of recorded frames."""
    if found.frame_shape is None:
        return "not possible"
    height, width = found.frame_shape[:2]
    return f"{width} x {height} (env.capture_video, eval --video)"


def _speed_text(found: Inspection, config: EnvConfig) -> str:
    """Return the steps per second of all vectorizations."""
    return ", ".join(
        f"{speed:,.0f} {kind if kind == 'single' else f'{kind} of {config.num_envs}'}"
        for kind, speed in found.steps_per_second.items()
    )


def _vectorization_text(found: Inspection) -> str:
    """Return the recommended vectorization, compared with the fastest other one."""
    chosen, speeds = found.vectorization, found.steps_per_second
    others = [kind for kind in speeds if kind not in ("single", chosen)]
    if chosen is None or not others:
        return f"env.vectorization={chosen}"
    fastest = max(others, key=speeds.__getitem__)
    ratio = speeds[chosen] / speeds[fastest]
    reason = f"{ratio:.2g} times as fast as {fastest}" if ratio >= CLEAR else f"{fastest} isn't clearly faster"
    return f"env.vectorization={chosen}: {reason}"


def _algorithms_text(algorithms: dict[str, list[str]], env_id: str) -> str:
    """Return the algorithms that fit, and the reasons against the others."""
    fitting = [name for name, mistakes in algorithms.items() if not mistakes]
    against: dict[str, list[str]] = {}
    for name, mistakes in algorithms.items():
        if mistakes:
            reason = (
                mistakes[0].removeprefix(f"env.id={env_id}: ").removeprefix(f"algo.name={name}: ").partition(";")[0]
            )
            against.setdefault(reason, []).append(name)
    reasons = [f"not {', '.join(names)} ({reason})" for reason, names in against.items()]
    return "; ".join([", ".join(fitting), *reasons])


def _as_json(report: Report) -> dict[str, Any]:
    """Return a report as plain data."""
    spaces = report.spaces
    own: dict[str, Any] = {}
    if spaces is not None:
        from sheeprl.envs.transforms import flat_spaces, row_bytes

        own = {
            "observation": {key: str(part) for key, part in flat_spaces(spaces.observation).items()},
            "action": str(spaces.action),
            "action_kind": spaces.action_kind,
            "bytes_per_million_rows": row_bytes(spaces) * MILLION,
        }
    ends = {"can_be_trained_on": not report.found.mistakes, "algorithms": report.algorithms, "start": report.start}
    return {**asdict(report.found), **own, **ends}
