"""Makes environments, single and vectorized, as `config.env` says."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from sheeprl.envs import transforms
from sheeprl.envs.config import EnvConfig
from sheeprl.envs.snapshot import SnapshotEnv, VectorState
from sheeprl.envs.transforms import Spaces

EXTRAS = {  # package that is missing -> extra that brings it
    "mujoco": "mujoco",
    "ale_py": "atari",
    "Box2D": "box2d",
    "dm_control": "dmc",
    "shimmy": "dmc",
    "pygame": "video",
    "moviepy": "video",
}
NAMESPACES = {"ALE": ("ale_py", "atari"), "dm_control": ("shimmy", "dmc")}  # id prefix -> package, extra


class EnvSettingsError(Exception):
    """The environment can't be made as configured; the message begins with the setting."""


def quiet_gymnasium() -> None:
    """Silence gymnasium's remarks (an older version of an env, a missing optional package): not the user's concern."""
    gymnasium.logger.min_level = gymnasium.logger.ERROR + 1


def make_env(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """One environment with its wrappers.

    Raises:
        EnvSettingsError: unknown id, package not installed, wrong arguments, or no such wrapper.
    """
    quiet_gymnasium()
    _register(config.id)
    arguments = dict(config.kwargs)
    if render_mode is not None:
        arguments["render_mode"] = render_mode
    with told_as_settings(config):
        env = gymnasium.make(config.id, max_episode_steps=config.max_episode_steps, **arguments)
    for path in config.wrappers:
        env = _wrap(path, env)
    return env


def make_vector_env(config: EnvConfig, video_folder: str | None = None) -> VectorEnv[Any, Any, Any]:
    """`config.num_envs` environments that step together and reset in the step after an episode's end.

    The observations that they give are overwritten by the next step.

    Raises:
        EnvSettingsError: as `make_env`, or the env's own vector version doesn't reset in that way.
    """
    if config.vectorization == "native":
        return _native(config)
    makers: list[Callable[[], SnapshotEnv]] = [lambda: SnapshotEnv(make_env(config))] * config.num_envs
    if video_folder is not None:
        makers[0] = lambda: SnapshotEnv(record_video(make_env(config, "rgb_array"), video_folder))
    if config.vectorization == "async":
        makers = [_in_worker(maker, os.getpid()) for maker in makers]
        return AsyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
    return SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)


def make_snapshot_env(config: EnvConfig) -> SnapshotEnv | VectorState:
    """What a player's environments are made of: one of them, or the vector that they are parts of.

    Raises:
        EnvSettingsError: as `make_env`.
    """
    return VectorState(_native(config)) if config.vectorization == "native" else SnapshotEnv(make_env(config))


def record_video(env: gymnasium.Env[Any, Any], folder: str, every_episode: bool = False) -> gymnasium.Env[Any, Any]:
    """Record episodes into `folder`: all of them, or as gymnasium's schedule says (the cubes, then each thousandth).

    Raises:
        EnvSettingsError: the package that writes videos isn't installed.
    """
    from gymnasium.wrappers import RecordVideo

    if importlib.util.find_spec("moviepy") is None:
        raise EnvSettingsError('env.capture_video: needs moviepy; pip install "sheeprl[video]"')
    trigger = (lambda episode: True) if every_episode else None
    return RecordVideo(env, folder, episode_trigger=trigger, disable_logger=True)


def spaces_of(env: gymnasium.Env[Any, Any]) -> Spaces:
    """The spaces as agents see them."""
    return Spaces(transforms.observation_space(env.observation_space), transforms.action_space(env.action_space))


def _native(config: EnvConfig) -> VectorEnv[Any, Any, Any]:
    quiet_gymnasium()
    _register(config.id)
    arguments = dict(config.kwargs)
    if config.max_episode_steps is not None:
        arguments["max_episode_steps"] = config.max_episode_steps
    if config.wrappers:
        raise EnvSettingsError("env.wrappers: wrap single environments; use env.vectorization=sync or async with them")
    with told_as_settings(config):
        if _spec(config.id).vector_entry_point is None:
            raise EnvSettingsError(
                f"env.vectorization=native: {config.id} has no vector version of its own; use sync or async"
            )
        envs = gymnasium.make_vec(config.id, config.num_envs, vectorization_mode="vector_entry_point", **arguments)
    mode = envs.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        envs.close()
        raise EnvSettingsError(
            f"env.vectorization=native: {config.id} resets with {mode}, not in the next step; use sync or async"
        )
    return envs


def _register(env_id: str) -> None:
    """Import the package that registers the id, where the id's namespace tells which it is."""
    package, _ = NAMESPACES.get(env_id.partition("/")[0], ("", ""))
    if package and importlib.util.find_spec(package):
        module = importlib.import_module(package)
        gymnasium.register_envs(module)


def _spec(env_id: str) -> gymnasium.envs.registration.EnvSpec:
    """What is registered under an id, also under `module:id`, which gymnasium's own `spec` doesn't take."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    return gymnasium.spec(name)


def _wrap(path: str, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    wrapper = _load_wrapper(path)
    try:
        return wrapper(env)
    except Exception as error:
        raise EnvSettingsError(f"env.wrappers={path}: can't be used: {type(error).__name__}: {error}") from error


def _load_wrapper(path: str) -> Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]:
    module_name, _, name = path.partition(":")
    try:
        found = vars(importlib.import_module(module_name)).get(name)
    except (ImportError, ValueError) as error:
        raise EnvSettingsError(f"env.wrappers={path}: {error}; write package.module:Class") from error
    if found is None:
        raise EnvSettingsError(f"env.wrappers={path}: not found; write package.module:Class")
    return found  # type: ignore[no-any-return]


@contextlib.contextmanager
def told_as_settings(config: EnvConfig) -> Iterator[None]:
    """Turn what gymnasium raises on making an env into one line about the setting to change."""
    errors = gymnasium.error
    try:
        yield
    except EnvSettingsError:
        raise
    except Exception as error:  # whatever an environment raises here is about how it was asked for
        package, extra = NAMESPACES.get(config.id.partition("/")[0], ("", ""))
        if isinstance(error, errors.NamespaceNotFound) and package:
            reason = f'{package} is not installed; pip install "sheeprl[{extra}]"'
        elif isinstance(error, (errors.NameNotFound, errors.NamespaceNotFound, errors.VersionNotFound)):
            reason = _unknown(config.id)
        elif isinstance(error, (errors.DependencyNotInstalled, ImportError)):
            reason = _missing(error)
        elif isinstance(error, (TypeError, errors.Error)):
            reason = _last_line(error)
        else:
            reason = f"can't be made: {type(error).__name__}: {_last_line(error)}"
        arguments = f" (env.kwargs: {config.kwargs})" if config.kwargs else ""
        raise EnvSettingsError(f"env.id={config.id}: {reason}{arguments}") from error


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _unknown(env_id: str) -> str:
    match = difflib.get_close_matches(env_id, list(gymnasium.registry), 1, 0.5)
    return "no such environment" + (f"; did you mean {match[0]}?" if match else "")


def _missing(error: BaseException) -> str:
    """Which package an environment lacks, and the extra that brings it."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    text = " ".join(str(link) for link in chain)
    names = [link.name.partition(".")[0] for link in chain if isinstance(link, ImportError) and link.name]
    for package, extra in EXTRAS.items():
        if package in names or package.lower() in text.lower():
            return f'{package} is not installed; pip install "sheeprl[{extra}]"'
    return f"a package is not installed: {_last_line(error)}"


def _in_worker(maker: Callable[[], SnapshotEnv], parent: int) -> Callable[[], SnapshotEnv]:
    """Make the env in a worker process that leaves Ctrl-C to its parent and ends with it, however that ends."""

    def make() -> SnapshotEnv:
        in_worker = os.getpid() != parent  # AsyncVectorEnv makes one env in the parent, to see its spaces
        if in_worker:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not what the run does, whose process this is a copy of
            if sys.platform == "linux":
                set_parent_death_signal = 1
                ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        env = maker()
        env.alone = in_worker
        return env

    return make
