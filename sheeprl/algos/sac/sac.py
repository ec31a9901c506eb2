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
    """Critics, actor and temperature take one step each per gradient step, in this order."""

    def __init__(self, args: SACArgs, spaces: Spaces) -> None:
        super().__init__(args, spaces)
        self.actions = math.prod(spaces.action.shape or ())
        self.target_entropy = -float(self.actions) if args.target_entropy is None else args.target_entropy

    def build_agent(self) -> nn.Module:
        """All networks."""
        return SACAgent(self.spaces, self.args)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Three Adams."""
        return {
            "critic": OptimizerSpec(("critic",), partial(Adam, lr=self.args.critic_lr)),
            "actor": OptimizerSpec(("policy",), partial(Adam, lr=self.args.actor_lr)),
            "alpha": OptimizerSpec(("alpha",), partial(Adam, lr=self.args.alpha_lr)),
        }

    def act(
        self, policy: Actor, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Uniform while warming up, the squashed mean when greedy, else a draw."""
        envs = len(inputs.reward)
        if mode == "random":
            return PolicyOutput(torch.rand((envs, self.actions), generator=generator) * 2 - 1)
        mean, log_std = policy(inputs.obs)
        if mode == "greedy":
            return PolicyOutput(torch.tanh(mean))
        noise = torch.randn((envs, self.actions), generator=generator)
        return PolicyOutput(torch.tanh(mean + log_std.exp() * noise))

    def phases(self, step: Step) -> Sequence[Phase]:
        """Critics (then their targets), actor, temperature."""
        average = TargetUpdate("critic", "critic_target", self.args.tau)
        critic = Phase("critic", self.critic_loss, self.noise, averages=(average,))
        actor = Phase("actor", self.actor_loss, self.noise)
        return [critic, actor, Phase("alpha", self.alpha_loss)] if self.args.learn_alpha else [critic, actor]

    def noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Standard normal noise for one draw of actions."""
        return {"action": torch.randn((shape[0], self.actions), generator=generator)}

    def critic_loss(self, agent: SACAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Soft Bellman residual against the target critics."""
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
        """Expected Q and entropy of fresh actions; carries their log densities."""
        action, logprob = agent.policy.sample(batch["obs"], noise["action"])
        loss = actor_loss(agent.critic(batch["obs"], action), logprob, agent.alpha(), batch["sample_weight"])
        return Loss(loss, {"Loss/policy_loss": loss.detach()}, carry={"logprob": logprob.detach()})

    def alpha_loss(self, agent: SACAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Moves the temperature so that the policy's entropy meets its target."""
        loss = alpha_loss(agent.alpha.log_alpha, carry["logprob"], self.target_entropy, batch["sample_weight"])
        return Loss(loss, {"Loss/alpha_loss": loss.detach(), "Params/alpha": agent.alpha()})
