"""Run the policy of a checkpoint with torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch.overrides import TorchFunctionMode

from sheeprl.algos.base import Algorithm, Mode, PolicyInput, Tensors
from sheeprl.buffer.tensordicts import nested
from sheeprl.envs.transforms import ActionTransform, array_dtype, flat_spaces
from sheeprl.policy.interface import Array, Leaf, Policy, PolicySpec


class Draws(TorchFunctionMode):
    """Record the random numbers that the block draws from a generator, or replace them by given ones.

    Args:
        given: the numbers `[B, *]` in the order of the draws; None to draw and record.
    """

    def __init__(self, given: Sequence[torch.Tensor] | None = None) -> None:
        """Start without records."""
        super().__init__()
        self.given = None if given is None else list(given)
        self.found: list[Leaf] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, or return given numbers for it."""
        kwargs = kwargs or {}
        if func not in KINDS or kwargs.get("generator") is None:
            return func(*args, **kwargs)
        if self.given is not None:
            return self.given.pop(0)
        drawn = func(*args, **kwargs)
        self.found.append(Leaf(f"{KINDS[func]}/{len(self.found)}", tuple(drawn.shape[1:]), "float32"))
        return drawn


KINDS: dict[Any, str] = {torch.rand: "uniform", torch.randn: "normal"}


class TorchPolicy(Policy):
    """Policy of a checkpoint.

    Args:
        algorithm: the algorithm.
        policy: the agent's submodule `policy`.
        action: the environment's own action space.
        env: id of the environment.
        policy_steps: policy steps of training.
        mode: mode of `Algorithm.act`.
        seed: seed of the random numbers, which world models draw in every mode.
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
        self.generator = torch.Generator()
        self._to_env = ActionTransform(action)
        self._state: Tensors = {}
        self.draws_as_exported = False
        """Draw the same random numbers as an exported policy of the same seed, for a comparison."""
        leaves = [
            Leaf(key, tuple(int(size) for size in space.shape or ()), str(array_dtype(space)))
            for key, space in flat_spaces(algorithm.spaces.observation).items()
        ]
        name = str(action.dtype)
        state, noise = self._state_and_noise()
        super().__init__(
            PolicySpec(
                algorithm.args.name,
                env,
                tuple(leaves),
                Leaf("action", tuple(int(size) for size in action.shape or ()), name),
                state,
                policy_steps,
                noise,
            )
        )
        self.seed(seed)

    def example(self) -> Tensors:
        """Return one observation `[1, *]` by flat key, drawn from the space."""
        example = {}
        for key, space in flat_spaces(self.algorithm.spaces.observation).items():
            drawn = copy.deepcopy(space)
            drawn.seed(0)
            example[key] = torch.from_numpy(np.asarray(drawn.sample(), array_dtype(space))[None])
        return example

    def _state_and_noise(self) -> tuple[tuple[Leaf, ...], tuple[Leaf, ...]]:
        """Return the leaves of the state and of random numbers, from a call with an observation of the space."""
        inputs = PolicyInput(
            nested(self.example())["obs"], torch.zeros(1), torch.ones(1, dtype=torch.bool), progress=1.0
        )
        with torch.inference_mode(), Draws() as draws:
            state = self.algorithm.act(self.policy, inputs, {}, "greedy", self.generator).rnn_state
        leaves = [Leaf(key, tuple(part.shape[1:]), str(part.dtype)[6:]) for key, part in state.items()]
        return tuple(leaves), tuple(draws.found)

    def _act(self, leaves: dict[str, Array], reward: Array, is_first: Array) -> Array:
        """Return the actions `[B, *]` in the environment's units, and keep the state."""
        obs = nested({key: torch.from_numpy(part) for key, part in leaves.items()})["obs"]
        inputs = PolicyInput(obs, torch.from_numpy(reward), torch.from_numpy(is_first), progress=1.0)
        drawn = (
            [torch.from_numpy(part) for part in self._draw(len(reward)).values()] if self.draws_as_exported else None
        )
        with torch.inference_mode(), nullcontext() if drawn is None else Draws(drawn):
            output = self.algorithm.act(self.policy, inputs, self._state, self.mode, self.generator)
        self._state = output.rnn_state if self.spec.state else {}  # in other modes, also what only training needs
        return self._to_env(output.action.numpy())

    def seed(self, seed: int) -> None:
        """Set the seed of the random numbers."""
        super().seed(seed)
        self.generator.manual_seed(seed)

    def _forget(self) -> None:
        """Forget the state of all episodes."""
        self._state = {}
