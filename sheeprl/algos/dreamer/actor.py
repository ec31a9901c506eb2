"""Distribution of the actions of a Dreamer, as functions of the output of its actor."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from torch import Tensor

from sheeprl.algos.base import Mode
from sheeprl.models.actions import Actions
from sheeprl.models.distributions import normal_entropy, normal_logprob
from sheeprl.models.latents import inverse_cdf_sample, mixed_logprob
from sheeprl.models.precision import full_precision

LEAST_DEVIATION, LARGEST_DEVIATION = 0.1, 1.0


class ActorHead:
    """Distribution of the actions, as functions of the output of a network.

    Discrete actions have categoricals with a uniform part. Continuous ones have normals with the mean tanh(x) and the
    deviation 0.1 + 0.9 σ(y + 2).

    Args:
        space: action space of the agent.
        mix: uniform part of the categoricals.
    """

    def __init__(self, space: gymnasium.Space[Any], mix: float) -> None:
        """Compute the sizes."""
        self.actions, self.mix = Actions(space), mix
        self.size = self.actions.outputs
        """Length of the vector of an action."""
        self.outputs = self.size * (2 if self.actions.is_continuous else 1)
        """Length of the network's output."""
        self.components = self.size if self.actions.is_continuous else len(self.actions.choices)
        """Number of noise values of one action."""

    def parameters(self, output: Tensor) -> Tensor:
        """Return the parameters of the distribution: log probabilities, or means joined with log deviations."""
        output = full_precision(output)
        if self.actions.is_continuous:
            mean, raw = output.chunk(2, -1)
            deviation = (LARGEST_DEVIATION - LEAST_DEVIATION) * (raw + 2.0).sigmoid() + LEAST_DEVIATION
            return torch.cat([mean.tanh(), deviation.log()], -1)
        parts = output.split_with_sizes(self.actions.choices, -1)
        return torch.cat([mixed_logprob(part, self.mix) for part in parts], -1)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw the noise `[*shape, components]` of actions."""
        draw = torch.randn if self.actions.is_continuous else torch.rand
        return draw(*shape, self.components, generator=generator, device=generator.device)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Sample actions by noise `[*, components]`."""
        if self.actions.is_continuous:
            mean, log_deviation = parameters.chunk(2, -1)
            return mean + log_deviation.exp() * noise
        parts = zip(parameters.split_with_sizes(self.actions.choices, -1), noise.unbind(-1), strict=True)
        chosen = torch.stack([inverse_cdf_sample(part.exp(), uniform) for part, uniform in parts], -1)
        return chosen.squeeze(-1) if self.actions.is_single else chosen

    def act(self, parameters: Tensor, mode: Mode, mask: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return actions for the environment: the most likely ones, sampled or uniform; only permitted ones."""
        if mode == "random":
            return self.actions.random(len(parameters), generator, mask=mask)
        if self.actions.is_continuous:
            mean, log_deviation = parameters.chunk(2, -1)
            return mean if mode == "greedy" else self.actions.sample(mean, generator, log_std=log_deviation)
        if mode == "greedy":
            return self.actions.greedy(parameters, mask=mask)
        return self.actions.sample(parameters, generator, mask=mask)

    def logprob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """Return the log probability, or log density, of actions: `[*]`."""
        if self.actions.is_continuous:
            mean, log_deviation = parameters.chunk(2, -1)
            return normal_logprob(action, mean, log_deviation)
        return self.actions.logprob(parameters, action)

    def entropy(self, parameters: Tensor) -> Tensor:
        """Return the entropy: `[*]`."""
        if self.actions.is_continuous:
            return normal_entropy(parameters.chunk(2, -1)[1])
        return self.actions.entropy(parameters)

    def vector(self, action: Tensor) -> Tensor:
        """Return actions as the world model gets them: one-hot, or divided by max(1, |a|)."""
        vector = self.actions.vector(action)
        return vector / vector.abs().clamp_min(1.0) if self.actions.is_continuous else vector
