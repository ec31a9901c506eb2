"""Twin Delayed DDPG, Fujimoto et al. 2018 (1802.09477)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
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
from sheeprl.algos.td3.agent import Actor, TD3Agent
from sheeprl.algos.td3.args import TD3Args
from sheeprl.algos.td3.loss import actor_loss, critic_target, smoothed_action
from sheeprl.models.critics import discount, loss_weight, priorities, squared_errors
from sheeprl.models.encoder import to_vector

if TYPE_CHECKING:
    from tensordict import TensorDict


class TD3(Algorithm[TD3Args]):
    """TD3: the critics learn in every gradient step, the actor and all targets in every `policy_delay`-th one."""

    def __init__(self, args: TD3Args, spaces: Spaces) -> None:
        """Store the number of action components."""
        super().__init__(args, spaces)
        self.action_dim = math.prod(spaces.action.shape or ())

    def build_agent(self) -> nn.Module:
        """Build actor, critics and their targets."""
        return TD3Agent(self.spaces, self.args)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return one Adam each for critics and actor."""
        return {
            "critic": OptimizerSpec(("critic",), partial(Adam, lr=self.args.critic_lr)),
            "actor": OptimizerSpec(("policy",), partial(Adam, lr=self.args.actor_lr)),
        }

    def act(
        self, policy: Actor, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Return actions in [−1, 1]: uniform (random), the policy's (greedy), or with normal noise (explore)."""
        shape = (inputs.reward.shape[0], self.action_dim)
        if mode == "random":
            return PolicyOutput(torch.rand(shape, generator=generator) * 2 - 1)
        action = policy(inputs.obs)
        if mode == "greedy":
            return PolicyOutput(action)
        noise = self.args.exploration_noise * torch.randn(shape, generator=generator)
        return PolicyOutput((action + noise).clamp(-1.0, 1.0))

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the critics' phase and, in every `policy_delay`-th step, the actor's with all target updates."""
        critic = Phase("critic", self.critic_loss, self.noise)
        if (step.gradient_step + 1) % self.args.policy_delay:
            return [critic]
        updates = [TargetUpdate(name, f"{name}_target", self.args.tau) for name in ("critic", "policy")]
        return [critic, Phase("actor", self.actor_loss, target_updates=updates)]

    def noise(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return standard normal noise `[N, action_dim]` to smooth the targets of one batch."""
        return {"action": torch.randn((shape[0], self.action_dim), generator=generator)}

    def vector(self, obs: Any) -> Tensor:
        """Return the observations `[N, *]` as vectors, the inputs of the critics."""
        return to_vector(self.spaces.observation, obs)

    def critic_loss(self, agent: TD3Agent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the Bellman error of both critics, algorithm 1, of a batch of transitions `[N]`."""
        args = self.args
        with torch.no_grad():
            greedy = agent.policy_target(batch["next_obs"])
            next_action = smoothed_action(greedy, noise["action"], args.target_noise, args.noise_clip)
            next_q = agent.critic_target(self.vector(batch["next_obs"]), next_action)
            target = critic_target(batch["reward"], discount(batch, args.gamma), next_q)
        q = agent.critic(self.vector(batch["obs"]), batch["action"])
        loss = squared_errors(q, target, loss_weight(batch))
        metrics = {"Loss/value_loss": loss.detach(), "Values/target": (batch["sample_weight"] * target).sum()}
        return Loss(loss, metrics, priority=priorities(q, target, batch))

    def actor_loss(self, agent: TD3Agent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute −E[Q_1(s, π(s))] of the batch's observations."""
        q = agent.critic(self.vector(batch["obs"]), agent.policy(batch["obs"]))
        loss = actor_loss(q, batch["sample_weight"])
        return Loss(loss, {"Loss/policy_loss": loss.detach()})
