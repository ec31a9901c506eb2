"""Call a policy with the observations of its environment. Imports NumPy only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FORMAT = 1


@dataclass(frozen=True)
class Leaf:
    """Array of one observation, action or state.

    Args:
        key: its flat key; a slash joins the levels of a nested Dict.
        shape: shape without the batch axis.
        dtype: NumPy's name of its dtype.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class PolicySpec:
    """Inputs and outputs of a policy.

    Args:
        algo: name of the algorithm.
        env: id of the environment.
        observation: leaves of an observation; a single one without keys has the key `obs`.
        action: the action in the environment's own units.
        state: leaves of the state of a recurrent policy.
        policy_steps: policy steps of training.
        noise: leaves of random numbers that the policy draws for each action; their keys begin with `uniform/`, for
            numbers in [0, 1), or with `normal/`.
    """

    algo: str
    env: str
    observation: tuple[Leaf, ...]
    action: Leaf
    state: tuple[Leaf, ...] = ()
    policy_steps: int = 0
    noise: tuple[Leaf, ...] = ()

    def to_json(self) -> str:
        """Return the specification as JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> PolicySpec:
        """Return the specification of a text from `to_json`.

        Raises:
            ValueError: the text has another format.
        """
        found = json.loads(text)
        if found.pop("format", None) != FORMAT:
            raise ValueError(f"it has another format than {FORMAT}; export it with this version of SheepRL")
        leaves = {
            name: tuple(Leaf(leaf["key"], tuple(leaf["shape"]), leaf["dtype"]) for leaf in found[name])
            for name in ("observation", "state", "noise")
        }
        action = Leaf(found["action"]["key"], tuple(found["action"]["shape"]), found["action"]["dtype"])
        return cls(**{**found, **leaves, "action": action})


class Policy:
    """Policy that acts in the environment's own units and holds the state of a recurrent policy.

    Call it with one observation or with a batch of them. Call `reset` at the beginning of an episode.

    Args:
        spec: inputs and outputs.
    """

    def __init__(self, spec: PolicySpec) -> None:
        """Begin with new episodes."""
        self.spec = spec
        self._is_first: Array | None = None  # None: every environment begins an episode
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Set the seed of the random numbers of a policy that draws some."""
        self._generator = np.random.default_rng(seed)

    def _draw(self, count: int) -> dict[str, Array]:
        """Return the random numbers `[B, *]` of one call by key."""
        drawn = {}
        for leaf in self.spec.noise:
            draw = self._generator.random if leaf.key.startswith("uniform") else self._generator.standard_normal
            drawn[leaf.key] = np.asarray(draw((count, *leaf.shape), np.float32))
        return drawn

    def reset(self, where: Any = None) -> None:
        """Begin new episodes.

        Args:
            where: `[B]` booleans, true where an episode begins; None for all.
        """
        if where is None:
            self._is_first = None
            self._forget()
        elif self._is_first is not None:
            self._is_first = self._is_first | np.asarray(where, bool)

    def __call__(self, obs: Any, reward: Any = 0.0) -> Any:
        """Return the action for an observation, or `[B, *]` actions for `[B, *]` observations.

        Args:
            obs: observation of the environment, an array or (nested) mappings of arrays.
            reward: reward on arrival, for policies that read it.

        Raises:
            ValueError: the observation has other keys or shapes than the policy's, or a recurrent policy gets another
                batch size than before.
        """
        leaves, is_batch = self.leaves(obs)
        count = len(next(iter(leaves.values())))
        if self._is_first is None or not self.spec.state:
            self._is_first = np.ones(count, bool)
        if len(self._is_first) != count:
            raise ValueError(
                f"a batch of {count} after one of {len(self._is_first)}; call reset() to begin with another size"
            )
        rewards = np.broadcast_to(np.asarray(reward, np.float32), (count,)).copy()
        action = self._act(leaves, rewards, self._is_first)
        self._is_first = np.zeros(count, bool)
        action = np.asarray(action).astype(self.spec.action.dtype, copy=False).reshape(count, *self.spec.action.shape)
        return action if is_batch else action[0]

    def act_without_state(self, leaves: dict[str, Array]) -> Array:
        """Return the actions `[B, *]` of a policy without a state for any number of observations `[B, *]`."""
        count = len(next(iter(leaves.values())))
        action = np.asarray(self._act(leaves, np.zeros(count, np.float32), np.ones(count, bool)))
        return action.astype(self.spec.action.dtype, copy=False).reshape(count, *self.spec.action.shape)

    def leaves(self, obs: Any) -> tuple[dict[str, Array], bool]:
        """Return the leaves `[B, *]` of an observation by flat key, and whether it is a batch.

        Raises:
            ValueError: the observation has other keys or shapes than the policy's, or values that aren't numbers.
        """
        leaves, batched = {}, set()
        for leaf in self.spec.observation:
            part = np.asarray(_part(obs, leaf.key))
            extra = part.ndim - len(leaf.shape)
            if extra not in (0, 1) or part.shape[extra:] != leaf.shape:
                raise ValueError(
                    f"{leaf.key} has the shape {list(part.shape)}; this policy needs {list(leaf.shape)}, or a batch "
                    f"[B, {', '.join(map(str, leaf.shape))}]"
                )
            batched.add(extra == 1)
            try:
                part = part.astype(leaf.dtype, copy=False)
            except (ValueError, TypeError):
                raise ValueError(f"{leaf.key} has values that aren't numbers") from None
            leaves[leaf.key] = part if extra else part[None]
        if len(batched) > 1:
            raise ValueError("some parts of the observation are a batch and others are not")
        return leaves, True in batched

    def _act(self, leaves: dict[str, Array], reward: Array, is_first: Array) -> Array:
        """Return the actions `[B, *]` in the environment's units, and keep the state."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Forget the state of all episodes."""


def _part(obs: Any, key: str) -> Any:
    """Return the part of an observation under a flat key.

    Raises:
        ValueError: the observation has no such part.
    """
    path = key.split("/")[1:]
    for name in path:
        named = {str(known): part for known, part in obs.items()} if isinstance(obs, Mapping) else {}
        if name not in named:
            raise ValueError(f"the observation has no {'.'.join(path)!r}; this policy was trained with it")
        obs = named[name]
    return obs
