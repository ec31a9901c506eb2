"""Soft Actor-Critic with a learned temperature, Haarnoja et al. 2018 (1812.05905)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Adam

from sheeprl.algos.base import (
    Algorithm,
    Loss,
    Mode,
    OptimizerSpec,
    Phase,
    PolicyInput,
    PolicyOutput,
    Spaces,
    Step,
    TargetUpdate,
    Tensors,
)
from sheeprl.algos.sac.agent import Actor, SACAgent
from sheeprl.algos.sac.args import SACArgs
from sheeprl.algos.sac.loss import actor_loss, alpha_loss, critic_loss, critic_target

if TYPE_CHECKING:
    from tensordict import TensorDict


class SAC(Algorithm[SACArgs]):
    """SAC with three phases per gradient step: twin critics, actor and temperature."""

    def __init__(self, args: SACArgs, spaces: Spaces) -> None:
        """Set the target entropy, by default −dim(A)."""
        super().__init__(args, spaces)
        self.action_dim = math.prod(spaces.action.shape or ())
        self.target_entropy = -float(self.action_dim) if args.target_entropy is None else args.target_entropy

    def build_agent(self) -> nn.Module:
        """Build actor, critics, target critics and temperature."""
        return SACAgent(self.spaces, self.args)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return one Adam each for critics, actor and temperature."""
        return {
            "critic": OptimizerSpec(("critic",), partial(Adam, lr=self.args.critic_lr)),
            "actor": OptimizerSpec(("policy",), partial(Adam, lr=self.args.actor_lr)),
            "alpha": OptimizerSpec(("alpha",), partial(Adam, lr=self.args.alpha_lr)),
        }

    def act(
        self, policy: Actor, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Return actions in [−1, 1]: uniform (random), tanh of the mean (greedy), or sampled (explore)."""
        num_envs = len(inputs.reward)
        if mode == "random":
            return PolicyOutput(torch.rand((num_envs, self.action_dim), generator=generator) * 2 - 1)
        mean, log_std = policy(inputs.obs)
        if mode == "greedy":
            return PolicyOutput(torch.tanh(mean))
        noise = torch.randn((num_envs, self.action_dim), generator=generator)
        return PolicyOutput(torch.tanh(mean + log_std.exp() * noise))

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the phases critics (with the target update), actor and, if it is learned, temperature."""
        target_update = TargetUpdate("critic", "critic_target", self.args.tau)
        critic = Phase("critic", self.critic_loss, self.noise, target_updates=(target_update,))
        actor = Phase("actor", self.actor_loss, self.noise)
        return [critic, actor, Phase("alpha", self.alpha_loss)] if self.args.learn_alpha else [critic, actor]

    def noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return standard normal noise `[N, action_dim]` to sample the actions of one batch."""
        return {"action": torch.randn((shape[0], self.action_dim), generator=generator)}

    def critic_loss(self, agent: SACAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the soft Bellman error of both critics, eq. 5, of a batch of transitions `[N]`."""
        weight: Any = batch["sample_weight"]
        with torch.no_grad():
            next_action, next_logprob = agent.policy.sample(batch["next_obs"], noise["action"])
            next_q = agent.critic_target(batch["next_obs"], next_action)
            target = critic_target(
                batch["reward"], batch["terminated"], next_q, next_logprob, agent.alpha(), self.args.gamma
            )
        loss = critic_loss(agent.critic(batch["obs"], batch["action"]), target, weight)
        return Loss(loss, {"Loss/value_loss": loss.detach(), "Values/target": (weight * target).sum()})

    def actor_loss(self, agent: SACAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute J_π, eq. 9, of actions sampled for the batch, and carry their log densities to `alpha_loss`."""
        action, logprob = agent.policy.sample(batch["obs"], noise["action"])
        loss = actor_loss(agent.critic(batch["obs"], action), logprob, agent.alpha(), batch["sample_weight"])
        return Loss(loss, {"Loss/policy_loss": loss.detach()}, carry={"logprob": logprob.detach()})

    def alpha_loss(self, agent: SACAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute J(α), eq. 18, which moves the policy's entropy towards its target."""
        loss = alpha_loss(agent.alpha.log_alpha, carry["logprob"], self.target_entropy, batch["sample_weight"])
        return Loss(loss, {"Loss/alpha_loss": loss.detach(), "Params/alpha": agent.alpha()})
