"""Make single and vectorized environments from the `env` section of a configuration."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import ctypes.util
import importlib
import importlib.util
import inspect
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
from gymnasium import Space
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from sheeprl.envs import hints, transforms
from sheeprl.envs.config import EnvConfig
from sheeprl.envs.families import family_of, is_installed
from sheeprl.envs.results import CheckedSyncVectorEnv, CheckedVectorEnv
from sheeprl.envs.snapshot import SnapshotEnv, VectorState, close_quietly
from sheeprl.envs.transforms import Spaces
from sheeprl.envs.wrappers import SHORT_NAMES
from sheeprl.envs.wrappers.frame_stack import frame_stack_of
from sheeprl.utils.installation import install_command

KNOWN_PACKAGES = ("gymnasium.", "ale_py.", "minigrid.", "sheeprl.envs.")
"""Packages whose environments are simulations without side effects, so that extra instances may be made and stepped."""


class EnvSettingsError(Exception):
    """Raised when an environment can't be made as configured; the message begins with the setting."""


class DifferentSpacesError(EnvSettingsError):
    """Raised when the instances of an environment have different spaces."""


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
    family = family_of(config.id)
    if render_mode is not None or family.renders(config):
        _render_without_display()  # before dm_control is imported
    _register(config.id)
    arguments = family.arguments(config)
    if render_mode is not None:
        arguments["render_mode"] = render_mode
    with setting_errors(config):
        env = gymnasium.make(config.id, max_episode_steps=config.max_episode_steps, **arguments)
    for path, arguments in config.wrapper_calls:
        env = _wrap(path, copy.deepcopy(arguments), env, family.wrappers)
    return env


def _render_without_display() -> None:
    """Select offscreen renderers without a display: GLFW, MuJoCo's default, ends the process; SDL prints an error."""
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        has_software_only = not ctypes.util.find_library("EGL") and ctypes.util.find_library("OSMesa")
        os.environ.setdefault("MUJOCO_GL", "osmesa" if has_software_only else "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


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
    try:
        if config.vectorization == "async":
            return AsyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)
        return CheckedSyncVectorEnv(makers)
    except RuntimeError as error:
        if not re.search(r"observation.space|action.space", str(error)):
            raise
        # gymnasium advises to set an argument that isn't a setting.
        _, equals, differing = " ".join(str(error).partition(". If this")[0].split()).partition("space=")
        differing = re.sub(r", [\w-]+[ _]\w*[ _]?space=", " and ", differing)
        detail = f" ({differing})" if equals else ""
        raise DifferentSpacesError(_different_spaces(config.id, detail)) from error


def check_spaces(observation: Space[Any], action: Space[Any], spaces: Spaces, env_id: str) -> None:
    """Check that the spaces of an environment are those of the instance that was made before the start.

    Raises:
        DifferentSpacesError: it has others, apart from the bounds.
    """
    own = Spaces(transforms.observation_space(observation), transforms.action_space(action))
    for one, other in ((own.observation, spaces.observation), (own.action, spaces.action)):
        if transforms.without_bounds(one) != transforms.without_bounds(other):
            raise DifferentSpacesError(_different_spaces(env_id, f" ({one} and {other})"))


def _different_spaces(env_id: str, detail: str) -> str:
    """Return the message for an environment whose instances have different spaces."""
    return (
        f"env.id={env_id}: its instances have different observation or action spaces{detail}; one policy needs the "
        "same ones, which a wrapper in env.wrappers can give them"
    )


def make_eval_envs(config: EnvConfig, most: int, least: int = 1) -> list[gymnasium.Env[Any, Any]]:
    """Make as many environments as possible, up to `most`: one suffices for any number of episodes.

    Raises:
        EnvSettingsError: fewer than `least` can be made; as `make_env`.
    """
    envs: list[gymnasium.Env[Any, Any]] = []
    try:
        while len(envs) < most:
            envs.append(make_env(config))
    except EnvSettingsError:  # such as a simulator that can only run once
        if len(envs) < least:
            raise
    return envs


def is_of_known_family(config: EnvConfig) -> bool:
    """Return whether an environment and its wrappers belong to packages whose extra instances have no side effects."""
    module, _, name = config.id.rpartition(":")
    if module:
        importlib.import_module(module)  # registers the id
    _register(config.id)
    spec = gymnasium.spec(name)
    entry = spec.vector_entry_point if config.vectorization == "native" else None
    wrappers = (_full_path(path, family_of(config.id).wrappers) for path, _ in config.wrapper_calls)
    parts = [entry or spec.entry_point, *wrappers]
    modules = [part if isinstance(part, str) else getattr(part, "__module__", "") for part in parts]
    return all(module.startswith(KNOWN_PACKAGES) for module in modules)


def make_snapshot_env(config: EnvConfig) -> SnapshotEnv | VectorState:
    """Make the unit whose state a player saves: one environment, or the native vector.

    Raises:
        EnvSettingsError: as `make_env`.
    """
    return VectorState(_native(config)) if config.vectorization == "native" else SnapshotEnv(make_env(config))


def record_video(
    env: gymnasium.Env[Any, Any], folder: str, every_episode: bool = False, name: str = "rl-video"
) -> gymnasium.Env[Any, Any]:
    """Record episodes into `folder`: every one, or by gymnasium's schedule (cubes, then every 1000th).

    Args:
        env: the environment.
        folder: folder of the videos.
        every_episode: True to record every episode.
        name: begin of the file names.

    Raises:
        EnvSettingsError: the package that writes videos isn't installed.
    """
    from sheeprl.envs.wrappers.video import RecordEpisodes

    if importlib.util.find_spec("moviepy") is None:
        raise EnvSettingsError(f"env.capture_video: needs moviepy; {install_command('video')}")
    trigger = (lambda episode: True) if every_episode else None
    return RecordEpisodes(env, folder, episode_trigger=trigger, name_prefix=name, disable_logger=True)


def spaces_of(env: gymnasium.Env[Any, Any]) -> Spaces:
    """Return the spaces as agents see them.

    Raises:
        ValueError: the observation has two keys with the same text.
    """
    observation, action = transforms.observation_space(env.observation_space), transforms.action_space(env.action_space)
    return Spaces(observation, action, frame_stack_of(env), env.action_space)


def _native(config: EnvConfig) -> VectorEnv[Any, Any, Any]:
    """Make the environment's native vector version."""
    quiet_gymnasium()
    _register(config.id)
    with setting_errors(config):
        if _spec(config.id).vector_entry_point is None:
            raise EnvSettingsError(
                f"env.vectorization=native: {config.id} has no native vector version; use sync or async"
            )
        try:
            envs = family_of(config.id).make_vector(config)
        except ValueError as error:
            if not str(error).startswith("env."):
                raise
            raise EnvSettingsError(str(error)) from error
    mode = envs.metadata.get("autoreset_mode")
    if mode != AutoresetMode.NEXT_STEP:
        close_quietly(envs)
        raise EnvSettingsError(
            f"env.vectorization=native: {config.id} resets with {mode}, not in the next step; use sync or async"
        )
    return CheckedVectorEnv(envs)


def _register(env_id: str) -> None:
    """Import the package that registers the id, if the id's namespace names a known one."""
    if problem := hints.malformed_id(env_id):
        raise EnvSettingsError(f"env.id={env_id}: {problem}")
    family = family_of(env_id)
    if is_installed(family):
        family.register()


def _spec(env_id: str) -> gymnasium.envs.registration.EnvSpec:
    """Return the spec of an id, also of `module:id`, which `gymnasium.spec` rejects."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    return gymnasium.spec(name)


def _wrap(path: str, arguments: dict[str, Any], env: gymnasium.Env[Any, Any], module: str) -> gymnasium.Env[Any, Any]:
    """Wrap an environment in the class that `path` names.

    Args:
        path: as `_full_path`.
        arguments: arguments of the wrapper besides the environment.
        env: the environment.
        module: as `_full_path`.
    """
    wrapper = _load_wrapper(path, module)
    try:
        wrapped = wrapper(env, **arguments)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        given = f" (given: {arguments})" if arguments else ""
        raise EnvSettingsError(
            f"env.wrappers={path}: can't be used: {reason}{_accepted(wrapper, error)}{given}"
        ) from error
    if not isinstance(wrapped, gymnasium.Env):
        raise EnvSettingsError(f"env.wrappers={path}: returned a {type(wrapped).__name__}, not a gymnasium environment")
    return wrapped


def _accepted(wrapper: Callable[..., Any], error: BaseException) -> str:
    """Return the names of a wrapper's arguments if it was called with wrong ones, else ""."""
    if not isinstance(error, TypeError) or "argument" not in str(error):
        return ""
    with contextlib.suppress(TypeError, ValueError):  # a callable without a signature
        names = [*inspect.signature(wrapper).parameters][1:]
        return f"; its arguments are {', '.join(names)}" if names else "; it has no arguments"
    return ""


def _full_path(path: str, module: str) -> str:
    """Return `package.module:Class` of a wrapper.

    Args:
        path: such a path, a short name of ours, or the name of a class of gymnasium or of the family.
        module: module of the family's wrappers; "" if it has none.
    """
    if ":" in path:
        return path
    if path in SHORT_NAMES:
        return SHORT_NAMES[path]
    if path in gymnasium.wrappers.__all__:
        return f"gymnasium.wrappers:{path}"
    if module and path in vars(importlib.import_module(module)):
        return f"{module}:{path}"
    return path


def _load_wrapper(path: str, module: str = "") -> Callable[..., gymnasium.Env[Any, Any]]:
    """Import a wrapper; the arguments are those of `_full_path`."""
    module_name, colon, name = _full_path(path, module).partition(":")
    if not (module_name and colon and name):
        near = hints.nearest_name(path, [*SHORT_NAMES, *gymnasium.wrappers.__all__])
        raise EnvSettingsError(
            f"env.wrappers={path}: isn't a wrapper{near or '; write package.module:Class or a short name'}"
        )
    try:
        names = vars(importlib.import_module(module_name))
    except ImportError as error:
        raise EnvSettingsError(f"env.wrappers={path}: {hints.missing_module(error, module_name)}") from error
    except (Exception, SystemExit) as error:  # an import runs the module
        reason = f"{module_name} can't be imported: {type(error).__name__}: {_last_line(error)}"
        raise EnvSettingsError(f"env.wrappers={path}: {reason}; write package.module:Class") from error
    found = names.get(name)
    if found is None:
        near = hints.nearest_name(name, names)
        raise EnvSettingsError(
            f"env.wrappers={path}: not found in {module_name}{near or '; write package.module:Class'}"
        )
    return found  # type: ignore[no-any-return]


@contextlib.contextmanager
def setting_errors(config: EnvConfig) -> Iterator[None]:
    """Convert gymnasium's errors into one line that names the setting to change."""
    errors = gymnasium.error
    try:
        yield
    except EnvSettingsError:
        raise
    except (Exception, SystemExit) as error:  # any error here results from the settings
        if (unknown := _unknown_argument(config, error)) is not None:
            raise EnvSettingsError(unknown) from error
        family = family_of(config.id)
        is_unknown = isinstance(error, (errors.NameNotFound, errors.NamespaceNotFound, errors.VersionNotFound))
        if is_unknown and not is_installed(family):
            reason = f"{family.package} is not installed; {install_command(family.extra)}"
        elif is_unknown:
            reason = hints.unknown_id(config.id)
        elif isinstance(error, (errors.DependencyNotInstalled, ImportError)):
            reason = hints.missing_module(error, config.id.rpartition(":")[0])
            newer = hints.newer_version(config.id)
            reason += f"; use {newer}" if newer else ""
        elif isinstance(error, (TypeError, errors.Error)):
            reason = _creator_error(config, error)
        else:
            reason = f"can't be made: {type(error).__name__}: {_last_line(error)}"
        arguments = f" (env.kwargs: {config.kwargs})" if config.kwargs else ""
        raise EnvSettingsError(f"env.id={config.id}: {reason}{arguments}") from error


def _creator_error(config: EnvConfig, error: BaseException) -> str:
    """Return an error of the environment's creator."""
    reason = re.sub(r" was raised from the environment creator for .* with kwargs \(.*\)$", "", _last_line(error))
    if re.search(r"^Gym is incompatible|must inherit from the gymnasium\.Env", reason):
        return f"its class isn't derived from gymnasium.Env; if it is of gym, {hints.conversion(config.id)}"
    return reason


def _unknown_argument(config: EnvConfig, error: BaseException) -> str | None:
    """Return the mistake of an argument that the environment's creator doesn't have; None for another error."""
    match = re.search(r"(\S+) got an unexpected keyword argument '(\w+)'", _last_line(error))
    if match is None or match[2] not in config.kwargs:
        return None
    mistake = f"env.kwargs.{match[2]}={config.kwargs[match[2]]}: {config.id} has no such argument"
    with contextlib.suppress(Exception):  # a creator without a signature
        entry: Any = _spec(config.id).entry_point
        creator = gymnasium.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
        known = [name for name in inspect.signature(creator).parameters if name != "render_mode"]
        return mistake + (hints.nearest_name(match[2], known) or f"; use {', '.join(known)}")
    return mistake


def _last_line(error: BaseException) -> str:
    """Return the last line of an error message, or the error's type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _in_worker(maker: Callable[[], SnapshotEnv], parent: int) -> Callable[[], SnapshotEnv]:
    """Return a maker for a worker process that ends with its parent and receives no signals of its process group."""

    def make() -> SnapshotEnv:
        """Set the worker's signal handlers and make the environment."""
        in_worker = os.getpid() != parent  # AsyncVectorEnv also makes one env in the parent to read its spaces
        if in_worker:
            os.setpgrp()  # the run's last fragments still need the environments
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the forked process inherits the run's handler
            if sys.platform == "linux":
                set_parent_death_signal = 1
                ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
        env = maker()
        env.alone = in_worker
        return env

    return make
