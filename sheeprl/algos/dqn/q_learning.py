"""Base of Q-learning algorithms: the Q-network's actions, and the schedules of epsilon and the learning rate."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.optim import Adam

from sheeprl.algos.base import (
    Algorithm,
    Mode,
    OptimizerSpec,
    PolicyInput,
    PolicyOutput,
    Step,
    TargetUpdate,
    Tensors,
    places,
)
from sheeprl.algos.dqn.agent import QNetwork, permitted
from sheeprl.algos.dqn.args import QArgs, TargetQArgs
from sheeprl.algos.dqn.loss import env_epsilon
from sheeprl.algos.schedules import linear, rate_scale
from sheeprl.models.noisy import factors

QArgsT = TypeVar("QArgsT", bound=QArgs)
TargetQArgsT = TypeVar("TargetQArgsT", bound=TargetQArgs)


@lru_cache(maxsize=64)
def _env_epsilons(first_env: int, count: int, num_envs: int, base: float, power: float) -> Tensor:
    """Return the constant ε of environments, `[count]`; players need it at every step."""
    return env_epsilon(places(first_env, count, num_envs), base, power)


class QLearning(Algorithm[QArgsT]):
    """Part that DQN and its relatives share; a subclass adds the agent, the optimizer and the loss."""

    def act(
        self, policy: QNetwork, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Take the best action (greedy), a random one with probability ε (explore), or always a random one (random).

        A noisy network explores by new noise for every action, in place of ε. With `env_epsilon`, each environment of
        the run has its own constant ε.
        """
        is_noisy = mode == "explore" and policy.noise_size > 0
        noise = factors((inputs.reward.shape[0], policy.noise_size), generator) if is_noisy else None
        q = None if mode == "random" else policy.forward(inputs.obs, noise)
        return PolicyOutput(self.chosen(policy, q, inputs, "greedy" if is_noisy else mode, generator))

    def chosen(
        self, policy: QNetwork, q: Tensor | None, inputs: PolicyInput, mode: Mode, generator: torch.Generator
    ) -> Tensor:
        """Return the actions `[B]` for values `[B, actions]`: the best, or random ones as the mode requires.

        The values may be None in the mode `random`.
        """
        if mode == "greedy":
            assert q is not None
            return q.argmax(-1)
        count = inputs.reward.shape[0]
        if mode == "random":
            return policy.actions.random(count, generator, mask=permitted(inputs.obs))
        assert q is not None
        best = q.argmax(-1)
        is_random = torch.rand(count, generator=generator) < self.explored(inputs)
        if not is_random.any():  # mostly, and drawing takes as long as a small network
            return best
        return torch.where(is_random, policy.actions.random(count, generator, mask=permitted(inputs.obs)), best)

    def explored(self, inputs: PolicyInput) -> Tensor | float:
        """Return the probability of a random action, for all environments or `[B]`."""
        if self.args.env_epsilon is None:
            return self.epsilon(inputs.progress)
        envs = inputs.first_env, inputs.reward.shape[0], inputs.num_envs
        return _env_epsilons(*envs, self.args.env_epsilon, self.args.env_epsilon_power)

    def epsilon(self, progress: float) -> float:
        """Return the probability of a random action at `progress`, from 0 to 1."""
        args = self.args
        return linear(args.epsilon, args.final_epsilon, min(1.0, progress / args.exploration_fraction))

    def lr_scale(self, progress: float) -> float:
        """Return the scheduled factor on the learning rate at `progress`, from 0 to 1."""
        return rate_scale(self.args.learning_rate, self.args.final_learning_rate, progress)


class TargetQLearning(QLearning[TargetQArgsT]):
    """Q-learning whose targets come from a slow copy of the network."""

    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Return one Adam for the Q-network."""
        build = partial(Adam, lr=self.args.learning_rate, eps=self.args.adam_eps)
        return {"policy": OptimizerSpec(("policy",), build, self.args.max_grad_norm)}

    def target_updates(self, step: Step) -> tuple[TargetUpdate, ...]:
        """Return the update of the target network in every `target_every`-th gradient step, none in the others."""
        is_due = (step.gradient_step + 1) % self.args.target_every == 0
        return (TargetUpdate("policy", "target", self.args.tau),) if is_due else ()
