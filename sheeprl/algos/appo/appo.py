"""APPO: PPO, Schulman et al. 2017 (1707.06347), over the V-trace of IMPALA, Espeholt et al. 2018 (1802.01561)."""

from __future__ import annotations

from torch import nn

from sheeprl.algos.appo.args import APPOArgs
from sheeprl.algos.base import Algorithm
from sheeprl.algos.impala.vtrace import VTraceActorCritic
from sheeprl.algos.ppo.ppo import PPO
from sheeprl.algos.ppo_recurrent.agent import RecurrentPPOAgent


class APPO(VTraceActorCritic, PPO, Algorithm[APPOArgs]):
    """PPO whose ratio is that of the policy to the one at the start of the round, on V-trace advantages.

    The advantages carry the importance weights of the lag between the players' policy and the round's first one.
    """

    args: APPOArgs

    def build_agent(self) -> nn.Module:
        """Build actor and critic, and the memory if there is one."""
        return RecurrentPPOAgent(self.spaces, self.args)
