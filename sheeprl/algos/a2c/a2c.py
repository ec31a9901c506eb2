"""Advantage Actor-Critic (A2C), the synchronous form of A3C, Mnih et al. 2016 (1602.01783)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor
from torch.optim import RMSprop

from sheeprl.algos.a2c.args import A2CArgs
from sheeprl.algos.a2c.loss import policy_loss
from sheeprl.algos.base import OptimizerSpec, Tensors
from sheeprl.algos.ppo.actor_critic import ActorCritic
from sheeprl.models.optimizers import RMSpropTF

if TYPE_CHECKING:
    from tensordict import TensorDict


class A2C(ActorCritic[A2CArgs]):
    """Policy gradient with a learned baseline: one gradient step on each short rollout."""

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return one RMSprop over both networks; their gradients are clipped together."""
        args = self.args
        kind = RMSpropTF if args.rmsprop_tf else RMSprop
        build = partial(kind, lr=args.learning_rate, alpha=args.rmsprop_alpha, eps=args.rmsprop_eps)
        return {"agent": OptimizerSpec(("policy", "critic"), build, args.max_grad_norm)}

    def policy_loss(self, logprob: Tensor, batch: TensorDict, carry: Tensors) -> tuple[Tensor, Tensors]:
        """Return −E[log π(a|s) A] of a rollout's rows `[N]`."""
        return policy_loss(logprob, batch["advantage"], batch["sample_weight"]), {}
