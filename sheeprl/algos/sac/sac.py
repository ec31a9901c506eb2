"""Soft Actor-Critic with a learned temperature, Haarnoja et al. 2018 (1812.05905)."""

from __future__ import annotations

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
from sheeprl.algos.sac.heads import head_of
from sheeprl.algos.sac.loss import actor_loss, alpha_loss, critic_target, expectation
from sheeprl.envs.transforms import input_keys
from sheeprl.models.critics import discount, draw_subset, loss_weight, priorities, squared_errors

if TYPE_CHECKING:
    from tensordict import TensorDict


class SAC(Algorithm[SACArgs]):
    """SAC with three phases per gradient step: critics, actor and temperature."""

    def __init__(self, args: SACArgs, spaces: Spaces) -> None:
        """Choose the head by the action space."""
        super().__init__(args, spaces)
        self.head = head_of(spaces.action, args)
        _, pictures = input_keys(spaces.observation, args.mlp_keys, args.cnn_keys)
        self.has_pictures = bool(pictures)

    def build_agent(self) -> nn.Module:
        """Build actor, critics, target critics and temperature."""
        return SACAgent(self.spaces, self.args)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return one Adam each for critics with the encoder, actor and temperature."""
        return {
            "critic": OptimizerSpec(("policy.encoder", "critic"), partial(Adam, lr=self.args.critic_lr)),
            "actor": OptimizerSpec(("policy.bottleneck", "policy.network"), partial(Adam, lr=self.args.actor_lr)),
            "alpha": OptimizerSpec(("alpha",), partial(Adam, lr=self.args.alpha_lr)),
        }

    def act(
        self, policy: Actor, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Return actions: uniform (random), the most likely ones (greedy), or sampled (explore)."""
        if mode == "random":
            return PolicyOutput(self.head.random(inputs.obs, inputs.reward.shape[0], generator))
        return PolicyOutput(self.head.act(policy(inputs.obs), inputs.obs, mode, generator))

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the phases critics and, in every `policy_delay`-th step, actor and temperature.

        The critics' phase updates the targets in every `target_delay`-th step.
        """
        number = step.gradient_step + 1
        updates = () if number % self.args.target_delay else self.target_updates()
        critic = Phase("critic", self.critic_loss, self.critic_noise, target_updates=updates)
        if number % self.args.policy_delay:
            return [critic]
        actor = Phase("actor", self.actor_loss, self.actor_noise)
        return [critic, actor, Phase("alpha", self.alpha_loss)] if self.args.learn_alpha else [critic, actor]

    def target_updates(self) -> tuple[TargetUpdate, ...]:
        """Return the updates of the target critics and, with pictures, of the target encoder."""
        critic = TargetUpdate("critic", "critic_target", self.args.tau)
        if not self.has_pictures:
            return (critic,)
        if self.args.encoder_tau is None:
            return (critic, TargetUpdate("policy.encoder", "encoder_target", self.args.tau))
        tau = self.args.encoder_tau
        return (
            TargetUpdate("critic.networks", "critic_target.networks", self.args.tau),
            TargetUpdate("critic.trunk", "critic_target.trunk", tau),  # the part of the encoder that the critics have
            TargetUpdate("policy.encoder", "encoder_target", tau),
        )

    def actor_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return the head's noise and, with `random_shift`, the shifts of the pictures."""
        return {**self.head.noise(shape[0], generator), **self.shifts("shift", shape, generator)}

    def critic_noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return the actor's noise, shifts of `next_obs`, and numbers of the critics `[N, target_subset]`, if drawn."""
        noise = self.actor_noise(shape, generator) | self.shifts("next_shift", shape, generator)
        if self.args.target_subset is not None:
            noise["subset"] = draw_subset(self.args.critics, self.args.target_subset, shape, generator)
        return noise

    def shifts(self, name: str, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return uniform shifts `[N, 2]` of the pictures by name; nothing without pictures or `random_shift`."""
        largest = self.args.random_shift
        if not largest or not self.has_pictures:
            return {}
        return {name: torch.randint(-largest, largest + 1, (shape[0], 2), generator=generator)}

    def critic_loss(self, agent: SACAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the soft Bellman error of all critics, eq. 5, of a batch of transitions `[N]`."""
        encode, next_obs = agent.policy.encoder, batch["next_obs"]
        with torch.no_grad():
            shift = noise.get("next_shift")
            output = agent.policy.output(encode(next_obs, shift=shift))
            logprob, action, probability = self.head.decide(output, next_obs, noise)
            chosen = noise["subset"][0] if "subset" in noise else None
            features = agent.encoder_target(next_obs, shift=shift)
            next_q = agent.critic_target(features, action, noise.get("target_seed"), chosen)
            bootstrap = discount(batch, self.args.gamma)
            target = critic_target(batch["reward"], bootstrap, next_q, logprob, agent.alpha(), probability)
        features = encode(batch["obs"], shift=noise.get("shift"))
        q = agent.critic(features, batch["action"], noise.get("seed"))
        loss = squared_errors(q, target, loss_weight(batch))
        metrics = {"Loss/value_loss": loss.detach(), "Values/target": (batch["sample_weight"] * target).sum()}
        return Loss(loss, metrics, priority=priorities(q, target, batch))

    def actor_loss(self, agent: SACAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute J_π, eq. 9, of the batch's observations, and carry log π to `alpha_loss`."""
        with torch.no_grad():
            features = agent.policy.encoder(batch["obs"], shift=noise.get("shift"))
        logprob, action, probability = self.head.decide(agent.policy.output(features), batch["obs"], noise)
        q = agent.critic(features, action, noise.get("seed"))
        value = q.min(0).values if self.args.actor_value == "min" else q.mean(0)
        loss = actor_loss(value, logprob, agent.alpha(), batch["sample_weight"], probability)
        expected = expectation(logprob, probability).detach()
        return Loss(loss, {"Loss/policy_loss": loss.detach()}, carry={"logprob": expected})

    def alpha_loss(self, agent: SACAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute J(α), eq. 18, which moves the policy's entropy towards its target."""
        target = self.head.target_entropy(batch["obs"])
        loss = alpha_loss(agent.alpha.log_alpha, carry["logprob"], target, batch["sample_weight"])
        return Loss(loss, {"Loss/alpha_loss": loss.detach(), "Params/alpha": agent.alpha()})
