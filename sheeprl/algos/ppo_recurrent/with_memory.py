"""Part of an actor-critic algorithm that passes the rows of a rollout through a memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from sheeprl.algos.base import PolicyInput, Tensors
from sheeprl.algos.ppo.actor_critic import ActorCritic
from sheeprl.algos.ppo_recurrent.agent import CELLS, RecurrentActor
from sheeprl.algos.ppo_recurrent.args import MemoryArgs

if TYPE_CHECKING:
    from tensordict import TensorDict


class WithMemory(ActorCritic[Any]):
    """Actor-critic whose policy has a memory where the argument `memory` names one. Its arguments are `MemoryArgs`.

    A training sequence begins with the state that the player had. List this class before the other base class.
    """

    args: MemoryArgs

    @property
    def row_keys(self) -> tuple[str, ...]:
        """Return the stored keys that the losses read; a memory adds the beginnings of episodes and its state."""
        keys, memory = super().row_keys, self.args.memory
        return keys if memory is None else (*keys, "is_first", *CELLS[memory].names)

    def policy_output(
        self, policy: RecurrentActor, inputs: PolicyInput, rnn_state: Tensors
    ) -> tuple[Tensor, Tensors, Tensors]:
        """Take one step of the memory. Return the policy's output, and the state before and after the row."""
        if self.args.memory is None:
            return super().policy_output(policy, inputs, rnn_state)
        before = policy.memory.state(rnn_state, inputs.is_first.shape[0])
        features = policy.features(inputs.obs).unsqueeze(0)
        outputs, after = policy.unroll(features, before, inputs.is_first.unsqueeze(0))
        return policy.head(outputs.squeeze(0), inputs.obs), before, after

    def rollout_features(self, agent: Any, rollout: TensorDict) -> Tensor:
        """Return the memory's outputs `[T + 1, B, memory_size]`, beginning with the first row's stored state."""
        return super().rollout_features(agent, rollout) if self.args.memory is None else unrolled(agent.policy, rollout)

    def batch_features(self, agent: Any, batch: TensorDict) -> tuple[Tensor, TensorDict]:
        """Return the memory's outputs of sequences `[L, N]`, and their rows, both flattened to `[L N, *]`."""
        if self.args.memory is None:
            return super().batch_features(agent, batch)
        return unrolled(agent.policy, batch).flatten(0, 1), batch.flatten(0, 1)


def unrolled(policy: RecurrentActor, rows: TensorDict) -> Tensor:
    """Return the memory's outputs for rows `[T, N]`: `[T, N, memory_size]`, beginning with the first row's state."""
    state = policy.memory.state(rows[0], rows.shape[1])
    outputs, _ = policy.unroll(policy.features(rows["obs"], batch_dims=2), state, rows["is_first"])
    return outputs
