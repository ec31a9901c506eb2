"""A toy on-policy algorithm whose loss stops the round: `algo.name: tests.helpers.toy_stop:ToyStop`.

Each gradient step lowers the policy's only weight by 1/2, until it is below the argument `least`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.optim import SGD

from sheeprl.algos.args import OnPolicyArgs
from sheeprl.algos.base import (
    Algorithm,
    Loss,
    Mode,
    OptimizerSpec,
    Phase,
    PolicyInput,
    PolicyOutput,
    Step,
    TargetUpdate,
    Tensors,
)

if TYPE_CHECKING:
    from tensordict import TensorDict


class ToyStopArgs(OnPolicyArgs):
    """Arguments of a toy that stops its rounds."""

    algorithm: ClassVar[str] = "tests.helpers.toy_stop:ToyStop"
    summary: ClassVar[str] = "a toy whose loss stops the round"
    actions: ClassVar[tuple[str, ...]] = ("discrete",)

    least: float = -0.75


class ToyStop(Algorithm[ToyStopArgs]):
    """Two phases: the first one may stop the round, the second one reads what the first one changed."""

    def build_agent(self) -> nn.Module:
        """Return an agent of two weights of 1, a target network and a buffer."""
        agent = nn.Module()
        agent.policy, agent.head = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        for layer in (agent.policy, agent.head):
            nn.init.ones_(layer.weight)
        agent.target = copy.deepcopy(agent.policy).requires_grad_(False)
        agent.register_buffer("steps", torch.zeros(()))
        return agent

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return one optimizer per weight."""
        return {
            "first": OptimizerSpec(("policy",), lambda parameters: SGD(parameters, lr=0.5)),
            "second": OptimizerSpec(("head",), lambda parameters: torch.optim.Adam(parameters, lr=0.1)),
        }

    def act(
        self, policy: nn.Module, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Return action 0."""
        return PolicyOutput(torch.zeros(len(inputs.reward), dtype=torch.int64))

    def prepare_rollout(self, agent: nn.Module, rollout: TensorDict) -> TensorDict:
        """Return the rewards and the mask."""
        rows = rollout[:-1].select("reward")
        rows["mask"] = ~(rollout["terminated"] | rollout["truncated"])[:-1]
        return rows

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return both phases."""
        return [
            Phase("first", self.first, target_updates=(TargetUpdate("policy", "target", tau=0.5),)),
            Phase("second", self.second),
        ]

    def first(self, agent: nn.Module, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Return a loss with slope 1, the stop and a count of the steps."""
        weight = agent.policy.weight.squeeze()
        loss = (batch["sample_weight"] * weight).sum()
        stop = weight.detach() < self.args.least
        return Loss(loss, {"Loss/weight": weight.detach().clone()}, buffers={"steps": agent.steps + 1}, stop=stop)

    def second(self, agent: nn.Module, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Return a loss whose slope is the first weight."""
        return Loss(agent.head.weight.squeeze() * (agent.policy.weight.detach().squeeze() + 3))
