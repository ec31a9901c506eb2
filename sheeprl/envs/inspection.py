"""Inspection of an environment before training: mistakes, random play, determinism, speed, snapshots and rendering."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from sheeprl.envs import global_rng
from sheeprl.envs.config import EnvConfig
from sheeprl.envs.hints import missing_module
from sheeprl.envs.interface import InterfaceError
from sheeprl.envs.make import (
    DifferentSpacesError,
    EnvSettingsError,
    check_spaces,
    is_of_known_family,
    make_env,
    make_snapshot_env,
    make_vector_env,
)
from sheeprl.envs.random_actions import RandomActions
from sheeprl.envs.result_recorder import MIN_STEPS, ResultRecorder
from sheeprl.envs.results import EPISODE, ResultError, split_statistics
from sheeprl.envs.snapshot import SnapshotEnv, close_quietly, close_vector
from sheeprl.envs.snapshot_check import is_same, why_not_snapshotable
from sheeprl.envs.timeout import StepTimeoutError, StepWatch
from sheeprl.envs.transforms import ACTION_MASK, Spaces
from sheeprl.utils.errors import describe, short_repr
from sheeprl.utils.text import counted

V = TypeVar("V", bound=VectorEnv[Any, Any, Any])
Trajectory = list[tuple[Any, ...]]
"""Copies of the observation, the reward and the two flags of each step, beginning with a reset."""

TRAJECTORY_STEPS = 100
WARM_UP = 2  # steps before a measurement
CLEARLY_FASTER = 1.2  # least ratio of speeds that recommends another vectorization than the simplest
LONG = 2000  # random steps without an end of an episode that make its existence doubtful
SEED = 1


@dataclass
class Episodes:
    """Episodes of random play."""

    steps: int = 0
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    found_reward: bool = False
    """A reward differed from 0."""


@dataclass
class Inspection:
    """Findings about an environment. None stands for a part that wasn't inspected because of mistakes."""

    id: str
    mistakes: list[str] = field(default_factory=list)
    """Reasons why it can't be trained on, one line each."""
    warnings: list[str] = field(default_factory=list)
    """Oddities that don't prevent training, one line each."""
    episodes: Episodes = field(default_factory=Episodes)
    max_episode_steps: int | None = None
    """Time limit that gymnasium knows of."""
    metrics: list[str] = field(default_factory=list)
    """Keys of the numbers in the last infos of episodes, as metrics show them."""
    other_infos: list[str] = field(default_factory=list)
    """Keys of the last infos that metrics don't show."""
    is_deterministic: bool | None = None
    steps_per_second: dict[str, float] = field(default_factory=dict)
    """Environment steps per second by `single`, `sync`, `async` and, if there is one, `native`."""
    vectorization: str | None = None
    """Recommended vectorization."""
    why_not_saved: str | None = None
    """Reason why the state can't be saved; empty if it can."""
    is_saved_by_default: bool = False
    """`checkpoint.envs=auto` saves the state."""
    frame_shape: tuple[int, ...] | None = None
    """Shape of a rendered frame; None if rendering isn't possible."""


def inspect_env(config: EnvConfig, spaces: Spaces, watch: StepWatch, seconds: float = 1.0) -> Inspection:
    """Inspect an environment whose settings and spaces are known to be right.

    Args:
        config: settings of the environment.
        spaces: spaces of the agent.
        watch: interrupts operations that take too long, if this is the main thread.
        seconds: duration of each measurement; there are up to eight.
    """
    return _Inspector(config, spaces, watch, seconds).run()


class _Inspector:
    """The stages of an inspection; a mistake in one of them ends it."""

    def __init__(self, config: EnvConfig, spaces: Spaces, watch: StepWatch, seconds: float) -> None:
        """Store the arguments."""
        self.config, self.spaces, self.watch, self.seconds = config, spaces, watch, seconds
        self.found = Inspection(config.id)
        self._render_modes: Collection[str] = ()

    def run(self) -> Inspection:
        """Return the findings."""
        stages = (self._play, self._compare, self._measure, self._save, self._render, self._check_with_gymnasium)
        with self.watch.watching(), global_rng.preserved():
            for stage in stages:
                if self.found.mistakes:
                    break
                with self._mistakes_in("the check"):
                    stage()
        return self.found

    # ------------------------------------------------------------------------------------------ random play

    def _play(self) -> None:
        """Play at random for twice the duration of a measurement."""
        found, watch = self.found, self.watch
        with self._mistakes_in("its constructor"):
            watch.begin()
            recorder = ResultRecorder(make_env(self.config))
        if found.mistakes:
            return
        env, actions = SnapshotEnv(recorder), RandomActions(recorder.action_space, SEED)
        found.max_episode_steps = recorder.spec.max_episode_steps if recorder.spec else None
        with closing(env):
            self._play_episodes(env, recorder, actions)
        self._render_modes = (recorder.metadata or {}).get("render_modes") or ()
        found.episodes.found_reward = recorder.found_reward
        shown = {name.partition("/")[0] for name in found.metrics}
        found.other_infos = [key for key in recorder.infos if key not in shown]
        found.warnings += [self._line(text) for text in recorder.oddities.values()]
        if recorder.is_constant:
            found.warnings.append(self._line("all observations of random play are equal"))
        has_end = found.episodes.returns or found.max_episode_steps is not None
        if not has_end and found.episodes.steps >= LONG and not found.mistakes:
            found.warnings.append(
                self._line(
                    f"no episode ended within {counted(found.episodes.steps, 'random step')} and no time limit "
                    "is known; if episodes never end, set env.max_episode_steps"
                )
            )

    def _play_episodes(self, env: SnapshotEnv, recorder: ResultRecorder, actions: RandomActions) -> None:
        """Play for twice the duration of a measurement, or until a mistake."""
        found, episodes, watch = self.found, self.found.episodes, self.watch
        number, until = 0, math.inf
        metrics: dict[str, None] = {}
        while not found.mistakes:
            number += 1
            obs: Any = None
            total, length, ended = 0.0, 0, False
            with self._mistakes_in(f"the reset of episode {number}", recorder):
                watch.begin()
                obs, _ = env.reset(seed=SEED if number == 1 else None)
            until = min(until, time.monotonic() + 2 * self.seconds)  # without the first reset, which may take long
            while not ended and not found.mistakes:
                if time.monotonic() > until and episodes.steps >= MIN_STEPS:
                    found.metrics = [*metrics]
                    return
                with self._mistakes_in(f"step {length + 1} of episode {number}", recorder):
                    action = actions.draw(obs)
                    watch.begin()
                    obs, reward, terminated, truncated, info = env.step(action)
                    total, length, ended = total + reward, length + 1, terminated or truncated
                    episodes.steps += 1
                    own, numbers = split_statistics(info.get(EPISODE, ()))
                    metrics |= dict.fromkeys(numbers)
                    if ended and not (own and math.isnan(own[0])):  # such as a lost life
                        episodes.returns.append(own[0] if own else total)
                        episodes.lengths.append(own[1] if own else length)
        found.metrics = [*metrics]

    # ------------------------------------------------------------------------------------------ determinism

    def _compare(self) -> None:
        """Compare trajectories with the same seed and actions, of the same instance and of another one."""
        found, watch = self.found, self.watch
        watch.begin()
        with closing(SnapshotEnv(make_env(self.config))) as one:
            try:
                watch.begin()
                other = SnapshotEnv(make_env(self.config))
            except EnvSettingsError as error:
                line = f"only one instance can exist at a time; use env.num_envs=1 ({error})"
                (found.mistakes if self.config.num_envs > 1 else found.warnings).append(self._line(line))
                return
            with closing(other), self._mistakes_in("a comparison of two instances"):
                check_spaces(other.env.observation_space, other.env.action_space, self.spaces, self.config.id)
                self._compare_trajectories(one, other)

    def _compare_trajectories(self, one: SnapshotEnv, other: SnapshotEnv) -> None:
        """Compare trajectories, and note the cause of a difference."""
        first = self._trajectory(one, process_seed=1)
        count = len(first)
        second = self._trajectory(other, process_seed=2, count=count)
        difference = _difference(first, second)
        self.found.is_deterministic = not difference
        if difference:
            alike = self._trajectory(other, process_seed=1, count=count)
            if not _difference(first, alike):
                self.found.is_deterministic = True
                self.found.warnings.append(
                    self._line(
                        "it draws from the process's generators (random, numpy.random or torch), not from "
                        "self.np_random; players seed these, other programs may not"
                    )
                )
                return
            self.found.warnings.append(
                self._line(
                    f"it isn't deterministic: with the same seed and actions, {difference} in two instances; draw from "
                    "self.np_random only, after super().reset(seed=seed)"
                )
            )
        elif difference := _difference(first, self._trajectory(one, 1, count)):
            self.found.warnings.append(
                self._line(f"reset(seed=…) doesn't restore the start: {difference} when the same instance begins again")
            )
        elif difference := _difference(first, self._trajectory(other, 2, count, beside=one)):
            self.found.is_deterministic = False
            self.found.warnings.append(
                self._line(f"its instances share state: {difference} if another instance takes steps too")
            )

    def _trajectory(
        self, env: SnapshotEnv, process_seed: int, count: int | None = None, beside: SnapshotEnv | None = None
    ) -> Trajectory:
        """Return a trajectory from a seed, over the ends of episodes.

        Args:
            env: the environment.
            process_seed: seed of the process's generators.
            count: number of results; None for as many as fit into the duration of a measurement.
            beside: another instance that takes steps in between.
        """
        global_rng.seed_all(process_seed)
        until = time.monotonic() + self.seconds / 4
        actions = RandomActions(env.env.action_space, SEED)
        obs = self._reset(env, SEED)
        other_obs = None if beside is None else self._reset(beside, SEED + 1)
        other_actions = RandomActions(env.env.action_space, SEED + 1)
        rows: Trajectory = [(copy.deepcopy(obs), 0.0, False, False)]
        while len(rows) < (count or TRAJECTORY_STEPS):
            if count is None and len(rows) > MIN_STEPS and time.monotonic() > until:
                break
            if env.ended:
                obs = self._reset(env)
            if beside is not None:
                other_obs = self._reset(beside) if beside.ended else other_obs
                self.watch.begin()
                other_obs = beside.step(other_actions.draw(other_obs))[0]
            self.watch.begin()
            obs, reward, terminated, truncated, _ = env.step(actions.draw(obs))
            rows.append((copy.deepcopy(obs), reward, terminated, truncated))
        return rows

    def _reset(self, env: SnapshotEnv, seed: int | None = None) -> Any:
        """Reset an environment and return the observation."""
        self.watch.begin()
        return env.reset(seed=seed)[0]

    # ------------------------------------------------------------------------------------------------ speed

    def _measure(self) -> None:
        """Measure one environment and all vectorizations, and recommend one."""
        speeds = self.found.steps_per_second
        with self._mistakes_in("a measurement"):
            self.watch.begin()
            with closing(SnapshotEnv(make_env(self.config))) as env:
                speeds["single"] = self._speed_of_one(env)
        for kind in ("sync", "async", "native"):
            if self.found.mistakes:
                return
            try:
                speeds[kind] = self._speed_of_vector(kind)
            except DifferentSpacesError as error:
                self.found.mistakes.append(str(error))
            except Exception as error:
                if kind == self.config.vectorization:
                    self.found.mistakes.append(f"env.vectorization={kind}: {self._cause(error)}")
                elif kind != "native":
                    self.found.warnings.append(f"env.vectorization={kind}: can't be used: {self._cause(error)}")
        vectors = {kind: speed for kind, speed in speeds.items() if kind != "single"}
        self.found.vectorization = _recommended(vectors)

    def _speed_of_one(self, env: SnapshotEnv) -> float:
        """Return the steps per second of one environment."""
        actions = RandomActions(env.env.action_space, SEED)
        obs = self._reset(env, SEED)

        def step() -> float:
            """Take a step and return its seconds."""
            nonlocal obs
            action = actions.draw(obs)
            self.watch.begin()
            began = time.perf_counter()
            obs = env.step(action)[0]
            if env.ended:
                obs, _ = env.reset()
            return time.perf_counter() - began

        return self._rate(step)

    def _speed_of_vector(self, kind: str) -> float:
        """Return the environment steps per second of a vector."""
        config = self.config.model_copy(update={"vectorization": kind, "capture_video": False})
        count = config.num_envs
        self.watch.begin()
        with _closing_vector(make_vector_env(config)) as envs:
            actions = RandomActions(envs.single_action_space, SEED)
            self.watch.begin()
            obs, _ = envs.reset(seed=SEED)

            def step() -> float:
                """Step all environments and return the seconds."""
                nonlocal obs
                batch = actions.draw_batch(obs, count)
                self.watch.begin()
                began = time.perf_counter()
                obs = envs.step(batch)[0]
                return time.perf_counter() - began

            rate = self._rate(step)
            self.watch.begin()
        return count * rate

    def _rate(self, step: Callable[[], float]) -> float:
        """Return the calls per second of a function that returns its own seconds."""
        for _ in range(WARM_UP):
            step()
        taken, calls, until = 0.0, 0, time.monotonic() + self.seconds
        while calls < MIN_STEPS or time.monotonic() < until:
            taken += step()
            calls += 1
        return calls / max(taken, 1e-9)

    # --------------------------------------------------------------------------- snapshots, rendering, others

    def _save(self) -> None:
        """Test if the state of the environment can be saved."""
        self.watch.begin()  # as in training, the whole test has the time limit of one step
        self.found.why_not_saved = why_not_snapshotable(lambda: make_snapshot_env(self.config))
        self.found.is_saved_by_default = not self.found.why_not_saved and is_of_known_family(self.config)

    def _render(self) -> None:
        """Render a frame in another process, since some renderers end theirs."""
        if "rgb_array" not in self._render_modes:
            return
        try:
            self.watch.begin()
            with _closing_vector(AsyncVectorEnv([lambda: make_env(self.config, "rgb_array")])) as envs:
                self.watch.begin()
                envs.reset(seed=SEED)
                self.watch.begin()
                (frame,) = envs.call("render")
                self.watch.begin()
            if np.ndim(frame) != 3:
                raise ResultError(f"render returned {short_repr(frame)} ({type(frame).__name__}), not a picture")
            self.found.frame_shape = np.shape(frame)
        except Exception as error:
            self.found.warnings.append(
                self._line(f"can't be rendered: {self._cause(error)}; env.capture_video and eval --video need it")
            )

    def _check_with_gymnasium(self) -> None:
        """Add the failures of gymnasium's own checker, unless they follow from what was found."""
        observation = self.spaces.observation
        has_mask = isinstance(observation, gymnasium.spaces.Dict) and ACTION_MASK in observation.spaces
        if not self.found.is_deterministic or has_mask:  # it doesn't respect masks
            return
        self.watch.begin()
        env = make_env(self.config.model_copy(update={"wrappers": ()})).unwrapped
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                check_env(env, skip_render_check=True)
        except Exception as error:
            if isinstance(error, (AssertionError, gymnasium.error.Error)):
                self.found.warnings.append(self._line(f"gymnasium's checker: {' '.join(str(error).split())}"))
        finally:
            close_quietly(env)

    # --------------------------------------------------------------------------------------------- messages

    @contextmanager
    def _mistakes_in(self, where: str, recorder: ResultRecorder | None = None) -> Iterator[None]:
        """Note the exception of a block as a mistake, and those that a recorder found."""
        try:
            yield
        except EnvSettingsError as error:
            self.found.mistakes.append(str(error))
        except (ResultError, InterfaceError) as error:
            self.found.mistakes.append(self._line(f"{where}: {error}"))
        except StepTimeoutError as error:
            self.found.mistakes.append(self._line(f"{where} doesn't end: {error}"))
        except (Exception, SystemExit) as error:
            self.found.mistakes.append(self._line(f"raised in {where}: {describe(error)}"))
        if recorder is not None and not self.found.mistakes:
            self.found.mistakes += [self._line(f"{where}: {text}") for text in dict.fromkeys(recorder.mistakes)]

    def _cause(self, error: Exception) -> str:
        """Return an exception in one line."""
        if isinstance(error, (ImportError, gymnasium.error.DependencyNotInstalled)):
            return missing_module(error)
        return str(error) if isinstance(error, (ResultError, EnvSettingsError)) else describe(error)

    def _line(self, text: str) -> str:
        """Return a finding with the environment that it is about."""
        return f"env.id={self.config.id}: {text}"


@contextmanager
def _closing_vector(envs: V) -> Iterator[V]:
    """Close a vector at the end of a block; end its processes if the block fails."""
    try:
        yield envs
    except BaseException:
        close_vector(envs)
        raise
    close_quietly(envs)


def _difference(ones: Trajectory, others: Trajectory) -> str:
    """Return the first difference of two trajectories, "" if there is none."""
    names = ("observation", "reward", "terminated", "truncated")
    for number, (one, other) in enumerate(zip(ones, others, strict=True)):
        for name, a, b in zip(names, one, other, strict=True):
            if not is_same(a, b):
                return f"the {name} of {f'step {number}' if number else 'the reset'} differs"
    return ""


def _recommended(speeds: Mapping[str, float]) -> str | None:
    """Return the vectorization to take: the simplest one, unless another one is clearly faster."""
    chosen = None
    for kind, speed in speeds.items():  # the simplest first
        if chosen is None or speed > CLEARLY_FASTER * speeds[chosen]:
            chosen = kind
    return chosen
