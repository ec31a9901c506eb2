"""Parallelised Q-learning, Gallici et al. 2025 (2407.04811)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import RAdam

from sheeprl.algos.base import Loss, OptimizerSpec, Phase, Step, Tensors
from sheeprl.algos.dqn.agent import QNetwork
from sheeprl.algos.dqn.heads import ValueHead
from sheeprl.algos.dqn.q_learning import QLearning
from sheeprl.algos.pqn.args import PQNArgs
from sheeprl.algos.pqn.loss import q_lambda_returns, q_loss
from sheeprl.algos.returns import has_action

if TYPE_CHECKING:
    from tensordict import TensorDict


class PQNAgent(nn.Module):
    """Q-network, as the submodule `policy` that players get."""

    def __init__(self, policy: QNetwork) -> None:
        """Store the network."""
        super().__init__()
        self.policy = policy


class PQN(QLearning[PQNArgs]):
    """PQN: Q(λ) returns of each rollout, and several epochs of minibatches on them."""

    def build_agent(self) -> nn.Module:
        """Build the Q-network."""
        return PQNAgent(QNetwork(self.spaces, self.args, ValueHead()))

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return one RAdam for the Q-network."""
        build = partial(RAdam, lr=self.args.learning_rate)
        return {"policy": OptimizerSpec(("policy",), build, self.args.max_grad_norm)}

    def prepare_rollout(self, agent: PQNAgent, rollout: TensorDict) -> TensorDict:
        """Compute the Q(λ) returns `[T, B]` with the current parameters."""
        best = agent.policy(rollout["obs"], batch_dims=2).max(-1).values  # [T + 1, B]
        terminated, truncated = rollout["terminated"], rollout["truncated"]
        rows = rollout[:-1].select("obs", "action")
        rows["returns"] = q_lambda_returns(
            rollout["reward"], best, terminated, truncated, self.args.gamma, self.args.q_lambda
        )
        rows["mask"] = has_action(terminated, truncated)[:-1]
        return rows

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the only phase, with the scheduled learning rate."""
        return [Phase("policy", self.loss, lr_scale=self.lr_scale(step.progress))]

    def loss(self, agent: PQNAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute E[½ (Q(s, a) − R)²] of a minibatch `[N]`."""
        weight: Any = batch["sample_weight"]
        q = agent.policy(batch["obs"]).gather(-1, batch["action"][:, None]).squeeze(-1)
        loss = q_loss(q, batch["returns"], weight)
        metrics = {"Loss/value_loss": loss.detach(), "Values/q": (weight * q.detach()).sum()}
        return Loss(loss, {**metrics, "Values/target": (weight * batch["returns"]).sum()})
