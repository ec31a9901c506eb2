"""R2D2, Kapturowski et al. 2019, "Recurrent experience replay in distributed reinforcement learning"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sheeprl.algos.base import Loss, Mode, Phase, PolicyInput, PolicyOutput, Step, Tensors
from sheeprl.algos.dqn.agent import DQNAgent, mapped
from sheeprl.algos.dqn.heads import ValueHead
from sheeprl.algos.dqn.q_learning import TargetQLearning
from sheeprl.algos.r2d2.agent import RecurrentQNetwork
from sheeprl.algos.r2d2.args import R2D2Args
from sheeprl.algos.r2d2.loss import rescale, sequence_priority, unscale
from sheeprl.algos.returns import has_action, n_step_returns
from sheeprl.models.critics import loss_weight

if TYPE_CHECKING:
    from tensordict import TensorDict

ACTION = "previous_action"  # key of the policy's state


class R2D2(TargetQLearning[R2D2Args]):
    """Q-learning with an LSTM on sequences, which begin with the state that the player had."""

    def build_agent(self) -> nn.Module:
        """Build the Q-network and its target."""
        return DQNAgent(RecurrentQNetwork(self.spaces, self.args, ValueHead(), dueling=self.args.dueling))

    def act(
        self, policy: Any, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Take one step of the LSTM in every mode; store its state before the row. Choose as `QLearning` does."""
        count = inputs.reward.shape[0]
        before = policy.memory.state(rnn_state, count)
        previous = rnn_state.get(ACTION, torch.zeros(count, dtype=torch.int64))
        obs = mapped(inputs.obs, lambda part: part.unsqueeze(0))
        row = (part.unsqueeze(0) for part in (previous, inputs.reward, inputs.is_first))
        outputs, after = policy.unroll(obs, *row, before)
        q = policy.values(policy.outputs_of(outputs.squeeze(0)), inputs.obs)
        action = self.chosen(policy, q, inputs, mode, generator)
        return PolicyOutput(action, before, {**after, ACTION: action})

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the only phase, with the target update in every `target_every`-th step."""
        scale, updates = self.lr_scale(step.progress), self.target_updates(step)
        return [Phase("policy", self.loss, lr_scale=scale, target_updates=updates)]

    def loss(self, agent: DQNAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute E[w mean_t ½ δ_t²] of sequences, and their priorities.

        δ_t = h(Σ_k γ^k r_{t+k+1} + γ^n h⁻¹(Q̄(s_{t+n}, a*))) − Q(s_t, a_t) with a* = argmax Q(s_{t+n}, ·), eq. 1 and 2.
        """
        args, burn_in = self.args, self.args.burn_in
        rows = {name: batch[name][1 + burn_in :] for name in ("action", "reward", "terminated", "truncated")}
        obs = mapped(batch["obs"], lambda part: part[1 + burn_in :])
        policy: RecurrentQNetwork = agent.policy  # type: ignore[assignment]
        target_network: RecurrentQNetwork = agent.target  # type: ignore[assignment]
        values = policy.values(policy.outputs_of(policy.unroll_rows(batch, burn_in)), obs)  # [T + 1, N, actions]
        with torch.no_grad():
            target_values = target_network.values(
                target_network.outputs_of(target_network.unroll_rows(batch, burn_in)), obs
            )
            best = (values if args.double else target_values).argmax(-1, keepdim=True)
            next_value = self.unscaled(target_values.gather(-1, best).squeeze(-1))
            reward, factor, after = n_step_returns(
                rows["reward"], rows["terminated"], rows["truncated"], args.n_step, args.gamma
            )
            target = self.scaled(reward + factor * next_value.gather(0, after))
            mask = has_action(rows["terminated"], rows["truncated"])[:-1]
        q = values[:-1].gather(-1, rows["action"][:-1].unsqueeze(-1)).squeeze(-1)
        error = (target - q) * mask
        loss = (loss_weight(batch) * 0.5 * (error * error).mean(0)).sum()
        weight, actions = batch["sample_weight"], mask.sum(0).clamp_min(1)
        metrics = {
            "Loss/value_loss": loss.detach(),
            "Values/target": (weight * (target * mask).sum(0) / actions).sum(),
            "Values/q": (weight * (q.detach() * mask).sum(0) / actions).sum(),
        }
        if batch.get("importance", None) is None:
            return Loss(loss, metrics)
        return Loss(loss, metrics, priority=sequence_priority(error.detach(), mask, args.priority_max))

    def scaled(self, value: Tensor) -> Tensor:
        """Return h(value), or the value without `rescaling`."""
        return value if self.args.rescaling is None else rescale(value, self.args.rescaling)

    def unscaled(self, value: Tensor) -> Tensor:
        """Return h⁻¹(value), or the value without `rescaling`."""
        return value if self.args.rescaling is None else unscale(value, self.args.rescaling)
