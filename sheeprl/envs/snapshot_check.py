"""Test if snapshots of an environment are exact: step an environment and its restored copy side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from sheeprl.envs import global_rng
from sheeprl.envs.random_actions import RandomActions
from sheeprl.envs.snapshot import SnapshotEnv, VectorState

PROBE_STEPS = 100
PROBE_SECONDS = 2.0
MIN_PROBE_STEPS = 5
STEP = ("observation", "reward", "terminated", "truncated")


def why_not_snapshotable(make: Callable[[], SnapshotEnv | VectorState]) -> str:
    """Return the reason why snapshots of an environment are not exact; "" if they are.

    Step an environment and a restored copy side by side, for about `PROBE_SECONDS`.
    The process's generators stay as they are.

    Args:
        make: returns a new environment.
    """
    with global_rng.preserved():
        try:
            with closing(make()) as one, closing(make()) as other:
                return _Probe(one, other).run()
        except Exception as error:  # an environment that fails here can still be played, without snapshots
            return f"{type(error).__name__}: {' '.join(str(error).split())}"


class _Probe:
    """Side-by-side comparison of an environment and its restored copy."""

    def __init__(self, one: SnapshotEnv | VectorState, other: SnapshotEnv | VectorState) -> None:
        """Store both environments and make a source of random actions."""
        self.one, self.other = one, other
        self.count = one.envs.num_envs if isinstance(one, VectorState) else None  # None for one environment
        space = one.envs.single_action_space if isinstance(one, VectorState) else one.action_space
        self.actions = RandomActions(space, 0)
        self.obs: Any = None  # the last observation of both
        self.until = time.monotonic() + PROBE_SECONDS

    def run(self) -> str:
        """Compare within an episode and at an episode's end; return the first difference or an empty string."""
        self.obs, _ = self.one.reset(seed=1)
        self.other.reset(seed=2)
        for most in (7, PROBE_STEPS):  # within an episode, and at its end if that comes early
            self._play_on(most, until_end=most == PROBE_STEPS)
            self.other.snapshot = self.one.snapshot
            self.one.resets_itself = self.one.ended
            if problem := self._compare(PROBE_STEPS // 2) or self._compare_reset() or self._compare(PROBE_STEPS // 2):
                return problem
        return ""

    def _play_on(self, most: int, until_end: bool) -> None:
        """Step the first environment with random actions."""
        for number in range(most):
            if number >= MIN_PROBE_STEPS and time.monotonic() > self.until:
                return
            if self.one.ended:
                if until_end:
                    return
                self.obs, _ = self.one.reset()
            self.obs = self.one.step(self._draw())[0]

    def _draw(self) -> Any:
        """Return random permitted actions for the last observation; a step that resets ignores its action."""
        obs = None if self.one.resets_itself else self.obs
        return self.actions.draw(obs) if self.count is None else self.actions.draw_batch(obs, self.count)

    def _compare(self, steps: int) -> str:
        """Step both environments; return the first difference or an empty string."""
        for number in range(steps):
            if number >= MIN_PROBE_STEPS and time.monotonic() > self.until:
                break
            action = self._draw()
            ones, others = self._of_both(lambda env, action=action: env.step(action))  # type: ignore[misc]
            self.obs = ones[0]
            for name, a, b in zip(STEP, ones[:4], others[:4], strict=True):
                if not is_same(a, b):
                    return f"a restored copy behaves differently: the {name} of step {number + 1} differs"
            self.one.resets_itself, self.other.resets_itself = self.one.ended, self.other.ended
        return ""

    def _of_both(self, do: Callable[[SnapshotEnv | VectorState], tuple[Any, ...]]) -> tuple[Any, Any]:
        """Call `do` on both environments, with the process's generators in the same state; return both results."""
        before = global_rng.capture()
        of_one = do(self.one)
        global_rng.restore(before)
        return of_one, do(self.other)

    def _compare_reset(self) -> str:
        """Reset both environments; return the difference or an empty string."""
        (a, _), (b, _) = self._of_both(lambda env: env.reset())
        self.obs = a
        return "" if is_same(a, b) else "a restored copy begins a different episode"


def is_same(one: Any, other: Any) -> bool:
    """Return True if two values are bit-identical; NaN equals NaN."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(is_same(a, b) for a, b in zip(one, other, strict=True))
    a, b = np.asarray(one), np.asarray(other)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
