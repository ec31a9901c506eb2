"""Make single and vectorized environments from the `env` section of a configuration."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import importlib
import importlib.util
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from sheeprl.envs import transforms
from sheeprl.envs.config import EnvConfig
from sheeprl.envs.snapshot import SnapshotEnv, VectorState
from sheeprl.envs.transforms import Spaces
from sheeprl.utils.installation import install_command

EXTRAS = {  # missing package -> extra that installs it
    "mujoco": "mujoco",
    "ale_py": "atari",
    "Box2D": "box2d",
    "dm_control": "dmc",
    "shimmy": "dmc",
    "minigrid": "minigrid",
    "pygame": "classic",
    "moviepy": "video",
}
NAMESPACES = {"ALE": ("ale_py", "atari"), "dm_control": ("shimmy", "dmc")}  # id prefix -> package, extra


class EnvSettingsError(Exception):
    """Raised when an environment can't be made as configured; the message begins with the setting."""


def quiet_gymnasium() -> None:
    """Silence warnings about old versions, optional packages and a display that no training needs."""
    gymnasium.logger.min_level = gymnasium.logger.ERROR + 1
    logging.getLogger("absl").setLevel(logging.ERROR)  # MuJoCo's remarks on the models of gymnasium
    warnings.filterwarnings("ignore", ".*DISPLAY environment variable is missing")  # from GLFW, when it is imported


def make_env(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """Make one environment with its wrappers.

    Raises:
        EnvSettingsError: unknown id, package not installed, wrong arguments, or no such wrapper.
    """
    quiet_gymnasium()
    if render_mode is not None:
        _render_without_display()  # before dm_control is imported
    _register(config.id)
    arguments = dict(config.kwargs)
    if render_mode is not None:
        arguments["render_mode"] = render_mode
    with setting_errors(config):
        env = gymnasium.make(config.id, max_episode_steps=config.max_episode_steps, **arguments)
    for path in config.wrappers:
        env = _wrap(path, env)
    return env


def _render_without_display() -> None:
    """Select EGL for MuJoCo if there is no display; its default, GLFW, ends the process there."""
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        os.environ.setdefault("MUJOCO_GL", "egl")


def make_vector_env(config: EnvConfig, video_folder: str | None = None) -> VectorEnv[Any, Any, Any]:
    """Make a vector of `config.num_envs` environments, which reset in the step after an episode's end.

    Each step overwrites the observations of the previous one.

    Raises:
        EnvSettingsError: as `make_env`, or the native vector version resets in another way.
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
    """Make the unit whose state a player saves: one environment, or the native vector.

    Raises:
        EnvSettingsError: as `make_env`.
    """
    return VectorState(_native(config)) if config.vectorization == "native" else SnapshotEnv(make_env(config))


def record_video(env: gymnasium.Env[Any, Any], folder: str, every_episode: bool = False) -> gymnasium.Env[Any, Any]:
    """Record episodes into `folder`: every one, or by gymnasium's schedule (cubes, then every 1000th).

    Raises:
        EnvSettingsError: the package that writes videos isn't installed.
    """
    from gymnasium.wrappers import RecordVideo

    if importlib.util.find_spec("moviepy") is None:
        raise EnvSettingsError(f"env.capture_video: needs moviepy; {install_command('video')}")
    trigger = (lambda episode: True) if every_episode else None
    return RecordVideo(env, folder, episode_trigger=trigger, disable_logger=True)


def spaces_of(env: gymnasium.Env[Any, Any]) -> Spaces:
    """Return the spaces as agents see them."""
    return Spaces(transforms.observation_space(env.observation_space), transforms.action_space(env.action_space))


def _native(config: EnvConfig) -> VectorEnv[Any, Any, Any]:
    """Make the environment's native vector version."""
    quiet_gymnasium()
    _register(config.id)
    arguments = dict(config.kwargs)
    if config.max_episode_steps is not None:
        arguments["max_episode_steps"] = config.max_episode_steps
    if config.wrappers:
        raise EnvSettingsError("env.wrappers: wrap single environments; use env.vectorization=sync or async with them")
    with setting_errors(config):
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
    """Import the package that registers the id, if the id's namespace names a known one."""
    package, _ = NAMESPACES.get(env_id.partition("/")[0], ("", ""))
    if package and importlib.util.find_spec(package):
        module = importlib.import_module(package)
        gymnasium.register_envs(module)


def _spec(env_id: str) -> gymnasium.envs.registration.EnvSpec:
    """Return the spec of an id, also of `module:id`, which `gymnasium.spec` rejects."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    return gymnasium.spec(name)


def _wrap(path: str, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Wrap an environment in the class that `path` names."""
    wrapper = _load_wrapper(path)
    try:
        return wrapper(env)
    except Exception as error:
        raise EnvSettingsError(f"env.wrappers={path}: can't be used: {type(error).__name__}: {error}") from error


def _load_wrapper(path: str) -> Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]:
    """Import the wrapper that `package.module:Class` names."""
    module_name, _, name = path.partition(":")
    try:
        found = vars(importlib.import_module(module_name)).get(name)
    except (ImportError, ValueError) as error:
        raise EnvSettingsError(f"env.wrappers={path}: {error}; write package.module:Class") from error
    if found is None:
        raise EnvSettingsError(f"env.wrappers={path}: not found; write package.module:Class")
    return found  # type: ignore[no-any-return]


@contextlib.contextmanager
def setting_errors(config: EnvConfig) -> Iterator[None]:
    """Convert gymnasium's errors into one line that names the setting to change."""
    errors = gymnasium.error
    try:
        yield
    except EnvSettingsError:
        raise
    except Exception as error:  # any error here results from the settings
        package, extra = NAMESPACES.get(config.id.partition("/")[0], ("", ""))
        if isinstance(error, errors.NamespaceNotFound) and package:
            reason = f"{package} is not installed; {install_command(extra)}"
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
    """Return the last line of an error message, or the error's type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _unknown(env_id: str) -> str:
    """Return the message for an unknown id, with the closest known one."""
    match = difflib.get_close_matches(env_id, list(gymnasium.registry), 1, 0.5)
    return "no such environment" + (f"; did you mean {match[0]}?" if match else "")


def _missing(error: BaseException) -> str:
    """Name the missing package and the extra that installs it."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    text = " ".join(str(link) for link in chain)
    names = [link.name.partition(".")[0] for link in chain if isinstance(link, ImportError) and link.name]
    for package, extra in EXTRAS.items():
        if package in names or package.lower() in text.lower():
            return f"{package} is not installed; {install_command(extra)}"
    return f"a package is not installed: {_last_line(error)}"


def _in_worker(maker: Callable[[], SnapshotEnv], parent: int) -> Callable[[], SnapshotEnv]:
    """Return a maker for a worker process that ignores Ctrl-C and ends with its parent."""

    def make() -> SnapshotEnv:
        in_worker = os.getpid() != parent  # AsyncVectorEnv also makes one env in the parent to read its spaces
        if in_worker:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the forked process inherits the run's handler
            if sys.platform == "linux":
                set_parent_death_signal = 1
                ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        env = maker()
        env.alone = in_worker
        return env

    return make
