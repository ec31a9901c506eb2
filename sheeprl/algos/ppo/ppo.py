"""Proximal Policy Optimization, Schulman et al. 2017 (1707.06347)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Adam

from sheeprl.algos.base import Loss, OptimizerSpec, Phase, Step, Tensors
from sheeprl.algos.ppo.actor_critic import ActorCritic
from sheeprl.algos.ppo.agent import PPOAgent
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.ppo.loss import (
    adapted_scale,
    approximate_kl,
    clipped_policy_loss,
    clipped_value_loss,
    entropy_loss,
)
from sheeprl.algos.schedules import linear

if TYPE_CHECKING:
    from tensordict import TensorDict


class PPO(ActorCritic[PPOArgs]):
    """PPO with clipped surrogate objective, GAE and several epochs of minibatches per rollout."""

    def build_agent(self) -> nn.Module:
        """Build actor and critic as separate networks."""
        return PPOAgent(self.spaces, self.args)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return one Adam over both networks; their gradients are clipped together."""
        build = partial(Adam, lr=self.args.learning_rate, eps=self.args.adam_eps)
        return {"agent": OptimizerSpec(("policy", "critic"), build, self.args.max_grad_norm)}

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the only phase, with the scheduled clip, learning rate and entropy coefficient."""
        args, progress = self.args, step.progress
        scalars = {"clip": linear(args.clip, args.clip_end, progress), **self.entropy_scalars(progress)}
        return [Phase("agent", self.loss, scalars=scalars, lr_scale=self.lr_scale(progress))]

    def loss(self, agent: PPOAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute −L^CLIP + c1 L^VF − c2 S, eq. 9, of a minibatch `[N]`."""
        weight: Any = batch["sample_weight"]
        output = agent.policy(batch["obs"])
        logprob = agent.policy.logprob(output, batch["action"])
        old_logprob = batch["logprob"]
        pg_loss = clipped_policy_loss(logprob, old_logprob, batch["advantage"], weight, carry["clip"])
        v_loss = self._critic_loss(agent.critic(batch["obs"]), batch, weight)
        ent_loss = entropy_loss(agent.policy.entropy(output), weight)
        kl = approximate_kl(logprob.detach(), old_logprob, weight)
        metrics = {
            "Loss/policy_loss": pg_loss.detach(),
            "Loss/value_loss": v_loss.detach(),
            "Loss/entropy_loss": ent_loss.detach(),
            "Loss/approx_kl": kl,
        }
        entropy_coef = carry.get("entropy_coef", self.args.entropy_coef)
        value = pg_loss + self.args.value_coef * v_loss + entropy_coef * ent_loss
        if self.args.desired_kl is None:
            return Loss(value, metrics)
        lr_scale = self._adapted_scale(agent, self.args.desired_kl)
        metrics["Loss/learning_rate"] = lr_scale * self.args.learning_rate
        return Loss(value, metrics, buffers={"kl": kl, "lr_scale": lr_scale}, lr_scale=lr_scale)

    def _critic_loss(self, value: Tensor, batch: TensorDict, weight: Tensor) -> Tensor:
        """Return the value loss, clipped with `clip_value`."""
        if self.args.clip_value is None:
            return self.value_loss(value, batch["returns"], weight)
        return clipped_value_loss(value, batch["value"], batch["returns"], weight, self.args.clip_value)

    def _adapted_scale(self, agent: PPOAgent, desired_kl: float) -> Tensor:
        """Return the factor on this step's learning rate, by the divergence of the previous minibatch."""
        low, high = (
            bound / self.args.learning_rate for bound in (self.args.min_learning_rate, self.args.max_learning_rate)
        )
        return adapted_scale(agent.lr_scale, agent.kl, desired_kl, low, high)
