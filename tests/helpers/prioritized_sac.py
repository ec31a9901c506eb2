"""SAC with n-step returns and prioritized replay by TD error."""

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field

from sheeprl.algos.args import OffPolicy
from sheeprl.algos.base import Algorithm, Loss
from sheeprl.algos.sac.args import SACArgs
from sheeprl.algos.sac.sac import SAC
from sheeprl.utils.settings import Count


class PrioritizedSACArgs(SACArgs):
    """Arguments of SAC, and the number of steps."""

    algorithm: ClassVar[str] = "tests.helpers.prioritized_sac:PrioritizedSAC"

    steps: Count = Field(3, description="steps of a return")

    def data(self) -> OffPolicy:
        """Return SAC's data with n-step returns and priorities."""
        from sheeprl.buffer.priorities import Prioritized
        from sheeprl.buffer.samplers import NStep

        data = super().data()
        return replace(data, sampler=NStep(self.steps, self.gamma), prioritized=Prioritized())


class PrioritizedSAC(SAC, Algorithm[PrioritizedSACArgs]):
    """SAC whose critic loss returns priorities."""

    def critic_loss(self, agent, batch, noise, carry):
        """Return the critic loss and the absolute TD errors as priorities."""
        with torch.no_grad():
            next_action, next_logprob = agent.policy.sample(batch["next_obs"], noise["action"])
            next_q = agent.critic_target(batch["next_obs"], next_action).min(0).values
            target = batch["reward"] + batch["discount"] * (next_q - agent.alpha() * next_logprob)
        errors = agent.critic(batch["obs"], batch["action"]) - target
        loss = (batch["sample_weight"] * batch["importance"] * errors**2).sum()
        metrics = {"Loss/value_loss": loss.detach(), "Buffer/importance": batch["importance"].min()}
        return Loss(loss, metrics, priority=errors.detach().abs().mean(0))
