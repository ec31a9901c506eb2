"""A toy recurrent policy gradient: `algo.name: tests.helpers.toy_recurrent:ToyRecurrent`.

It learns from sequences of a rollout, normalizes observations by running moments that change between rounds, and stops
a round whose policy has moved too far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam

from sheeprl.algos.args import OnPolicy, OnPolicyArgs
from sheeprl.algos.base import (
    Algorithm,
    Loss,
    Mode,
    OptimizerSpec,
    Phase,
    PolicyInput,
    PolicyOutput,
    PreparedRollout,
    Spaces,
    Step,
    Tensors,
)
from sheeprl.algos.ppo.loss import approximate_kl
from sheeprl.algos.returns import compute_gae, has_action
from sheeprl.models import distributions
from sheeprl.models.encoder import to_vector, vector_size
from sheeprl.utils.settings import Count, NonNegative, Positive

if TYPE_CHECKING:
    from tensordict import TensorDict


class ToyRecurrentArgs(OnPolicyArgs):
    """Arguments of a toy recurrent policy gradient."""

    algorithm: ClassVar[str] = "tests.helpers.toy_recurrent:ToyRecurrent"
    summary: ClassVar[str] = "a toy recurrent policy gradient"
    actions: ClassVar[tuple[str, ...]] = ("discrete",)

    sequence: Count = Field(4, description="rows of a training sequence")
    hidden_size: Count = Field(8, description="size of the recurrent state")
    learning_rate: Positive = Field(1e-2, description="Adam's learning rate")
    max_kl: NonNegative = Field(1e9, description="divergence from the old policy that stops a round")

    def data(self) -> OnPolicy:
        """Return settings to read sequences of rollouts."""
        return OnPolicy(self.rollout_steps, self.batch_size, self.epochs, ("advantage",), self.sequence)


class Policy(nn.Module):
    """Normalization, recurrent state, logits and value."""

    def __init__(self, spaces: Spaces, args: ToyRecurrentArgs) -> None:
        """Build the networks."""
        super().__init__()
        self.space, size = spaces.observation, vector_size(spaces.observation)
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.cell = nn.GRUCell(size, args.hidden_size)
        self.head = nn.Linear(args.hidden_size, int(spaces.action.n) + 1)  # type: ignore[attr-defined]

    def forward(self, obs: Tensor, state: Tensor, is_first: Tensor) -> Tensor:
        """Return the state `[N, H]` after the observation `[N, *]`; a first row begins with zeros."""
        inputs = to_vector(self.space, obs) - self.mean.float()
        hidden: Tensor = self.cell(inputs, state * (~is_first).float().unsqueeze(-1))
        return hidden

    def unroll(self, rows: TensorDict, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits `[T, N, choices]` and values `[T, N]` of rows `[T, N]` that begin with a state `[N, H]`."""
        outputs = []
        for obs, is_first in zip(rows["obs"].unbind(0), rows["is_first"].unbind(0), strict=True):
            state = self(obs, state, is_first)
            outputs.append(self.head(state))
        output = torch.stack(outputs)
        return output[..., :-1], output[..., -1]


class ToyRecurrent(Algorithm[ToyRecurrentArgs]):
    """Policy gradient with a recurrent policy."""

    def build_agent(self) -> nn.Module:
        """Return the policy, the agent's only part."""
        agent = nn.Module()
        agent.policy = Policy(self.spaces, self.args)
        return agent

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return one Adam."""
        return {"agent": OptimizerSpec(("policy",), lambda parameters: Adam(parameters, lr=self.args.learning_rate))}

    def act(
        self, policy: Policy, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Store the state before the row, the action's log probability and the value."""
        before = rnn_state.get("state", torch.zeros(len(inputs.reward), self.args.hidden_size))
        state = policy(inputs.obs, before, inputs.is_first)
        output = policy.head(state)
        logits = output[..., :-1]
        action = distributions.categorical_sample(logits, distributions.exponential_like(logits, generator))
        if mode == "greedy":
            action = logits.argmax(-1)
        logprob = distributions.categorical_logprob(logits, action)
        extras = {"state": before, "logprob": logprob, "value": output[..., -1]}
        return PolicyOutput(action, extras, {"state": state})

    def prepare_rollout(self, agent: nn.Module, rollout: TensorDict) -> PreparedRollout:
        """Return rows with advantages, and the new moments of the observations."""
        policy = agent.policy
        _, value = policy.unroll(rollout, rollout["state"][0])
        ends = rollout["terminated"], rollout["truncated"]
        rows = rollout[:-1].select("obs", "action", "logprob", "is_first", "state", "value")
        rows["advantage"] = compute_gae(rollout["reward"], value, *ends, 0.95, 0.95)
        rows["returns"] = rows["advantage"] + value[:-1]
        rows["mask"] = has_action(*ends)[:-1]
        inputs = to_vector(self.spaces.observation, rows["obs"], 2).flatten(0, 1)
        count = policy.count + len(inputs)
        mean = policy.mean + (inputs.double().mean(0) - policy.mean) * (len(inputs) / count)
        return PreparedRollout(rows, {"policy.mean": mean, "policy.count": count})

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the only phase."""
        return [Phase("agent", self.loss)]

    def loss(self, agent: nn.Module, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the loss of sequences `[L, N]`."""
        weight = batch["sample_weight"]
        logits, value = agent.policy.unroll(batch, batch["state"][0])
        logprob = distributions.categorical_logprob(logits, batch["action"])
        policy_loss = -(weight * (logprob - batch["logprob"]).exp() * batch["advantage"]).sum()
        value_loss = (weight * (value - batch["returns"]).square()).sum()
        divergence = approximate_kl(logprob.detach(), batch["logprob"], weight)
        metrics = {"Loss/policy_loss": policy_loss.detach(), "Loss/approx_kl": divergence}
        return Loss(policy_loss + value_loss, metrics, stop=divergence > self.args.max_kl)
