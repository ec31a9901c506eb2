"""Evaluate a saved policy from fixed start seeds."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sheeprl.actors.evaluation import LANES, Evaluation, describe_cut, eval_seeds, play_episodes
from sheeprl.envs.timeout import StepWatch
from sheeprl.utils.gc_control import importing
from sheeprl.utils.process import StopSignals, exclusive

if TYPE_CHECKING:
    from sheeprl.config.schema import Config
    from sheeprl.envs.transforms import Spaces

__all__ = ["SETTINGS", "describe_cut", "evaluate_checkpoint"]

SETTINGS = ("env.id", "env.kwargs", "env.wrappers", "env.max_episode_steps", "eval.explore")
"""Settings that an evaluation can change."""

OPTIONS = {
    "env.capture_video": "--video",
    "eval.episodes": "--episodes",
    "eval.step_limit": "--step-limit",
    "run.seed": "--seed",
}
"""Settings for which an evaluation has options."""


def evaluate_checkpoint(
    path: str,
    episodes: int,
    seed: int | None = None,
    video: bool = False,
    step_limit: int | None = None,
    settings: Sequence[str] = (),
    name: str | None = None,
) -> Evaluation:
    """Evaluate the policy of a checkpoint or of a run's newest checkpoint.

    Args:
        path: a run (its folder, `@last`, a prefix of its name, or its URL at `checkpoint.storage`), or a checkpoint.
        episodes: number of episodes.
        seed: the start seeds are derived from it; default `run.seed`.
        video: play the best, the worst and the median episode again, and film them in the folder `videos` of the run.
        step_limit: steps after which an episode is cut; default `eval.step_limit`.
        settings: settings of the environment that differ from those of the run, each as `env.key=value`.
        name: name of an environment in `eval.envs`; None for that of `eval.env`.

    Raises:
        ConfigError: the checkpoint doesn't exist, its environment can't be created, a name is unknown, or a setting is
            wrong or changes the environment's spaces.
        RunFailedError: this process has a run or another evaluation, or the environment returned something that its
            interface or its spaces exclude.
    """
    with exclusive("the evaluation"), StopSignals():
        return _evaluate(path, episodes, seed, video, step_limit, settings, name)


def _evaluate(
    path: str,
    episodes: int,
    seed: int | None,
    video: bool,
    step_limit: int | None,
    settings: Sequence[str],
    env_name: str | None,
) -> Evaluation:
    """Evaluate a policy, alone in this process."""
    with importing():
        from sheeprl.algos.base import Mode
        from sheeprl.algos.build import build_algorithm
        from sheeprl.checkpoint.best import named_checkpoint
        from sheeprl.checkpoint.resume import read_counters, read_env_values
        from sheeprl.checkpoint.run_dir import read_config
        from sheeprl.checkpoint.weights import load_weights
        from sheeprl.config.loading import validate
        from sheeprl.envs.changes import EnvChangeError, set_attributes
        from sheeprl.envs.make import EnvSettingsError, make_env, make_eval_envs, record_video, spaces_of
        from sheeprl.envs.results import ResultError
        from sheeprl.envs.statistics import describe, with_statistics
        from sheeprl.utils.errors import ConfigError, RunFailedError

    if episodes < 1:
        raise ConfigError([f"episodes={episodes}: must be at least 1"])
    run_dir, checkpoint = named_checkpoint(path)
    trained = validate(read_config(run_dir))
    config = _changed(trained, settings, env_name)
    env = config.env
    try:
        if video:  # before all others, since it selects how to render
            record_video(make_env(env, "rgb_array"), str(run_dir / "videos")).close()
        envs = make_eval_envs(env, min(episodes, LANES))
    except EnvSettingsError as error:
        raise ConfigError([str(error)]) from error
    if wrappers := with_statistics(envs[0]):
        print(f"warning: {describe(wrappers)}", file=sys.stderr)
    spaces = spaces_of(envs[0])
    if config.env != trained.env:
        _check_spaces(trained, config, spaces)
    algorithm = build_algorithm(config.algo, spaces)
    policy = load_weights(algorithm, checkpoint)
    seeds = eval_seeds(config.run.seed if seed is None else seed, episodes)
    most = config.eval.step_limit if step_limit is None else step_limit
    values = _env_values(trained, read_env_values(checkpoint), settings, env_name)
    try:
        for each in envs:
            set_attributes(each, values)
        watch = StepWatch(config.players.step_timeout)
        mode: Mode = "explore" if config.eval.explore else "greedy"
        played = play_episodes(algorithm, policy, envs, seeds, most, watch, mode)
        for number, name in chosen_episodes(played.returns).items() if video else ():
            filmed = record_video(make_env(env, "rgb_array"), str(run_dir / "videos"), every_episode=True, name=name)
            set_attributes(filmed, values)
            play_episodes(algorithm, policy, [filmed], [seeds[number]], most, watch, mode)
    except ResultError as error:
        raise RunFailedError(f"{env.id}, evaluation: {error}") from error
    except EnvChangeError as error:
        raise ConfigError([f"{env.id}: {error}"]) from error
    return replace(played, policy_steps=read_counters(checkpoint).policy_steps)


def _env_values(
    trained: Config, values: Mapping[str, Any], settings: Sequence[str], env_name: str | None
) -> dict[str, Any]:
    """Return the attributes of environments that an evaluation takes from the checkpoint.

    Args:
        trained: configuration of the run.
        values: attributes that callbacks have set.
        settings: settings of the evaluation, which replace attributes.
        env_name: name of the environment in `eval.envs`; None for that of `eval.env`.
    """
    replaced = {setting.partition("=")[0].removeprefix("env.kwargs.") for setting in settings}
    if "env.kwargs" in replaced:
        return {}
    values = trained.eval.changes_of_env(values, env_name)
    return {name: value for name, value in values.items() if name not in replaced}


def check_names(path: str, names: Sequence[str]) -> None:
    """Check that a run has environments of evaluations with these names.

    Raises:
        ConfigError: `eval.envs` of the run has no such name, or the run doesn't exist.
    """
    from sheeprl.checkpoint.best import named_checkpoint
    from sheeprl.checkpoint.run_dir import read_config
    from sheeprl.config.loading import validate

    _check_names(validate(read_config(named_checkpoint(path)[0])), names)


def _check_names(config: Config, names: Sequence[str]) -> None:
    """Check the names of environments of evaluations."""
    from sheeprl.utils.errors import ConfigError

    known = f"the run has {', '.join(config.eval.envs)}" if config.eval.envs else "the run has no eval.envs"
    if unknown := [name for name in names if name not in config.eval.envs]:
        raise ConfigError([f"--evals {name}: no such environment of evaluations; {known}" for name in unknown])


def chosen_episodes(returns: Sequence[float]) -> dict[int, str]:
    """Return names by number of the best, the worst and the median episode; fewer if there are fewer episodes."""
    order = sorted(range(len(returns)), key=lambda number: returns[number])
    names = {order[(len(order) - 1) // 2]: "median", order[0]: "worst", order[-1]: "best"}
    return dict(reversed(names.items()))


def _changed(config: Config, settings: Sequence[str], name: str | None = None) -> Config:
    """Return a run's configuration with an environment of its evaluations, and with other settings of it.

    Raises:
        ConfigError: the environment's name is unknown, or a setting is wrong or isn't one of the environment.
    """
    from sheeprl.config.loading import apply_overrides, validate
    from sheeprl.utils.errors import ConfigError

    _check_names(config, () if name is None else (name,))
    tree = config.to_tree() | {"env": config.eval_env_of(name).to_tree()}
    tree["eval"] |= {"env": {}, "envs": {}}
    known = [*SETTINGS, *OPTIONS, "env.num_envs", "env.vectorization"]
    mistakes = []
    for key in [setting.partition("=")[0] for setting in settings if "=" in setting]:
        part = next((name for name in known if f"{key}.".startswith(f"{name}.")), None)
        if part in OPTIONS:
            mistakes.append(f"{key}: use {OPTIONS[part]}")
        elif part not in SETTINGS and (part or not key.startswith("env.")):
            mistakes.append(f"{key}: can't change in an evaluation; it takes {', '.join(SETTINGS)}")
    try:
        apply_overrides(tree, settings)
    except ConfigError as error:
        mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return validate(tree)


def _check_spaces(trained: Config, config: Config, spaces: Spaces) -> None:
    """Check that a changed environment has the spaces with which the policy was trained.

    Raises:
        ConfigError: it has other spaces.
    """
    from sheeprl.envs.make import EnvSettingsError, make_env, spaces_of
    from sheeprl.envs.snapshot import close_quietly
    from sheeprl.envs.transforms import without_bounds
    from sheeprl.utils.errors import ConfigError

    try:
        env = make_env(trained.env)
    except EnvSettingsError:  # not on this machine; loading the agent checks the sizes
        return
    before = spaces_of(env)
    close_quietly(env)
    pairs: list[tuple[str, Any, Any]] = [
        ("observations", without_bounds(before.observation), without_bounds(spaces.observation)),
        ("actions", before.action, spaces.action),
    ]
    changed = [f"env.{name}" for name in type(config.env).model_fields if _differs(name, trained, config)]
    mistakes = [
        f"{' and '.join(changed)}: the {name} are {after}, but the policy was trained with {old}; use an environment "
        f"with the spaces of {trained.env.id}"
        for name, old, after in pairs
        if old != after
    ]
    if mistakes:
        raise ConfigError(mistakes)


def _differs(name: str, one: Config, other: Config) -> bool:
    """Return whether a setting of the environment differs."""
    return bool(getattr(one.env, name) != getattr(other.env, name))
