"""Rows of a fragment during collection."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch

from sheeprl.algos.base import PolicyInput, PolicyOutput, Tensors
from sheeprl.buffer.storage import Rows
from sheeprl.envs import transforms

Array = npt.NDArray[Any]


class RolloutWriter:
    """Fills `[T + 1, B, *]` arrays row by row.

    The inputs of the policy are tensors that share the arrays' memory. They are made once for all rows: with a small
    network, making them at every step would take as long as the forward pass.

    Args:
        space: observation space.
        first: first row as `[B, *]` arrays by flat key, from `first_row` or `bootstrap_row`.
        count: time steps T.
        progress: progress of the run, from 0 to 1, which is part of every policy input.
        first_env: number of the first environment in the run.
        num_envs: number of all environments of the run.
    """

    def __init__(
        self,
        space: gymnasium.Space[Any],
        first: Rows,
        count: int,
        progress: float,
        first_env: int = 0,
        num_envs: int = 1,
    ) -> None:
        """Allocate the arrays and write the first row."""
        self._space = space
        leaves = transforms.flat_spaces(space)
        dtypes = {key: transforms.array_dtype(leaf) for key, leaf in leaves.items()}
        dtypes |= {"reward": np.dtype(np.float32)}
        dtypes |= dict.fromkeys(("terminated", "truncated", "is_first"), np.dtype(np.bool_))
        self._arrival_keys = list(dtypes)  # keys that the environment returns; the policy returns the others
        self.rows: Rows = {}
        for key, dtype in dtypes.items():
            self.rows[key] = np.empty((count + 1, *first[key].shape), dtype)
            self.rows[key][0] = first[key]
        self._obs = self.rows.get("obs")  # None for a Dict space
        self._flags = [self.rows[key] for key in ("reward", "terminated", "truncated", "is_first")]
        reward, is_first = (torch.from_numpy(self.rows[key]).unbind(0) for key in ("reward", "is_first"))
        arrivals = zip(_by_row(self.rows, space, "obs"), reward, is_first, strict=True)
        self.inputs = [PolicyInput(*arrival, progress, first_env, num_envs) for arrival in arrivals]
        """Policy input of each row."""

    def write_action(self, t: int, output: PolicyOutput) -> Array:
        """Write the action and the extras of row t; return the actions `[B, *]`."""
        action = output.action.numpy()
        self._write("action", t, action)
        for name, values in output.extras.items():
            self._write(name, t, values.numpy())
        return action

    def _write(self, name: str, t: int, values: Array) -> None:
        """Write values `[B, *]` into row t of an array, which the first call allocates."""
        if name not in self.rows:  # the bootstrap row has no action, so it stays 0
            self.rows[name] = np.zeros((len(self.inputs), *values.shape), values.dtype)
        self.rows[name][t] = values

    def write_step(self, t: int, obs: Any, reward: Array, terminated: Array, truncated: Array) -> None:
        """Write the result of the environment step into row t."""
        if self._obs is not None:
            self._obs[t] = obs
        else:
            for key, values in transforms.flat_observations(obs).items():
                self.rows[key][t] = values
        rewards, terminations, truncations, firsts = self._flags
        rewards[t] = reward
        terminations[t] = terminated
        truncations[t] = truncated
        np.logical_or(terminations[t - 1], truncations[t - 1], out=firsts[t])

    def tensors(self) -> Tensors:
        """Return the rows as tensors by key, with observations nested like their space."""
        rest = {name: torch.from_numpy(values) for name, values in self.rows.items() if not name.startswith("obs/")}
        return {**rest, "obs": _nested(self.rows, self._space, "obs")}

    def add_priority(self, priority: torch.Tensor) -> None:
        """Add initial priorities `[T, B]` under the key `priority`; the bootstrap row gets 0."""
        self.rows["priority"] = np.zeros((len(self.inputs), *priority.shape[1:]), np.float32)
        self.rows["priority"][:-1] = priority.numpy()

    def bootstrap_row(self) -> Rows:
        """Return the last row, with which the next fragment begins."""
        return {key: self.rows[key][-1].copy() for key in self._arrival_keys}


def first_row(obs: Any, envs: int) -> Rows:
    """Return the row after a reset of all environments."""
    never = np.zeros(envs, np.bool_)
    arrival = {"reward": np.zeros(envs, np.float32), "terminated": never, "truncated": never, "is_first": ~never}
    return {**transforms.flat_observations(obs), **arrival}


def _by_row(rows: Rows, space: gymnasium.Space[Any], key: str) -> list[Any]:
    """Return the observations of every row as tensors, nested like the space."""
    if not isinstance(space, gymnasium.spaces.Dict):
        return list(torch.from_numpy(rows[key]).unbind(0))
    parts = {name: _by_row(rows, part, f"{key}/{name}") for name, part in space.items()}
    return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]


def _nested(rows: Rows, space: gymnasium.Space[Any], key: str) -> Any:
    """Return the observations of all rows as tensors, nested like the space."""
    if not isinstance(space, gymnasium.spaces.Dict):
        return torch.from_numpy(rows[key])
    return {name: _nested(rows, part, f"{key}/{name}") for name, part in space.items()}
