"""Repeat each action for several steps."""

from __future__ import annotations

from typing import Any

import gymnasium


class ActionRepeat(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Take each action `amount` times and return the sum of the rewards; stop early at an episode's end.

    One step of the wrapped environment counts as one policy step.

    Args:
        env: the environment.
        amount: steps per action, at least 1.

    Raises:
        ValueError: `amount` is less than 1.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], amount: int = 2) -> None:
        """Store the number of steps."""
        super().__init__(env)
        if amount < 1:
            raise ValueError(f"amount={amount}: must be at least 1")
        self.amount = amount

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the action until its repeats are done or the episode ends."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        total = float(reward)
        for _ in range(self.amount - 1):
            if terminated or truncated:
                break
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
        return obs, total, terminated, truncated, info
