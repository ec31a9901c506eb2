"""Base of on-policy actor-critic algorithms: their networks, their actions and their advantages."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from sheeprl.algos.base import Algorithm, Mode, PolicyInput, PolicyOutput, Tensors
from sheeprl.algos.ppo.agent import Actor, ActorCriticAgent
from sheeprl.algos.ppo.args import ActorCriticArgs
from sheeprl.algos.ppo.loss import compute_gae, value_loss
from sheeprl.algos.schedules import linear

if TYPE_CHECKING:
    from tensordict import TensorDict

ActorCriticArgsT = TypeVar("ActorCriticArgsT", bound=ActorCriticArgs)


class ActorCritic(Algorithm[ActorCriticArgsT]):
    """Part that PPO and its relatives share; a subclass adds the optimizer, the phases and the loss."""

    def build_agent(self) -> nn.Module:
        """Build actor and critic as separate networks."""
        return ActorCriticAgent(self.spaces, self.args)

    def act(
        self, policy: Actor, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Sample actions and store their log probabilities; take the most likely actions when greedy."""
        output = policy(inputs.obs)
        if mode == "greedy":
            return PolicyOutput(policy.greedy(output))
        action = policy.sample(output, generator)
        return PolicyOutput(action, extras={"logprob": policy.logprob(output, action)})

    def prepare_rollout(self, agent: ActorCriticAgent, rollout: TensorDict) -> TensorDict:
        """Compute values, advantages and returns `[T, B]` with the critic's current parameters."""
        value = agent.critic(rollout["obs"], batch_dims=2)  # [T + 1, B]
        advantage = compute_gae(
            rollout["reward"], value, rollout["terminated"], rollout["truncated"], self.args.gamma, self.args.gae_lambda
        )
        rows = rollout[:-1].select("obs", "action", "logprob")
        rows["value"] = value[:-1]
        rows["advantage"] = advantage
        rows["returns"] = advantage + value[:-1]
        rows["mask"] = ~(rollout["terminated"] | rollout["truncated"])[:-1]  # end rows have no action
        return rows

    def value_loss(self, value: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
        """Return the value loss L^VF; a subclass may override it."""
        return value_loss(value, returns, weight)

    def lr_scale(self, progress: float) -> float:
        """Return the factor on the learning rate at `progress`, from 0 to 1."""
        start, end = self.args.learning_rate, self.args.learning_rate_end
        return linear(1.0, None if end is None else end / start, progress)

    def entropy_scalars(self, progress: float) -> dict[str, float]:
        """Return the scheduled entropy coefficient as a scalar of the phase; empty where it is constant."""
        start, end = self.args.entropy_coef, self.args.final_entropy_coef
        return {} if end is None else {"entropy_coef": linear(start, end, progress)}
