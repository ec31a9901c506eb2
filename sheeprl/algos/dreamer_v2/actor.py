"""DreamerV2's distribution of actions: truncated normals if they are continuous, else categoricals."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import torch
from torch import Tensor

from sheeprl.algos.base import Mode
from sheeprl.algos.dreamer.actor import ActorHead
from sheeprl.models.distributions import LOG_2PI

LEAST_DEVIATION = 0.1
EDGE = 1e-6  # distance of probabilities and actions from their bounds, where gradients would be infinite


def cumulative(x: Tensor) -> Tensor:
    """Return the standard normal distribution function Φ(x)."""
    return 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def truncated_sample(mean: Tensor, deviation: Tensor, uniform: Tensor) -> Tensor:
    """Sample from normals truncated to [−1, 1] by the inverse of the distribution function, with gradients.

    Args:
        mean: `[*]`.
        deviation: `[*]`.
        uniform: `[*]`, uniform in [0, 1).
    """
    low, high = cumulative((-1.0 - mean) / deviation), cumulative((1.0 - mean) / deviation)
    probability = (low + uniform * (high - low)).clamp(EDGE, 1.0 - EDGE)
    sample = mean + deviation * math.sqrt(2.0) * torch.erfinv(2.0 * probability - 1.0)
    return sample.clamp(EDGE - 1.0, 1.0 - EDGE)


def truncated_logprob(action: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return the log density of normals truncated to [−1, 1], summed over the last axis: `[*, n]` to `[*]`."""
    inside = cumulative((1.0 - mean) / deviation) - cumulative((-1.0 - mean) / deviation)
    z = (action - mean) / deviation
    return (-0.5 * z * z - deviation.log() - 0.5 * LOG_2PI - inside.log()).sum(-1)


def truncated_entropy(mean: Tensor, deviation: Tensor) -> Tensor:
    """Return ½ + ½ log 2π + log(σ Z) + (α φ(α) − β φ(β)) / (2 Z), summed over the last axis: `[*, n]` to `[*]`."""
    low, high = (-1.0 - mean) / deviation, (1.0 - mean) / deviation
    inside = cumulative(high) - cumulative(low)
    density = [torch.exp(-0.5 * each * each - 0.5 * LOG_2PI) for each in (low, high)]
    tails = (low * density[0] - high * density[1]) / (2.0 * inside)
    return (0.5 + 0.5 * LOG_2PI + (deviation * inside).log() + tails).sum(-1)


class TruncatedHead(ActorHead):
    """Distribution of actions. The parameters of continuous ones are tanh means joined with standard deviations.

    The deviation is 0.1 + 2 σ(y / 2).

    Args:
        space: action space of the agent.
    """

    def __init__(self, space: gymnasium.Space[Any]) -> None:
        """Compute the sizes; the categoricals have no uniform part."""
        super().__init__(space, mix=0.0)

    def parameters(self, output: Tensor) -> Tensor:
        """Return the parameters of the distribution."""
        if not self.actions.is_continuous:
            return super().parameters(output)
        mean, raw = output.chunk(2, -1)
        return torch.cat([mean.tanh(), 2.0 * (raw / 2.0).sigmoid() + LEAST_DEVIATION], -1)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw uniform noise `[*shape, components]`."""
        return torch.rand(*shape, self.components, generator=generator, device=generator.device)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Sample actions by noise `[*, components]`; those of a Box pass the gradient of the parameters."""
        if not self.actions.is_continuous:
            return super().sample(parameters, noise)
        mean, deviation = parameters.chunk(2, -1)
        return truncated_sample(mean, deviation, noise)

    def act(self, parameters: Tensor, mode: Mode, mask: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return actions for the environment: the most likely ones, sampled or uniform; only permitted ones."""
        if mode == "random" or not self.actions.is_continuous:
            return super().act(parameters, mode, mask, generator)
        if mode == "greedy":
            return parameters.chunk(2, -1)[0]
        return self.sample(parameters, self.draw((len(parameters),), generator))

    def logprob(self, parameters: Tensor, action: Tensor) -> Tensor:
        """Return the log probability, or log density, of actions: `[*]`."""
        if not self.actions.is_continuous:
            return super().logprob(parameters, action)
        return truncated_logprob(action, *parameters.chunk(2, -1))

    def entropy(self, parameters: Tensor) -> Tensor:
        """Return the entropy: `[*]`."""
        if not self.actions.is_continuous:
            return super().entropy(parameters)
        return truncated_entropy(*parameters.chunk(2, -1))
