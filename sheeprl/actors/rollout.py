"""The rows of a fragment while they are being played."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch

from sheeprl.algos.base import PolicyInput, PolicyOutput
from sheeprl.buffer.storage import Rows
from sheeprl.envs import transforms

Array = npt.NDArray[Any]


class RolloutWriter:
    """Arrays `[T + 1, B, *]` that are filled row by row.

    What the algorithm sees of a row is tensors in the same memory, made once for all rows: for small networks making
    them at every step would take as long as deciding.

    Args:
        space: of observations.
        first: the row that is there already, as `tail` gave it: `[B, *]` arrays by flat key.
        count: T.
        progress: part of the run that has been played, which every row tells.
    """

    def __init__(self, space: gymnasium.Space[Any], first: Rows, count: int, progress: float) -> None:
        leaves = transforms.flat_spaces(space)
        dtypes = {key: transforms.array_dtype(leaf) for key, leaf in leaves.items()}
        dtypes |= {"reward": np.dtype(np.float32)}
        dtypes |= dict.fromkeys(("terminated", "truncated", "is_first"), np.dtype(np.bool_))
        self._found = list(dtypes)  # keys of what is found on arriving; the others are decided there
        self.rows: Rows = {}
        for key, dtype in dtypes.items():
            self.rows[key] = np.empty((count + 1, *first[key].shape), dtype)
            self.rows[key][0] = first[key]
        self._obs = self.rows.get("obs")  # None for a Dict space
        self._flags = [self.rows[key] for key in ("reward", "terminated", "truncated", "is_first")]
        reward, is_first = (torch.from_numpy(self.rows[key]).unbind(0) for key in ("reward", "is_first"))
        found = zip(_by_row(self.rows, space, "obs"), reward, is_first, strict=True)
        self.inputs = [PolicyInput(obs, reward, is_first, progress) for obs, reward, is_first in found]
        """What the algorithm sees, by number of the row."""

    def write_action(self, t: int, output: PolicyOutput) -> Array:
        """Write what was chosen on row t, and what the algorithm stores; the actions `[B, *]`."""
        action = output.action.numpy()
        self._write("action", t, action)
        for name, values in output.extras.items():
            self._write(name, t, values.numpy())
        return action

    def _write(self, name: str, t: int, values: Array) -> None:
        if name not in self.rows:  # the tail, on which nothing is decided, stays 0
            self.rows[name] = np.zeros((len(self.inputs), *values.shape), values.dtype)
        self.rows[name][t] = values

    def write_step(self, t: int, obs: Any, reward: Array, terminated: Array, truncated: Array) -> None:
        """Write what was found on arriving at row t."""
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

    def bootstrap_row(self) -> Rows:
        """The last row, with which the next fragment begins."""
        return {key: self.rows[key][-1].copy() for key in self._found}


def first_row(obs: Any, envs: int) -> Rows:
    """The row after a reset of all environments."""
    never = np.zeros(envs, np.bool_)
    arrived = {"reward": np.zeros(envs, np.float32), "terminated": never, "truncated": never, "is_first": ~never}
    return {**transforms.flat_observations(obs), **arrived}


def _by_row(rows: Rows, space: gymnasium.Space[Any], key: str) -> list[Any]:
    """Observations of every row as tensors, nested as the space is."""
    if not isinstance(space, gymnasium.spaces.Dict):
        return list(torch.from_numpy(rows[key]).unbind(0))
    parts = {name: _by_row(rows, part, f"{key}/{name}") for name, part in space.items()}
    return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]
