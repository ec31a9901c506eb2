"""Plays: a vector environment and a copy of the policy. Imports neither lightning nor tensordict nor ray."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
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
from sheeprl.algos.base import Mode, Spaces, Tensors
from sheeprl.algos.build import build_algorithm
from sheeprl.buffer.storage import Rows
from sheeprl.config.schema import Config
from sheeprl.envs import transforms
from sheeprl.envs.global_rng import OwnGenerators
from sheeprl.envs.make import make_env, make_snapshot_env, make_vector_env
from sheeprl.envs.snapshot import VectorState, why_not_snapshotable
from sheeprl.envs.timeout import StepWatch, StoppedError, StopRequest
from sheeprl.models import weights as weights_of
from sheeprl.utils import seeding, serialization

Array = npt.NDArray[Any]
T = TypeVar("T")


class EnvFailedError(RuntimeError):
    """An environment raised. `reason` is one line, `trace` the traceback."""

    def __init__(self, reason: str, trace: str = "") -> None:
        super().__init__(reason, trace)
        self.reason, self.trace = reason, trace

    def __str__(self) -> str:
        return self.reason


class Player(PlayerInterface):
    """Plays `config.env.num_envs` environments and hands over what it found as fragments.

    Args:
        config: the run's configuration, resolved.
        spaces: what the agent sees and does.
        number: of this player in the run.
        incarnation: how often it has been replaced; it seeds streams of its own.
        video_folder: where to record the first environment, if anywhere.
        alone: whether it has its process to itself, which may end if an environment can't be interrupted.
        stop: request that interrupts its environments; None if none can come.
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
        self.config = config
        self.spaces = spaces
        self.number = number
        self.incarnation = incarnation
        self.sequence = 0
        self.steps = 0
        self.algorithm = build_algorithm(config.algo, spaces)
        self.policy = self.algorithm.build_agent().get_submodule("policy").eval()
        self.version = -1
        self.generator = torch.Generator().manual_seed(self._seeds(seeding.Role.PLAYER, 1)[0])
        self.process_generators = OwnGenerators(self._seeds(seeding.Role.PROCESS, 1)[0])
        self.state_tensors: Tensors = {}  # of a recurrent policy
        self.watch = StepWatch(config.players.step_timeout, last_resort=alone, stop=stop)
        self._video_folder = video_folder
        self._unsaved: str | None = None  # why the environments' state can't be kept; None until that was tried
        self._envs: gymnasium.vector.VectorEnv[Any, Any, Any] | None = None

    def _seeds(self, role: seeding.Role, count: int) -> list[int]:
        return seeding.seeds(self.config.run.seed, role, self.number, self.incarnation, count=count)

    def _start(self) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
        """Make and reset the environments."""
        envs = make_vector_env(self.config.env, self._video_folder)
        self._to_env = transforms.ActionTransform(envs.single_action_space)
        seeds: Any = self._seeds(seeding.Role.ENV, envs.num_envs)
        self.watch.begin()
        # A vector version of an env's own takes one seed and gives its environments theirs.
        obs, _ = envs.reset(seed=seeds[0] if self.config.env.vectorization == "native" else seeds)
        self._tail = first_row(obs, envs.num_envs)
        self._episode_return = np.zeros(envs.num_envs)
        self._episode_length = np.zeros(envs.num_envs, np.int64)
        return envs

    def collect(
        self,
        rows: int,
        weights: Rows | None,
        version: int,
        mode: Mode,
        progress: float = 0.0,
        keep_state: bool = False,
        unsaved: str | None = None,
    ) -> tuple[FragmentInfo, Fragment]:
        """Play `rows` rows.

        Args:
            rows: T.
            weights: of the policy; None keeps those it has.
            version: of these weights.
            mode: how to act.
            progress: part of the run that had been played when the weights were made, from 0 to 1.
            keep_state: whether to give the state at the end too.
            unsaved: what another player has found out about whether the environments' state can be kept, which may have
                taken it seconds.

        Raises:
            EnvFailedError: an environment raised in reset or step, or took too long.
        """
        started = time.perf_counter()
        torch.set_num_threads(1)
        self.progress = progress
        if weights is not None:
            weights_of.from_arrays(self.policy, weights)
            self.version = version
        with self.watch.watching(), self.process_generators.in_use():
            if self._envs is None:
                self._envs = self._guard("reset", self._start)
            with torch.inference_mode():
                fragment = self._play(self._envs, rows, mode)
        is_last = fragment["terminated"] | fragment["truncated"]
        decisions = int(np.count_nonzero(~is_last[:-1]))
        returns, lengths = self._episodes(fragment["reward"][1:], fragment["is_first"][1:], is_last[1:])
        seconds = time.perf_counter() - started
        self.sequence += 1
        self._unsaved = self._unsaved if unsaved is None else unsaved
        state = self.state() if keep_state else None
        reason = self.unsaved if keep_state else ""
        info = FragmentInfo(self.version, decisions, is_last[:-1].size, returns, lengths, seconds, state, reason)
        return info, Fragment(self.number, self.incarnation, self.sequence - 1, fragment)

    # ------------------------------------------------------------------------------------------- state

    @property
    def unsaved(self) -> str:
        """Why the environments' state can't be kept, in a line; "" if it can."""
        if not self.config.checkpoint.envs:
            return "checkpoint.envs=false"
        if self._video_folder:
            return "episodes are recorded"
        if self._unsaved is None:
            self._unsaved = self._try_to_save()
        return self._unsaved

    def _try_to_save(self) -> str:
        with self.watch.watching():
            self.watch.begin()  # all of it may take as long as a step
            reason = why_not_snapshotable(lambda: make_snapshot_env(self.config.env))
        return f"the state of {self.config.env.id} can't be kept: {reason}" if reason else ""

    def state(self) -> bytes:
        """Everything that decides how it goes on, but for the weights."""
        return serialization.dumps(
            {
                "env": self.config.env.id,
                "incarnation": self.incarnation,
                "sequence": self.sequence,
                "steps": self.steps,
                "generator": self.generator.get_state(),
                "process_generators": self.process_generators.state,
                "recurrent": dict(self.state_tensors),
                "playing": None if self._envs is None else self._playing(self._envs),
            }
        )

    def _playing(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> dict[str, Any]:
        """What is there once it has begun to play."""
        kept = None
        if not self.unsaved:
            native = self.config.env.vectorization == "native"
            kept = VectorState(envs).snapshot if native else list(envs.call("snapshot"))  # type: ignore[attr-defined]
        return {
            "envs": kept,
            "tail": self._tail,
            "episode_return": self._episode_return,
            "episode_length": self._episode_length,
        }

    def load(self, data: bytes) -> bool:
        """Go on where a player of the same number was whose state it is.

        Returns:
            Whether the environments could be put where they were; if not, nothing has changed.

        Raises:
            ValueError: the data is damaged, or of a player of other environments.
            EnvFailedError: an environment raised at being made.
        """
        kept = serialization.loads(data)
        if kept["env"] != self.config.env.id:
            raise ValueError(f"the state is of a player of {kept['env']}, not of {self.config.env.id}")
        playing = kept["playing"]
        if playing is not None:
            if playing["envs"] is None or self.unsaved:
                return False
            if (there := len(playing["episode_return"])) != self.config.env.num_envs:
                raise ValueError(f"the state is of {there} environments, not of {self.config.env.num_envs}")
            with self.watch.watching(), self.process_generators.in_use():
                self._envs = self._guard("reset", self._start)
            self._put_back(self._envs, playing)
        self.sequence, self.steps = kept["sequence"], kept["steps"]
        self.incarnation = kept["incarnation"]
        self.generator.set_state(kept["generator"])
        self.process_generators.state = kept["process_generators"]
        self.state_tensors = kept["recurrent"]
        return True

    def _put_back(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any], playing: dict[str, Any]) -> None:
        if self.config.env.vectorization == "native":
            VectorState(envs).snapshot = playing["envs"]
        else:
            envs.set_attr("snapshot", playing["envs"])  # type: ignore[attr-defined]
        self._tail = playing["tail"]
        self._episode_return, self._episode_length = playing["episode_return"], playing["episode_length"]

    def evaluate(self, weights: Rows, episodes: int) -> Evaluation:
        """Play greedy episodes on environments of their own, from fixed start seeds."""
        torch.set_num_threads(1)
        policy = self.algorithm.build_agent().get_submodule("policy").eval()
        weights_of.from_arrays(policy, weights)
        envs = [make_env(self.config.env) for _ in range(min(episodes, LANES))]
        seeds, most = eval_seeds(self.config.run.seed, episodes), self.config.eval.max_episode_steps
        play = partial(play_episodes, self.algorithm, policy, envs, seeds, most, self.watch)
        return self._guard("evaluation", play)

    def close(self) -> None:
        """Close the environments, also those that failed."""
        envs = self._envs
        if isinstance(envs, gymnasium.vector.AsyncVectorEnv):
            try:
                envs.close(terminate=True)
            except Exception:  # a worker doesn't answer any more
                for process in envs.processes:
                    process.kill()
                envs.closed = True
        elif envs is not None:
            with suppress(Exception):  # it has failed already, and that was told
                envs.close()

    def _guard(self, where: str, do: Callable[[], T]) -> T:
        """Run something of the environment's; what it raises is told with the environment, the player and the step."""
        try:
            return do()
        except StoppedError:
            raise
        except Exception as error:
            raise self._failed(where, error) from None

    def _failed(self, where: str, error: Exception) -> EnvFailedError:
        """How an exception of the environment's is told; only while it is being handled."""
        what = " ".join(f"{type(error).__name__}: {error}".split())
        reason = f"{self.config.env.id} of player {self.number} raised in {where}: {what}"
        return EnvFailedError(reason, traceback.format_exc())

    def _play(self, envs: gymnasium.vector.VectorEnv[Any, Any, Any], count: int, mode: Mode) -> Rows:
        """`[count + 1, B, *]` arrays: rows that were acted on, and the tail."""
        written = RolloutWriter(self.spaces.observation, self._tail, count, self.progress)
        act, policy, generator = self.algorithm.act, self.policy, self.generator
        for t in range(count):
            output = act(policy, written.inputs[t], self.state_tensors, mode, generator)
            self.state_tensors = output.rnn_state
            action = self._to_env(written.write_action(t, output))
            self.watch.begin()
            try:
                obs, reward, terminated, truncated, _ = envs.step(action)
            except StoppedError:
                raise
            except Exception as error:
                raise self._failed(f"step {self.steps}", error) from None
            written.write_step(t + 1, obs, reward, terminated, truncated)
            self.steps += 1
        self._tail = written.bootstrap_row()
        return written.rows

    def _episodes(self, reward: Array, is_first: Array, is_last: Array) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Returns and lengths of the episodes that ended among these arrivals `[T, B]`; keeps count of open ones."""
        returns, lengths = [], []
        begun = np.zeros(reward.shape[1], np.int64)  # first arrival not counted yet, by environment
        for t, env in np.argwhere(is_last):
            part = slice(begun[env], t + 1)
            returns.append(float(self._episode_return[env] + reward[part, env].sum(dtype=np.float64)))
            lengths.append(int(self._episode_length[env] + np.count_nonzero(~is_first[part, env])))
            begun[env], self._episode_return[env], self._episode_length[env] = t + 1, 0.0, 0
        for env, start in enumerate(begun):
            self._episode_return[env] += reward[start:, env].sum(dtype=np.float64)
            self._episode_length[env] += np.count_nonzero(~is_first[start:, env])
        return tuple(returns), tuple(lengths)
