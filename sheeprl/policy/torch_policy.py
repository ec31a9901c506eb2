"""Run the policy of a checkpoint with torch."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import Space

from sheeprl.algos.base import Algorithm, Mode, PolicyInput, Tensors
from sheeprl.envs.transforms import ActionTransform, array_dtype, flat_spaces
from sheeprl.policy.interface import Array, Leaf, Policy, PolicySpec


class TorchPolicy(Policy):
    """Policy of a checkpoint.

    Args:
        algorithm: the algorithm.
        policy: the agent's submodule `policy`.
        action: the environment's own action space.
        env: id of the environment.
        policy_steps: policy steps of training.
        mode: mode of `Algorithm.act`.
        seed: seed of the random numbers of `explore`.
    """

    def __init__(
        self,
        algorithm: Algorithm[Any],
        policy: Any,
        action: Space[Any],
        env: str,
        policy_steps: int = 0,
        mode: Mode = "greedy",
        seed: int = 0,
    ) -> None:
        """Find the state of a recurrent policy by one call."""
        self.algorithm, self.policy, self.action, self.mode = algorithm, policy, action, mode
        self.generator = torch.Generator().manual_seed(seed)
        self._to_env = ActionTransform(action)
        self._state: Tensors = {}
        leaves = [
            Leaf(key, tuple(int(size) for size in space.shape or ()), str(array_dtype(space)))
            for key, space in flat_spaces(algorithm.spaces.observation).items()
        ]
        name = str(action.dtype)
        super().__init__(
            PolicySpec(
                algorithm.args.name,
                env,
                tuple(leaves),
                Leaf("action", tuple(int(size) for size in action.shape or ()), name),
                self._state_leaves(),
                policy_steps,
            )
        )

    def example(self) -> Tensors:
        """Return one observation `[1, *]` by flat key, drawn from the space."""
        example = {}
        for key, space in flat_spaces(self.algorithm.spaces.observation).items():
            drawn = copy.deepcopy(space)
            drawn.seed(0)
            example[key] = torch.from_numpy(np.asarray(drawn.sample(), array_dtype(space))[None])
        return example

    def _state_leaves(self) -> tuple[Leaf, ...]:
        """Return the leaves of the state, from a call with an observation of the space."""
        inputs = PolicyInput(nested(self.example()), torch.zeros(1), torch.ones(1, dtype=torch.bool), progress=1.0)
        with torch.inference_mode():
            state = self.algorithm.act(self.policy, inputs, {}, "greedy", self.generator).rnn_state
        return tuple(
            Leaf(key, tuple(part.shape[1:]), str(part.dtype).removeprefix("torch.")) for key, part in state.items()
        )

    def _act(self, leaves: dict[str, Array], reward: Array, is_first: Array) -> Array:
        """Return the actions `[B, *]` in the environment's units, and keep the state."""
        obs = nested({key: torch.from_numpy(part) for key, part in leaves.items()})
        inputs = PolicyInput(obs, torch.from_numpy(reward), torch.from_numpy(is_first), progress=1.0)
        with torch.inference_mode():
            output = self.algorithm.act(self.policy, inputs, self._state, self.mode, self.generator)
        self._state = output.rnn_state
        return self._to_env(output.action.numpy())

    def _forget(self) -> None:
        """Forget the state of all episodes."""
        self._state = {}


def nested(leaves: dict[str, Any]) -> Any:
    """Return leaves by flat key as an observation: the only one without keys, or nested dicts."""
    if list(leaves) == ["obs"]:
        return leaves["obs"]
    obs: dict[str, Any] = {}
    for key, part in leaves.items():
        *path, name = key.split("/")[1:]
        below = obs
        for level in path:
            below = below.setdefault(level, {})
        below[name] = part
    return obs
