"""IMPALA, Espeholt et al. 2018 (1802.01561)."""

from __future__ import annotations

from torch import nn

from sheeprl.algos.a2c.a2c import A2C
from sheeprl.algos.base import Algorithm
from sheeprl.algos.impala.args import ImpalaArgs
from sheeprl.algos.impala.vtrace import VTraceActorCritic
from sheeprl.algos.ppo_recurrent.agent import RecurrentAgent


class Impala(VTraceActorCritic, A2C, Algorithm[ImpalaArgs]):
    """A2C with V-trace: one gradient step on each rollout, which players with older weights may have collected."""

    args: ImpalaArgs

    def build_agent(self) -> nn.Module:
        """Build actor and critic, and the memory if there is one."""
        return RecurrentAgent(self.spaces, self.args)
