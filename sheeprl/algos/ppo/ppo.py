"""Proximal Policy Optimization, Schulman et al. 2017 (1707.06347)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from sheeprl.algos.base import Algorithm, Loss, Mode, OptimizerSpec, Phase, PolicyInput, PolicyOutput, Step, Tensors
from sheeprl.algos.ppo.agent import Actor, PPOAgent
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.ppo.loss import approximate_kl, clipped_policy_loss, compute_gae, entropy_loss, value_loss

if TYPE_CHECKING:
    from tensordict import TensorDict


class PPO(Algorithm[PPOArgs]):
    """Clipped surrogate, generalized advantages, several epochs of minibatches a rollout."""

    def build_agent(self) -> nn.Module:
        """Separate networks for actor and critic."""
        return PPOAgent(self.spaces, self.args)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """One Adam over both networks, their gradients clipped together."""
        build = partial(Adam, lr=self.args.learning_rate, eps=self.args.adam_eps)
        return {"agent": OptimizerSpec(("policy", "critic"), build, self.args.max_grad_norm)}

    def act(
        self, policy: Actor, row: PolicyInput, state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Sample, and remember under which probability."""
        output = policy(row.obs)
        if mode == "greedy":
            return PolicyOutput(policy.greedy(output))
        action = policy.sample(output, generator)
        return PolicyOutput(action, {"logprob": policy.logprob(output, action)})

    def prepare_rollout(self, agent: PPOAgent, rollout: TensorDict) -> TensorDict:
        """Add values, advantages and returns, by the critic as it is before the first minibatch."""
        value = agent.critic(rollout["obs"], batch_dims=2)
        advantage = compute_gae(
            rollout["reward"], value, rollout["terminated"], rollout["truncated"], self.args.gamma, self.args.gae_lambda
        )
        rows = rollout[:-1].select("obs", "action", "logprob")
        rows["advantage"] = advantage
        rows["returns"] = advantage + value[:-1]
        rows["mask"] = ~(rollout["terminated"] | rollout["truncated"])[:-1]
        return rows

    def phases(self, step: Step) -> Sequence[Phase]:
        """One phase; learning rate and clip may fall to 0 over the run."""
        scale = 1.0 - step.progress if self.args.anneal else 1.0
        return [Phase("agent", self.loss, scalars={"clip": self.args.clip * scale}, lr_scale=scale)]

    def loss(self, agent: PPOAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """−L^CLIP + c1 L^VF − c2 S, eq. 9."""
        weight: Any = batch["sample_weight"]
        output = agent.policy(batch["obs"])
        logprob = agent.policy.logprob(output, batch["action"])
        policy = clipped_policy_loss(logprob, batch["logprob"], batch["advantage"], weight, carry["clip"])
        value = self.value_loss(agent.critic(batch["obs"]), batch["returns"], weight)
        entropy = entropy_loss(agent.policy.entropy(output), weight)
        metrics = {
            "Loss/policy_loss": policy.detach(),
            "Loss/value_loss": value.detach(),
            "Loss/entropy_loss": entropy.detach(),
            "Loss/approx_kl": approximate_kl(logprob.detach(), batch["logprob"], weight),
        }
        return Loss(policy + self.args.value_coef * value + self.args.entropy_coef * entropy, metrics)

    def value_loss(self, value: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
        """Return L^VF; a subclass may use another error."""
        return value_loss(value, returns, weight)
