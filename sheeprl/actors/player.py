"""Step a vector environment with a copy of the policy. Imports neither lightning nor tensordict nor ray."""

from __future__ import annotations

import json
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import gymnasium
import numpy as np
import numpy.typing as npt
import torch

from sheeprl.actors.evaluation import LANES, Evaluation, eval_seeds, play_episodes
from sheeprl.actors.interfaces import PlayerInterface
from sheeprl.actors.messages import Fragment, FragmentInfo
from sheeprl.actors.rollout import RolloutWriter, first_row
from sheeprl.algos.base import Mode, PolicyOutput, Spaces, Tensors
from sheeprl.algos.build import build_algorithm
from sheeprl.buffer.storage import Rows
from sheeprl.config.schema import Config
from sheeprl.config.suggestions import check_command
from sheeprl.envs import changes, transforms
from sheeprl.envs.global_rng import OwnGenerators
from sheeprl.envs.interface import InterfaceError
from sheeprl.envs.make import (
    DifferentSpacesError,
    EnvSettingsError,
    check_spaces,
    is_of_known_family,
    make_eval_envs,
    make_snapshot_env,
    make_vector_env,
)
from sheeprl.envs.results import EPISODE, ResultError, split_statistics
from sheeprl.envs.snapshot import VectorState, close_vector
from sheeprl.envs.snapshot_check import why_not_snapshotable
from sheeprl.envs.timeout import StepTimeoutError, StepWatch, StoppedError, StopRequest
from sheeprl.models import weights as weights_of
from sheeprl.utils import seeding, serialization
from sheeprl.utils.errors import AlgorithmError, describe
from sheeprl.utils.profiling import make_profiler, profiled
from sheeprl.utils.text import counted

Array = npt.NDArray[Any]
T = TypeVar("T")


class EnvFailedError(RuntimeError):
    """Raised when an environment fails.

    Args:
        reason: one line with the environment, the player, the step and the exception.
        trace: traceback of the exception.
        is_final: True if a replacement of the player would fail in the same way.
        signature: text that is equal for two failures if the environment fails in the same way again; "" if the cause
            may be outside of the environment.
        advice: command that checks the environment, for the message of a run that such a failure ends.
    """

    def __init__(
        self, reason: str, trace: str = "", is_final: bool = False, signature: str = "", advice: str = ""
    ) -> None:
        """Store the arguments."""
        super().__init__(reason, trace, is_final, signature, advice)
        self.reason, self.trace, self.is_final, self.signature = reason, trace, is_final, signature
        self.advice = advice

    def __str__(self) -> str:
        """Return the reason."""
        return self.reason


class RefusedChangeError(EnvFailedError):
    """Raised when an environment refuses an attribute that a callback sets."""

    is_env_change = True


class Player(PlayerInterface):
    """Collects fragments from `config.env.num_envs` environments.

    Args:
        config: configuration of the run, resolved.
        spaces: observation and action space of the agent.
        number: number of the player in the run.
        incarnation: number of earlier players with this number; every incarnation has different seeds.
        video_folder: folder for the videos of the first environment; None for no videos.
        alone: True if no other worker shares the process; a step that can't be interrupted then ends the process.
        stop: request that interrupts the environments; None if there is none.
    """

    def __init__(
        self,
        config: Config,
        spaces: Spaces,
        number: int,
        incarnation: int = 0,
        video_folder: str | None = None,
        alone: bool = False,
        stop: StopRequest | None = None,
    ) -> None:
        """Build the policy; the first call of `collect` makes the environments."""
        self.config = config
        self.spaces = spaces
        self.number = number
        self.incarnation = incarnation
        self.sequence = 0
        self.steps = 0
        self.algorithm = build_algorithm(config.algo, spaces)
        self.policy = self.algorithm.build_policy().eval()
        self._is_prioritized = self.algorithm.data().prioritized is not None
        self.version = -1
        self.generator = torch.Generator().manual_seed(self._seeds(seeding.Role.PLAYER, 1)[0])
        self.process_generators = OwnGenerators(self._seeds(seeding.Role.PROCESS, 1)[0])
        self.state_tensors: Tensors = {}  # state of a recurrent policy
        self.watch = StepWatch(config.players.step_timeout, last_resort=alone, stop=stop)
        self._video_folder = video_folder
        self._unsaved: str | None = None  # why the environments' state can't be saved; None until this is known
        self._episode_numbers: dict[str, list[float]] = {}
        self.profiler = make_profiler(config.run.dir, config.log.profiled_rounds, f"player {number}", with_stack=True)
        self._statistics: dict[tuple[int, int], tuple[float, int]] = {}  # an episode's own ones, by its end (t, env)
        self._envs: gymnasium.vector.VectorEnv[Any, Any, Any] | None = None
        self._env_values: dict[str, Any] = {}  # attributes that callbacks have set

    def _seeds(self, role: seeding.Role, count: int) -> list[int]:
        """Return `count` seeds of this incarnation for a role."""
        return seeding.seeds(self.config.run.seed, role, self.number, self.incarnation, count=count)

    def _start(self, env_values: dict[str, Any]) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
        """Make the environments, set their attributes and reset them."""
        envs = make_vector_env(self.config.env, self._video_folder)
        check_spaces(envs.single_observation_space, envs.single_action_space, self.spaces, self.config.env.id)
        self._to_env = transforms.ActionTransform(envs.single_action_space)
        seeds: Any = self._seeds(seeding.Role.ENV, envs.num_envs)
        self.watch.begin()
        self._set_env(envs, env_values)
        # A native vector environment takes one seed and derives those of its environments.
        obs, _ = envs.reset(seed=seeds[0] if self.config.env.vectorization == "native" else seeds)
        self._tail = first_row(obs, envs.num_envs)
        self._episode_return = np.zeros(envs.num_envs)
        self._episode_length = np.zeros(envs.num_envs, np.int64)
        return envs

    def _ready_envs(self, env_values: dict[str, Any]) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
        """Return the environments with these attributes; the first call makes them."""
        if self._envs is None:
            self._envs = self._guard("reset", partial(self._start, env_values))
        elif env_values != self._env_values:
            self.watch.begin()
            self._guard("set_env", partial(self._set_env, self._envs, env_values))
        return self._envs

    @profiled
    def collect(
        self,
        rows: int,
        weights: Rows | None,
        version: int,
        mode: Mode,
        progress: float = 0.0,
        keep_state: bool = False,
        unsaved: str | None = None,
        env_values: dict[str, Any] | None = None,
    ) -> tuple[FragmentInfo, Fragment]:
        """Collect a fragment of `rows` time steps.

        Args:
            rows: time steps T of the fragment.
            weights: policy weights; None for the current ones.
            version: version of the weights.
            mode: mode of `Algorithm.act`.
            progress: progress of the run when the weights were published, from 0 to 1.
            keep_state: True to return the player's state after the fragment.
            unsaved: why the environments' state can't be saved, as another player found; None if it isn't known yet.
                Finding out can take seconds.
            env_values: attributes of the environments during the fragment, as callbacks have set them.

        Returns:
            The statistics of the fragment, and the fragment of `[T + 1, B, *]` rows.

        Raises:
            EnvFailedError: an environment raised in reset or step, or exceeded the time limit.
        """
        started = time.perf_counter()
        torch.set_num_threads(1)
        self.progress = progress
        if weights is not None:
            weights_of.from_arrays(self.policy, weights)
            self.version = version
        with self.watch.watching(), self.process_generators.in_use():
            envs = self._ready_envs(env_values or {})
            with torch.inference_mode():
                fragment = self._play(envs, rows, mode)
        is_last = fragment["terminated"] | fragment["truncated"]
        decisions = int(np.count_nonzero(~is_last[:-1]))
        returns, lengths = self._episodes(fragment["reward"][1:], fragment["is_first"][1:], is_last[1:])
        numbers, self._episode_numbers = self._episode_numbers, {}
        seconds = time.perf_counter() - started
        self.sequence += 1
        self._unsaved = self._unsaved if unsaved is None else unsaved
        reason = self.unsaved if keep_state else ""
        saving = time.perf_counter()
        state = self.state() if keep_state else None
        saved = time.perf_counter() - saving
        rows_played = is_last[:-1].size
        fragment = transforms.newest_frames(fragment, self.spaces.frame_stack) if self.spaces.frame_stack else fragment
        counts = decisions, rows_played, returns, lengths
        info = FragmentInfo(self.version, *counts, seconds, state, reason, numbers, saved)
        return info, Fragment(self.number, self.incarnation, self.sequence - 1, fragment)

    def _set_env(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any], values: dict[str, Any]) -> None:
        """Set the attributes of the environments that differ from the current ones.

        Raises:
            EnvChangeError: an environment has no such attribute, or refuses the value.
        """
        old = self._env_values
        new = {name: value for name, value in values.items() if name not in old or old[name] != value}
        if not new:
            return
        if self.config.env.vectorization == "native":
            changes.set_attributes(envs, new)
        else:
            envs.call("set_attributes", new)  # type: ignore[attr-defined]
        self._env_values = dict(values)

    # ------------------------------------------------------------------------------------------- state

    @property
    def unsaved(self) -> str:
        """Reason why the environments' state can't be saved, in one line; "" if it can be saved."""
        if not self.config.checkpoint.envs:
            return "checkpoint.envs=false"
        if self.config.checkpoint.envs == "auto" and not is_of_known_family(self.config.env):
            return (
                f"{self.config.env.id} or one of its wrappers isn't of a known family (docs/environments.md); "
                "checkpoint.envs=true tests and saves its state"
            )
        if self._video_folder:
            return "episodes are recorded"
        if self._unsaved is None:
            self._unsaved = self._probe_snapshot()
        return self._unsaved

    def _probe_snapshot(self) -> str:
        """Return the reason why an environment's snapshot fails, or ""."""
        with self.watch.watching():
            self.watch.begin()  # the whole probe has the time limit of one step
            reason = why_not_snapshotable(lambda: make_snapshot_env(self.config.env))
        return f"the state of {self.config.env.id} can't be saved: {reason}" if reason else ""

    def state(self) -> bytes:
        """Return the state that determines future fragments, without the policy weights."""
        return serialization.dumps(
            {
                "env": self.config.env.id,
                "incarnation": self.incarnation,
                "sequence": self.sequence,
                "steps": self.steps,
                "generator": self.generator.get_state(),
                "process_generators": self.process_generators.state,
                "recurrent": dict(self.state_tensors),
                "env_values": json.dumps(self._env_values),
                "playing": None if self._envs is None else self._episode_state(self._envs),
            }
        )

    def _episode_state(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> dict[str, Any]:
        """Return the state of the environments and of their open episodes."""
        saved = None
        if not self.unsaved:
            native = self.config.env.vectorization == "native"
            saved = VectorState(envs).snapshot if native else list(envs.call("take_snapshot"))  # type: ignore[attr-defined]
        return {
            "envs": saved,
            "tail": self._tail,
            "episode_return": self._episode_return,
            "episode_length": self._episode_length,
        }

    def load(self, data: bytes) -> bool:
        """Restore the state of a player with the same number.

        Returns:
            True if the environments were restored; if False, this player is unchanged.

        Raises:
            ValueError: the data is damaged, or belongs to a player of other environments.
            EnvFailedError: an environment raised while it was made.
        """
        saved = serialization.loads(data)
        if saved["env"] != self.config.env.id:
            raise ValueError(f"env.id={self.config.env.id} but the saved player state is of env.id={saved['env']}")
        playing = saved["playing"]
        if playing is not None:
            if playing["envs"] is None or self.unsaved:
                return False
            if (there := len(playing["episode_return"])) != self.config.env.num_envs:
                num_envs = self.config.env.num_envs
                raise ValueError(
                    f"env.num_envs={num_envs} but the saved player state has {counted(there, 'environment')}"
                )
            with self.watch.watching(), self.process_generators.in_use():
                values = json.loads(saved.get("env_values", "{}"))  # absent in checkpoints of older versions
                self._envs = self._guard("reset", partial(self._start, values))
            self._restore_episodes(self._envs, playing)
        self.sequence, self.steps = saved["sequence"], saved["steps"]
        self.incarnation = saved["incarnation"]
        self.generator.set_state(saved["generator"])
        self.process_generators.state = saved["process_generators"]
        self.state_tensors = saved["recurrent"]
        return True

    def _restore_episodes(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any], playing: dict[str, Any]) -> None:
        """Restore the environments and their open episodes."""
        if self.config.env.vectorization == "native":
            VectorState(envs).snapshot = playing["envs"]
        else:
            envs.set_attr("snapshot", playing["envs"])  # type: ignore[attr-defined]
        self._tail = playing["tail"]
        self._episode_return, self._episode_length = playing["episode_return"], playing["episode_length"]

    def evaluate(self, weights: Rows, episodes: int, env_values: dict[str, Any] | None = None) -> Evaluation:
        """Play episodes on the environments of evaluations, from fixed start seeds.

        Args:
            weights: policy weights.
            episodes: number of episodes on each environment.
            env_values: attributes of the environments, as callbacks have set them.
        """
        torch.set_num_threads(1)
        policy = self.algorithm.build_policy().eval()
        weights_of.from_arrays(policy, weights)
        result, *others = (
            self._evaluate(policy, episodes, env_values or {}, name) for name in (None, *self.config.eval.envs)
        )
        return replace(result, named=dict(zip(self.config.eval.envs, others, strict=True)))

    def _evaluate(self, policy: Any, episodes: int, env_values: dict[str, Any], name: str | None) -> Evaluation:
        """Play episodes on one of the environments of evaluations.

        Args:
            policy: the policy.
            episodes: number of episodes.
            env_values: attributes of the environments of training.
            name: name of the environment in `eval.envs`; None for that of `eval.env`.
        """
        try:
            envs = make_eval_envs(self.config.eval_env_of(name), min(episodes, LANES))
        except EnvSettingsError as error:
            raise EnvSettingsError(
                f"{error}; evaluation needs an environment besides those of training: if it can't be made, set "
                "eval.episodes=0 and use sheeprl eval after the run"
            ) from error
        seeds, settings = eval_seeds(self.config.run.seed, episodes), self.config.eval
        mode: Mode = "explore" if settings.explore else "greedy"
        values = settings.changes_of_env(env_values, name)

        def play() -> Evaluation:
            """Set the attributes and play the episodes."""
            for env in envs:
                changes.set_attributes(env, values)
            return play_episodes(self.algorithm, policy, envs, seeds, settings.step_limit, self.watch, mode)

        return self._guard("evaluation", play)

    def close(self) -> None:
        """Close the environments, including failed ones."""
        if self._envs is not None:
            close_vector(self._envs)

    def _guard(self, where: str, do: Callable[[], T]) -> T:
        """Return the result of `do`, which calls the environment.

        Raises:
            EnvFailedError: `do` raised.
        """
        try:
            return do()
        except StoppedError:
            raise
        except Exception as error:
            raise self._failed(where, error) from None

    def _failed(self, where: str, error: Exception) -> EnvFailedError:
        """Return the error for an exception of the environment; call it while the exception is handled."""
        what = describe(error)
        env = f"{self.config.env.id} of player {self.number}"
        is_change = isinstance(error, changes.EnvChangeError)
        reason = f"{env} raised in {where}: {what}"
        if isinstance(error, ResultError) or is_change:
            reason = f"{env}: {error}" if is_change else f"{env}, {where}: {error}"
        is_final = isinstance(error, (InterfaceError, DifferentSpacesError)) or is_change
        may_pass = isinstance(error, (OSError, MemoryError, EOFError))  # such as a lost connection, or a time limit
        signature, check = "" if may_pass else f"{where}: {what}", check_command(self.config.env)
        kind = RefusedChangeError if is_change else EnvFailedError
        return kind(reason, traceback.format_exc(), is_final, signature, f"check the environment with {check}")

    def _play(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any], count: int, mode: Mode) -> Rows:
        """Step the environments `count` times; return `[count + 1, B, *]` rows, the last one for bootstrapping."""
        per_player, players = envs.num_envs, self.config.num_players
        place = (self.number * per_player, players * per_player)
        rollout = RolloutWriter(self.spaces.observation, self._tail, count, self.progress, *place)
        act, policy, generator = self.algorithm.act, self.policy, self.generator
        for t in range(count):
            try:
                output = act(policy, rollout.inputs[t], self.state_tensors, mode, generator)
                if t == 0:
                    self._check_output(output, envs)
                self.state_tensors = output.rnn_state
                action = self._to_env(rollout.write_action(t, output))
            except (StoppedError, StepTimeoutError, AlgorithmError, MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                raise AlgorithmError(f"{self._act} raised {describe(error)}", traceback.format_exc()) from None
            self.watch.begin()
            try:
                obs, reward, terminated, truncated, infos = envs.step(action)
            except StoppedError:
                raise
            except Exception as error:
                raise self._failed(f"step {self.steps + 1}", error) from None
            rollout.write_step(t + 1, obs, reward, terminated, truncated)
            self.steps += 1
            if infos:
                self._add_episode_numbers(t, infos)
        self._tail = rollout.bootstrap_row()
        if self._is_prioritized:
            self._add_initial_priority(rollout)
        return rollout.rows

    def _add_initial_priority(self, rollout: RolloutWriter) -> None:
        """Add the key `priority` to a fragment's rows, if the algorithm computes initial priorities.

        Raises:
            AlgorithmError: the algorithm raised, or returned a tensor of another shape than `[T, B]`.
        """
        name, expected = f"{type(self.algorithm).__name__}.initial_priority()", rollout.rows["action"][:-1].shape[:2]
        try:
            priority = self.algorithm.initial_priority(self.policy, rollout.tensors())
        except Exception as error:
            raise AlgorithmError(f"{name} raised {describe(error)}", traceback.format_exc()) from None
        if priority is None:
            return
        if priority.shape != expected:
            raise AlgorithmError(f"{name} returned a tensor of shape {list(priority.shape)}; return {list(expected)}")
        rollout.add_priority(priority)

    @property
    def _act(self) -> str:
        """Name of the algorithm's function that computes actions."""
        return f"{type(self.algorithm).__name__}.act()"

    def _check_output(self, output: object, envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> None:
        """Check the types and the shapes of an output of `Algorithm.act`.

        Raises:
            AlgorithmError: it isn't a PolicyOutput, or a tensor has another shape than `[B, *]`.
        """
        if not isinstance(output, PolicyOutput):
            kind = type(output).__name__
            raise AlgorithmError(f"{self._act} returned {kind}; return a sheeprl.algos.base.PolicyOutput")
        parts = {"action": output.action, **{f"extras[{name!r}]": values for name, values in output.extras.items()}}
        for name, values in parts.items():
            if not isinstance(values, torch.Tensor):
                raise AlgorithmError(f"{self._act} returned {name} of type {type(values).__name__}; return a tensor")
            found, space = list(values.shape), self.spaces.action
            expected = [envs.num_envs, *(space.shape or () if name == "action" else found[1:])]
            if found != expected:
                raise AlgorithmError(
                    f"{self._act} returned {name} of shape {found}; return {expected}, for "
                    f"{counted(envs.num_envs, 'environment')}"
                    + (f" with the actions {space}" if name == "action" else "")
                )

    def _add_episode_numbers(self, t: int, infos: dict[str, Any]) -> None:
        """Store the numbers of the episodes that ended in step `t` of the fragment."""
        for env, pairs in enumerate(infos.get(EPISODE, ())):
            statistics, numbers = split_statistics(pairs or ())
            if statistics is not None:
                self._statistics[t, env] = statistics
            for name, number in numbers.items():
                self._episode_numbers.setdefault(name, []).append(number)

    def _episodes(self, reward: Array, is_first: Array, is_last: Array) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Return returns and lengths of the episodes that ended in these rows `[T, B]`; update the open episodes.

        An episode's own statistics replace the sum of its rewards; without a return, its end isn't counted.
        """
        statistics, self._statistics = self._statistics, {}
        returns, lengths = [], []
        starts = np.zeros(reward.shape[1], np.int64)  # first row that is not counted yet, per environment
        for t, env in np.argwhere(is_last):
            part = slice(starts[env], t + 1)
            own = statistics.get((int(t), int(env))) or (
                float(self._episode_return[env] + reward[part, env].sum(dtype=np.float64)),
                int(self._episode_length[env] + np.count_nonzero(~is_first[part, env])),
            )
            if not math.isnan(own[0]):
                returns.append(own[0])
                lengths.append(own[1])
            starts[env], self._episode_return[env], self._episode_length[env] = t + 1, 0.0, 0
        for env, start in enumerate(starts):
            self._episode_return[env] += reward[start:, env].sum(dtype=np.float64)
            self._episode_length[env] += np.count_nonzero(~is_first[start:, env])
        return tuple(returns), tuple(lengths)
