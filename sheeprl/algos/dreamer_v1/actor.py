"""DreamerV1's distribution of actions: the hyperbolic tangent of normals."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import torch
from torch import Tensor
from torch.nn import functional

from sheeprl.algos.base import Mode
from sheeprl.algos.dreamer_v2.actor import TruncatedHead

LARGEST_MEAN = 5.0  # before the hyperbolic tangent
FIRST_DEVIATION = 5.0  # of an untrained network
LEAST_DEVIATION = 1e-4


class TanhHead(TruncatedHead):
    """Distribution tanh(N(5 tanh(x / 5), softplus(y + c) + 0.0001)), with c so that the first deviation is 5.

    Args:
        space: Box of the actions.
        exploration_noise: standard deviation of the noise on played actions.
    """

    def __init__(self, space: gymnasium.Space[Any], exploration_noise: float) -> None:
        """Compute the sizes."""
        super().__init__(space)
        self.exploration_noise = exploration_noise

    def parameters(self, output: Tensor) -> Tensor:
        """Return the normals' means joined with their standard deviations."""
        mean, raw = output.chunk(2, -1)
        deviation = functional.softplus(raw + math.log(math.expm1(FIRST_DEVIATION))) + LEAST_DEVIATION
        return torch.cat([LARGEST_MEAN * (mean / LARGEST_MEAN).tanh(), deviation], -1)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw standard normal noise `[*shape, components]`."""
        return torch.randn(*shape, self.components, generator=generator, device=generator.device)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Sample actions by noise `[*, components]`, with the gradient of the parameters."""
        mean, deviation = parameters.chunk(2, -1)
        return torch.tanh(mean + deviation * noise)

    def act(self, parameters: Tensor, mode: Mode, mask: Tensor | None, generator: torch.Generator) -> Tensor:
        """Return actions for the environment: tanh of the mean, samples with exploration noise, or uniform ones."""
        if mode == "random":
            return self.actions.random(len(parameters), generator, mask=mask)
        if mode == "greedy":
            return parameters.chunk(2, -1)[0].tanh()
        action = self.sample(parameters, self.draw((len(parameters),), generator))
        noise = self.draw((len(parameters),), generator)
        return (action + self.exploration_noise * noise).clamp(-1.0, 1.0)

    def entropy(self, parameters: Tensor) -> Tensor:
        """Return the entropy of the normals before the hyperbolic tangent, for the log: `[*]`."""
        return (0.5 * math.log(2.0 * math.pi * math.e) + parameters.chunk(2, -1)[1].log()).sum(-1)
