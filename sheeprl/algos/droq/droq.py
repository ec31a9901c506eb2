"""Dropout Q-functions, Hiraoka et al. 2022 (2110.02034)."""

from __future__ import annotations

import torch
from torch import nn

from sheeprl.algos.base import Algorithm, Tensors
from sheeprl.algos.droq.agent import DroQAgent
from sheeprl.algos.droq.args import DroQArgs
from sheeprl.algos.sac.sac import SAC
from sheeprl.models import noise


class DroQ(SAC, Algorithm[DroQArgs]):
    """SAC with dropout in the critics: its phases and losses, with a seed of the dropout in the noise."""

    args: DroQArgs

    def build_agent(self) -> nn.Module:
        """Build actor, critics, target critics and temperature."""
        return DroQAgent(self.spaces, self.args)

    def actor_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return SAC's noise and `seed` `[N]` of the critics' dropout."""
        return {**super().actor_noise(shape, generator), "seed": noise.seeds(shape, generator)}

    def critic_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return SAC's noise, `seed` and `target_seed` `[N]` of the critics' and the target critics' dropout."""
        return {**super().critic_noise(shape, generator), "target_seed": noise.seeds(shape, generator)}
