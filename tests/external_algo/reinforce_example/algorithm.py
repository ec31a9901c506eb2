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
    """MLP on the observations, flattened to vectors."""

    def __init__(self, observation: Any, outputs: int, args: ReinforceArgs) -> None:
        """Build the layers."""
        super().__init__()
        self.space = observation
        self.network = mlp(vector_size(observation), args.hidden_sizes, outputs, "tanh")

    def forward(self, obs: Any, batch_dims: int = 1) -> Tensor:
        """Return the outputs `[*batch, outputs]` of observations `[*batch, *]`."""
        output: Tensor = self.network(to_vector(self.space, obs, batch_dims))
        return output


class Agent(nn.Module):
    """Policy and baseline. Players get the submodule `policy` only."""

    def __init__(self, spaces: Spaces, args: ReinforceArgs) -> None:
        """Build both networks."""
        super().__init__()
        self.policy = Network(spaces.observation, int(spaces.action.n), args)
        self.baseline = Network(spaces.observation, 1, args)


class Reinforce(Algorithm[ReinforceArgs]):
    """REINFORCE with one pass over each rollout."""

    def build_agent(self) -> nn.Module:
        """Build policy and baseline."""
        return Agent(self.spaces, self.args)

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return one Adam over both networks."""
        build = partial(Adam, lr=self.args.learning_rate)
        return {"agent": OptimizerSpec(("policy", "baseline"), build, self.args.max_grad_norm)}

    def act(
        self, policy: Network, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Sample actions; take the most likely ones when greedy."""
        logits = policy(inputs.obs)
        if mode == "greedy":
            return PolicyOutput(logits.argmax(-1))
        return PolicyOutput(categorical_sample(logits, exponential_like(logits, generator)))

    def prepare_rollout(self, agent: Agent, rollout: TensorDict) -> TensorDict:
        """Convert `[T + 1, B]` arrival rows into `[T, B]` rows with returns and advantages."""
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
        """Return the only phase; `anneal` decays the learning rate linearly to 0 over the run."""
        return [Phase("agent", self.loss, lr_scale=1.0 - step.progress if self.args.anneal else 1.0)]

    def loss(self, agent: Agent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute policy loss, baseline loss and entropy bonus of a minibatch `[N]`."""
        weight = batch["sample_weight"]
        logits = agent.policy(batch["obs"])
        pg_loss = policy_loss(categorical_logprob(logits, batch["action"]), batch["advantage"], weight)
        v_loss = baseline_loss(agent.baseline(batch["obs"]).squeeze(-1), batch["returns"], weight)
        entropy = (weight * categorical_entropy(logits)).sum()
        metrics = {
            "Loss/policy_loss": pg_loss.detach(),
            "Loss/value_loss": v_loss.detach(),
            "Loss/entropy_loss": -entropy.detach(),
        }
        return Loss(pg_loss + self.args.value_coef * v_loss - self.args.entropy_coef * entropy, metrics)
