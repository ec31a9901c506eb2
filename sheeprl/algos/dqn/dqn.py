"""Deep Q-learning, Mnih et al. 2015, with the extensions of Rainbow, Hessel et al. 2018 (1710.02298)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sheeprl.algos.base import Loss, Phase, Step, Tensors
from sheeprl.algos.dqn.agent import DQNAgent, QNetwork, mapped, of_action
from sheeprl.algos.dqn.args import DQNArgs
from sheeprl.algos.dqn.heads import head_of
from sheeprl.algos.dqn.loss import q_target
from sheeprl.algos.dqn.q_learning import TargetQLearning
from sheeprl.algos.returns import n_step_returns
from sheeprl.models.critics import discount, loss_weight
from sheeprl.models.noisy import factors

if TYPE_CHECKING:
    from tensordict import TensorDict

NOISES = ("policy", "target", "choice")
"""Noise of the trained network, of the target network, and of the choice of the target's action."""


class DQN(TargetQLearning[DQNArgs]):
    """DQN: one phase per gradient step, and a step of the target network in every `target_every`-th one."""

    def build_agent(self) -> nn.Module:
        """Build the Q-network and its target."""
        return DQNAgent(self._build_network())

    def _build_network(self) -> QNetwork:
        """Build the Q-network."""
        args = self.args
        std = args.noisy_std if args.noisy else None
        return QNetwork(self.spaces, args, head_of(args), dueling=args.dueling, noisy_std=std)

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the only phase, with the target update in every `target_every`-th step."""
        fractions = self.fractions if self.args.head == "iqn" else None
        shared = self.noise if self.args.noisy else None
        scale = self.lr_scale(step.progress)
        return [Phase("policy", self.loss, fractions, shared, lr_scale=scale, target_updates=self.target_updates(step))]

    def fractions(self, shape: torch.Size, generator: torch.Generator) -> Tensors:
        """Return the quantile fractions `[N, K]` of the trained network and of the target network."""
        size = (*shape, self.args.quantiles)
        return {name: torch.rand(size, generator=generator) for name in ("fraction", "target_fraction")}

    @cached_property
    def noise_size(self) -> int:
        """Number of factors of the noise in a network."""
        with torch.device("meta"):  # parameters without memory
            return self._build_network().noise_size

    def noise(self, generator: torch.Generator) -> Tensors:
        """Return the factors of the noise of each forward pass, `[noise_size]`, the same for the whole batch."""
        return {name: factors((self.noise_size,), generator) for name in NOISES}

    def loss(self, agent: DQNAgent, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the head's loss of a batch of transitions `[N]`, E[w · loss] with the importance w."""
        errors, priority, q, target = self.errors(agent.policy, agent.target, batch, noise)
        loss = (loss_weight(batch) * errors).sum()
        metrics = {
            "Loss/value_loss": loss.detach(),
            "Values/target": (batch["sample_weight"] * target).sum(),
            "Values/q": (batch["sample_weight"] * q.detach()).sum(),
        }
        is_prioritized = batch.get("importance", None) is not None
        return Loss(loss, metrics, priority=priority if is_prioritized else None)

    def errors(
        self, policy: QNetwork, target: QNetwork, batch: Any, noise: Tensors
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the loss, the priority, the value and the target of each transition, `[N]` each.

        Args:
            policy: trained network.
            target: target network.
            batch: transitions `[N]`, as a TensorDict or as a dict of tensors.
            noise: tensors of the phase's noise functions, if any.
        """
        head, next_obs = policy.head, batch["next_obs"]
        factor = discount(batch, self.args.gamma)
        with torch.no_grad():
            next_output = target.outputs(next_obs, noise.get("target"), fraction=noise.get("target_fraction"))
            chooser = policy(next_obs, noise.get("choice")) if self.args.double else None
            best = (target.values(next_output, next_obs) if chooser is None else chooser).argmax(-1)
            next_output = of_action(next_output, best)
        fraction = noise.get("fraction")
        output = of_action(policy.outputs(batch["obs"], noise.get("policy"), fraction=fraction), batch["action"])
        errors, priority = head.errors(output, next_output, batch["reward"], factor, fraction)
        return errors, priority, head.values(output), q_target(batch["reward"], factor, head.values(next_output))

    def initial_priority(self, policy: QNetwork, rows: Tensors) -> Tensor | None:
        """Return the priorities `[T, B]` of a fragment's transitions by the player's network, without noise.

        They equal those of the learner for a sample at the time of arrival, if both networks have the player's weights.
        None with `initial_priority=highest`.
        """
        if self.args.initial_priority == "highest":
            return None
        flags, shape = (rows["terminated"], rows["truncated"]), rows["reward"][1:].shape
        reward, factor, after = n_step_returns(rows["reward"], *flags, self.args.n_step, self.args.gamma)
        row = after * shape[1] + torch.arange(shape[1])  # number of the row after the last step, among all rows
        count = reward.numel()
        batch = {
            "obs": mapped(rows["obs"], lambda part: part.flatten(0, 1)[:count]),
            "next_obs": mapped(rows["obs"], lambda part: part.flatten(0, 1)[row.flatten()]),
            "action": rows["action"][:-1].flatten(),
            "reward": reward.flatten(),
            "discount": factor.flatten(),
        }
        return self.errors(policy, policy, batch, {})[1].view(shape)
