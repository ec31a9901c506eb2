"""Proximal Policy Optimization, Schulman et al. 2017 (1707.06347)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.optim import Adam

from sheeprl.algos.base import Loss, OptimizerSpec, Tensors
from sheeprl.algos.ppo.actor_critic import ActorCritic
from sheeprl.algos.ppo.agent import PPOAgent
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.ppo.loss import adapted_scale, approximate_kl, clipped_policy_loss, clipped_value_loss
from sheeprl.algos.schedules import linear

if TYPE_CHECKING:
    from tensordict import TensorDict

MAX_KL_RATIO = 1.5  # of a minibatch's divergence to target_kl, as in Spinning Up and Stable-Baselines3


class PPO(ActorCritic[PPOArgs]):
    """PPO with clipped surrogate objective, GAE and several epochs of minibatches per rollout."""

    def build_agent(self) -> nn.Module:
        """Build actor and critic as separate networks."""
        return PPOAgent(self.spaces, self.args)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return one Adam over both networks; their gradients are clipped together."""
        build = partial(Adam, lr=self.args.learning_rate, eps=self.args.adam_eps)
        return {"agent": OptimizerSpec(("policy", "critic"), build, self.args.max_grad_norm)}

    def scalars(self, progress: float) -> dict[str, float]:
        """Return the scheduled numbers of the loss at `progress`, from 0 to 1."""
        clip = linear(self.args.clip, self.args.clip_end, progress)
        return {"clip": clip, **super().scalars(progress)}

    def loss(self, agent: PPOAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute −L^CLIP + c1 L^VF − c2 S, eq. 9, of a minibatch `[N]`, and adapt training to its divergence."""
        loss = super().loss(agent, batch, noise, carry)
        kl, args = loss.metrics["Loss/approx_kl"], self.args
        if args.target_kl is not None:
            loss = replace(loss, stop=kl - MAX_KL_RATIO * args.target_kl)
        if args.desired_kl is not None:
            lr_scale = self._adapted_scale(agent, args.desired_kl)
            metrics = {**loss.metrics, "Loss/learning_rate": lr_scale * args.learning_rate}
            loss = replace(loss, metrics=metrics, buffers={"kl": kl, "lr_scale": lr_scale}, lr_scale=lr_scale)
        return loss

    def policy_loss(self, logprob: Tensor, batch: TensorDict, carry: Tensors) -> tuple[Tensor, Tensors]:
        """Return −L^CLIP, eq. 7, and the divergence from the policy that collected the data."""
        old_logprob, weight = batch["logprob"], batch["sample_weight"]
        loss = clipped_policy_loss(logprob, old_logprob, batch["advantage"], weight, carry["clip"])
        return loss, {"Loss/approx_kl": approximate_kl(logprob.detach(), old_logprob, weight)}

    def critic_loss(self, value: Tensor, batch: TensorDict) -> Tensor:
        """Return the value loss L^VF, clipped with `clip_value`."""
        if self.args.clip_value is None:
            return super().critic_loss(value, batch)
        return clipped_value_loss(value, batch["value"], batch["returns"], batch["sample_weight"], self.args.clip_value)

    def _adapted_scale(self, agent: PPOAgent, desired_kl: float) -> Tensor:
        """Return the factor on this step's learning rate, by the divergence of the previous minibatch."""
        args = self.args
        low, high = args.min_learning_rate / args.learning_rate, args.max_learning_rate / args.learning_rate
        return adapted_scale(agent.lr_scale, agent.kl, desired_kl, low, high)
