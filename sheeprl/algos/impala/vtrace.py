"""Part of an actor-critic algorithm that corrects for the lag of the players' weights by V-trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from sheeprl.algos.base import Tensors
from sheeprl.algos.impala.args import VTraceArgs
from sheeprl.algos.ppo_recurrent.with_memory import WithMemory
from sheeprl.algos.returns import vtrace

if TYPE_CHECKING:
    from tensordict import TensorDict


class VTraceActorCritic(WithMemory):
    """Actor-critic with V-trace targets. Its arguments are `VTraceArgs`; list this class before the other base class.

    The players may have had older weights, so the stored log probabilities are those of another policy than the
    trained one.
    """

    args: VTraceArgs

    def estimates(self, agent: Any, rollout: TensorDict, features: Tensor, reward: Tensor, value: Tensor) -> Tensors:
        """Return V-trace targets and advantages, and in place of the stored log probabilities those of the policy."""
        args, policy, rows = self.args, agent.policy, rollout[:-1].flatten(0, 1)
        output = policy.head(features[:-1].flatten(0, 1), rows["obs"])
        logprob = policy.logprob(output, rows["action"]).view_as(rollout["logprob"][:-1])
        returns, advantage = vtrace(
            reward,
            value,
            logprob - rollout["logprob"][:-1],
            rollout["terminated"],
            rollout["truncated"],
            gamma=args.gamma,
            trace_lambda=args.gae_lambda,
            clip_rho=args.clip_rho,
            clip_c=args.clip_c,
        )
        return {"advantage": advantage, "returns": returns, "logprob": logprob}
