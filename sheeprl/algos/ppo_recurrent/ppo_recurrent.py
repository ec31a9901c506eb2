"""PPO, Schulman et al. 2017 (1707.06347), with a memory: an LSTM or a GRU."""

from __future__ import annotations

from torch import nn

from sheeprl.algos.base import Algorithm
from sheeprl.algos.ppo.ppo import PPO
from sheeprl.algos.ppo_recurrent.agent import RecurrentPPOAgent
from sheeprl.algos.ppo_recurrent.args import RecurrentPPOArgs
from sheeprl.algos.ppo_recurrent.with_memory import WithMemory


class RecurrentPPO(WithMemory, PPO, Algorithm[RecurrentPPOArgs]):
    """PPO on a memory that actor and critic share. A training sequence begins with the state that the player had."""

    args: RecurrentPPOArgs

    def build_agent(self) -> nn.Module:
        """Build encoder, memory, actor and critic."""
        return RecurrentPPOAgent(self.spaces, self.args)
