"""Base of on-policy actor-critic algorithms: networks, actions, advantages and the sum of the losses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from sheeprl.algos.base import (
    Algorithm,
    Loss,
    Mode,
    Phase,
    PolicyInput,
    PolicyOutput,
    PreparedRollout,
    Step,
    Tensors,
)
from sheeprl.algos.ppo.agent import Actor, ActorCriticAgent
from sheeprl.algos.ppo.args import ActorCriticArgs
from sheeprl.algos.ppo.loss import discounted_return, entropy_loss, value_loss
from sheeprl.algos.returns import compute_gae, has_action
from sheeprl.algos.schedules import linear, rate_scale

if TYPE_CHECKING:
    from tensordict import TensorDict

RETURN = "discounted_return"  # stored key, and key of the policy's state
MAX_REWARD = 10.0  # largest absolute value of a normalized reward
ActorCriticArgsT = TypeVar("ActorCriticArgsT", bound=ActorCriticArgs)


class ActorCritic(Algorithm[ActorCriticArgsT]):
    """Part that PPO and its relatives share; a subclass adds the optimizer and the policy loss."""

    def build_agent(self) -> nn.Module:
        """Build actor and critic as separate networks."""
        return ActorCriticAgent(self.spaces, self.args)

    def act(
        self, policy: Actor, inputs: PolicyInput, rnn_state: Tensors, mode: Mode, generator: torch.Generator
    ) -> PolicyOutput:
        """Sample actions and store their log probabilities; take the most likely actions when greedy."""
        output, before, state = self.policy_output(policy, inputs, rnn_state)
        if mode == "greedy":
            return PolicyOutput(policy.greedy(output), rnn_state=state)
        action = policy.sample(output, generator)
        extras = {"logprob": policy.logprob(output, action), **before}
        if not self.args.normalize_reward:
            return PolicyOutput(action, extras, state)
        # After a greedy evaluation or in a new player, the sum starts from 0.
        previous = rnn_state.get(RETURN, torch.zeros_like(inputs.reward))
        sums = {RETURN: discounted_return(previous, inputs.reward, inputs.is_first, self.args.gamma)}
        return PolicyOutput(action, {**extras, **sums}, {**state, **sums})

    def policy_output(self, policy: Any, inputs: PolicyInput, rnn_state: Tensors) -> tuple[Tensor, Tensors, Tensors]:
        """Return the policy's output, and its memory's state before and after the row; without memory, no state."""
        return policy(inputs.obs), {}, {}

    def prepare_rollout(self, agent: Any, rollout: TensorDict) -> TensorDict | PreparedRollout:
        """Compute values, advantages and returns `[T, B]` with the current parameters, and the running statistics."""
        features = self.rollout_features(agent, rollout)
        value = agent.critic(features)  # [T + 1, B]
        reward, buffers = rollout["reward"], Tensors()
        if agent.policy.moments is not None:
            vector = agent.policy.vector(rollout["obs"], batch_dims=2)[:-1]
            buffers.update(prefixed("policy.moments", agent.policy.moments.updated(vector)))
        if agent.return_moments is not None:
            # The statistics aren't updated before, so that all ranks divide by the same number.
            reward = (reward / agent.return_moments.scale()).clamp(-MAX_REWARD, MAX_REWARD)
            is_reward = ~rollout["is_first"][:-1]  # the row of a reset has no reward
            moments = agent.return_moments.updated(rollout[RETURN][:-1], is_reward)
            buffers.update(prefixed("return_moments", moments))
        rows = rollout[:-1].select(*self.row_keys)
        rows["value"] = value[:-1]
        rows.update(self.estimates(agent, rollout, features, reward, value))
        rows["mask"] = has_action(rollout["terminated"], rollout["truncated"])[:-1]
        return PreparedRollout(rows, buffers) if buffers else rows

    def estimates(self, agent: Any, rollout: TensorDict, features: Tensor, reward: Tensor, value: Tensor) -> Tensors:
        """Return `advantage` and `returns` of a rollout, `[T, B]` each; a subclass may override it.

        Args:
            agent: module with all networks.
            rollout: `[T + 1, B]` arrival rows.
            features: `[T + 1, B, features]`, see `rollout_features`.
            reward: `[T + 1, B]`, normalized with `normalize_reward`.
            value: `[T + 1, B]` values of the observations.
        """
        advantage = compute_gae(
            reward, value, rollout["terminated"], rollout["truncated"], self.args.gamma, self.args.gae_lambda
        )
        return {"advantage": advantage, "returns": advantage + value[:-1]}

    @property
    def row_keys(self) -> tuple[str, ...]:
        """Return the stored keys that the losses read."""
        return "obs", "action", "logprob"

    def rollout_features(self, agent: Any, rollout: TensorDict) -> Tensor:
        """Return the features `[T + 1, B, features]` of a whole rollout, which the critic reads."""
        features: Tensor = agent.policy.features(rollout["obs"], batch_dims=2)
        return features

    def batch_features(self, agent: Any, batch: TensorDict) -> tuple[Tensor, TensorDict]:
        """Return the features of a minibatch, `[N, features]`, and its rows `[N]`."""
        return agent.policy.features(batch["obs"]), batch

    def phases(self, step: Step) -> Sequence[Phase]:
        """Return the only phase, with the scheduled numbers."""
        return [Phase("agent", self.loss, scalars=self.scalars(step.progress), lr_scale=self.lr_scale(step.progress))]

    def lr_scale(self, progress: float) -> float:
        """Return the scheduled factor on the learning rate at `progress`, from 0 to 1."""
        return rate_scale(self.args.learning_rate, self.args.learning_rate_end, progress)

    def scalars(self, progress: float) -> dict[str, float]:
        """Return the scheduled numbers of the loss at `progress`; `entropy_coef` only where it isn't constant."""
        start, end = self.args.entropy_coef, self.args.final_entropy_coef
        return {} if end is None else {"entropy_coef": linear(start, end, progress)}

    def loss(self, agent: Any, batch: TensorDict, noise: Tensors, carry: Tensors) -> Loss:
        """Compute the policy loss + c1 L^VF − c2 S of a minibatch."""
        features, batch = self.batch_features(agent, batch)
        weight: Any = batch["sample_weight"]
        output = agent.policy.head(features, batch["obs"])
        logprob = agent.policy.logprob(output, batch["action"])
        pg_loss, metrics = self.policy_loss(logprob, batch, carry)
        v_loss = self.critic_loss(agent.critic(features), batch)
        ent_loss = entropy_loss(agent.policy.entropy(output), weight)
        entropy_coef = carry.get("entropy_coef", self.args.entropy_coef)
        metrics = {
            "Loss/policy_loss": pg_loss.detach(),
            "Loss/value_loss": v_loss.detach(),
            "Loss/entropy_loss": ent_loss.detach(),
            **metrics,
        }
        return Loss(pg_loss + self.args.value_coef * v_loss + entropy_coef * ent_loss, metrics)

    @abstractmethod
    def policy_loss(self, logprob: Tensor, batch: TensorDict, carry: Tensors) -> tuple[Tensor, Tensors]:
        """Return the policy loss of the actions' log probabilities `[N]`, and metrics."""

    def critic_loss(self, value: Tensor, batch: TensorDict) -> Tensor:
        """Return the loss of the critic's values `[N]`."""
        return self.value_loss(value, batch["returns"], batch["sample_weight"])

    def value_loss(self, value: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
        """Return the value loss L^VF; a subclass may override it."""
        return value_loss(value, returns, weight)


def prefixed(prefix: str, buffers: Tensors) -> Tensors:
    """Return the buffers of a submodule by their names in the agent."""
    return {f"{prefix}.{name}": values for name, values in buffers.items()}
