"""Base of Q-learning algorithms: the Q-network's actions, and the schedules of epsilon and the learning rate."""

from __future__ import annotations

from typing import TypeVar

import torch

from sheeprl.algos.base import Algorithm, Mode, PolicyInput, PolicyOutput, Tensors
from sheeprl.algos.dqn.agent import QNetwork, permitted
from sheeprl.algos.dqn.args import QArgs
from sheeprl.algos.schedules import linear, rate_scale
from sheeprl.models.noisy import factors

QArgsT = TypeVar("QArgsT", bound=QArgs)


class QLearning(Algorithm[QArgsT]):
    """Part that DQN and its relatives share; a subclass adds the agent, the optimizer and the loss."""

    def act(
        self, policy: QNetwork, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Take the best action (greedy), a random one with probability ε (explore), or always a random one (random).

        A noisy network explores by new noise for every action, in place of ε.
        """
        count = len(inputs.reward)
        if mode == "random":
            return PolicyOutput(policy.actions.random(count, generator, mask=permitted(inputs.obs)))
        explores = mode == "explore"
        is_noisy = explores and policy.noise_size > 0
        noise = factors((count, policy.noise_size), generator) if is_noisy else None
        best = policy.forward(inputs.obs, noise).argmax(-1)
        if not explores or is_noisy:
            return PolicyOutput(best)
        drawn = policy.actions.random(count, generator, mask=permitted(inputs.obs))
        is_random = torch.rand(count, generator=generator) < self.epsilon(inputs.progress)
        return PolicyOutput(torch.where(is_random, drawn, best))

    def epsilon(self, progress: float) -> float:
        """Return the probability of a random action at `progress`, from 0 to 1."""
        args = self.args
        return linear(args.epsilon, args.final_epsilon, min(1.0, progress / args.exploration_fraction))

    def lr_scale(self, progress: float) -> float:
        """Return the scheduled factor on the learning rate at `progress`, from 0 to 1."""
        return rate_scale(self.args.learning_rate, self.args.final_learning_rate, progress)
