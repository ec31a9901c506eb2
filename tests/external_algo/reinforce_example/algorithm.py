"""REINFORCE with a learned baseline, Williams 1992."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from reinforce_example.args import ReinforceArgs
from reinforce_example.loss import baseline_loss, discounted_returns, policy_loss
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
    Tensors,
)
from sheeprl.models.distributions import categorical_entropy, categorical_logprob, categorical_sample, exponential_like
from sheeprl.models.encoder import to_vector, vector_size
from sheeprl.models.mlp import mlp

if TYPE_CHECKING:
    from tensordict import TensorDict


class Network(nn.Module):
    """An MLP on whatever the observations are."""

    def __init__(self, observation: Any, outputs: int, args: ReinforceArgs) -> None:
        super().__init__()
        self.space = observation
        self.network = mlp(vector_size(observation), args.hidden_sizes, outputs, "tanh")

    def forward(self, obs: Any, batch_dims: int = 1) -> Tensor:
        """`[*batch, outputs]`."""
        output: Tensor = self.network(to_vector(self.space, obs, batch_dims))
        return output


class Agent(nn.Module):
    """`policy` is what players get; the baseline stays with the learner."""

    def __init__(self, spaces: Spaces, args: ReinforceArgs) -> None:
        super().__init__()
        self.policy = Network(spaces.observation, int(spaces.action.n), args)
        self.baseline = Network(spaces.observation, 1, args)


class Reinforce(Algorithm[ReinforceArgs]):
    """One pass over each rollout."""

    def build_agent(self) -> nn.Module:
        """Return the agent with all networks."""
        return Agent(self.spaces, self.args)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """One Adam over both networks."""
        build = partial(Adam, lr=self.args.learning_rate)
        return {"agent": OptimizerSpec(("policy", "baseline"), build, self.args.max_grad_norm)}

    def act(
        self, policy: Network, row: PolicyInput, state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Sample; the most likely action when greedy."""
        logits = policy(row.obs)
        if mode == "greedy":
            return PolicyOutput(logits.argmax(-1))
        return PolicyOutput(categorical_sample(logits, exponential_like(logits, generator)))

    def prepare_rollout(self, agent: Agent, rollout: TensorDict) -> TensorDict:
        """`[T + 1, B]` arrival rows to `[T, B]` rows with returns and advantages."""
        value = agent.baseline(rollout["obs"], batch_dims=2).squeeze(-1)
        returns = discounted_returns(
            rollout["reward"], value, rollout["terminated"], rollout["truncated"], self.args.gamma
        )
        rows = rollout[:-1].select("obs", "action")
        rows["returns"] = returns
        rows["advantage"] = returns - value[:-1]
        rows["mask"] = ~(rollout["terminated"] | rollout["truncated"])[:-1]
        return rows

    def phases(self, step: Step) -> Sequence[Phase]:
        """One phase."""
        return [Phase("agent", self.loss, lr_scale=1.0 - step.progress if self.args.anneal else 1.0)]

    def loss(self, agent: Agent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Policy gradient, baseline and entropy bonus."""
        weight = batch["sample_weight"]
        logits = agent.policy(batch["obs"])
        policy = policy_loss(categorical_logprob(logits, batch["action"]), batch["advantage"], weight)
        value = baseline_loss(agent.baseline(batch["obs"]).squeeze(-1), batch["returns"], weight)
        entropy = (weight * categorical_entropy(logits)).sum()
        metrics = {
            "Loss/policy_loss": policy.detach(),
            "Loss/value_loss": value.detach(),
            "Loss/entropy_loss": -entropy.detach(),
        }
        return Loss(policy + self.args.value_coef * value - self.args.entropy_coef * entropy, metrics)
