"""Soft Actor-Critic with a learned temperature, Haarnoja et al. 2018 (1812.05905)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

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
from sheeprl.algos.sac.loss import actor_loss, alpha_loss, critic_target
from sheeprl.models.critics import discount, draw_subset, loss_weight, priorities, squared_errors

if TYPE_CHECKING:
    from tensordict import TensorDict


class SAC(Algorithm[SACArgs]):
    """SAC with three phases per gradient step: critics, actor and temperature."""

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
        """Return the phases critics (with the target update) and, in every `policy_delay`-th step, the policy's."""
        target_update = TargetUpdate("critic", "critic_target", self.args.tau)
        critic = Phase("critic", self.critic_loss, self.critic_noise, target_updates=(target_update,))
        if (step.gradient_step + 1) % self.args.policy_delay:
            return [critic]
        actor = Phase("actor", self.actor_loss, self.actor_noise)
        return [critic, actor, Phase("alpha", self.alpha_loss)] if self.args.learn_alpha else [critic, actor]

    def actor_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return standard normal noise `[N, action_dim]` to sample the actions of one batch."""
        return {"action": torch.randn((shape[0], self.action_dim), generator=generator)}

    def critic_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return the actor's noise and, if targets use a subset of the critics, their numbers `[N, target_subset]`."""
        noise = self.actor_noise(shape, generator)
        if self.args.target_subset is not None:
            noise["subset"] = draw_subset(self.args.critics, self.args.target_subset, shape, generator)
        return noise

    def critic_loss(self, agent: SACAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the soft Bellman error of all critics, eq. 5, of a batch of transitions `[N]`."""
        with torch.no_grad():
            next_action, next_logprob = agent.policy.sample(batch["next_obs"], noise["action"])
            chosen = noise["subset"][0] if "subset" in noise else None
            next_q = agent.critic_target(batch["next_obs"], next_action, noise.get("target_seed"), chosen)
            bootstrap = discount(batch, self.args.gamma)
            target = critic_target(batch["reward"], bootstrap, next_q, next_logprob, agent.alpha())
        q = agent.critic(batch["obs"], batch["action"], noise.get("seed"))
        loss = squared_errors(q, target, loss_weight(batch))
        metrics = {"Loss/value_loss": loss.detach(), "Values/target": (batch["sample_weight"] * target).sum()}
        return Loss(loss, metrics, priority=priorities(q, target, batch))

    def actor_loss(self, agent: SACAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute J_π, eq. 9, of actions sampled for the batch, and carry their log densities to `alpha_loss`."""
        action, logprob = agent.policy.sample(batch["obs"], noise["action"])
        q = agent.critic(batch["obs"], action, noise.get("seed"))
        value = q.min(0).values if self.args.actor_value == "min" else q.mean(0)
        loss = actor_loss(value, logprob, agent.alpha(), batch["sample_weight"])
        return Loss(loss, {"Loss/policy_loss": loss.detach()}, carry={"logprob": logprob.detach()})

    def alpha_loss(self, agent: SACAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute J(α), eq. 18, which moves the policy's entropy towards its target."""
        loss = alpha_loss(agent.alpha.log_alpha, carry["logprob"], self.target_entropy, batch["sample_weight"])
        return Loss(loss, {"Loss/alpha_loss": loss.detach(), "Params/alpha": agent.alpha()})
