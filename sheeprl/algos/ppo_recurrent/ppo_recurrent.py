"""PPO, Schulman et al. 2017 (1707.06347), with a memory: an LSTM or a GRU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from sheeprl.algos.base import Algorithm, PolicyInput, Tensors
from sheeprl.algos.ppo.ppo import PPO
from sheeprl.algos.ppo_recurrent.agent import CELLS, RecurrentActor, RecurrentPPOAgent
from sheeprl.algos.ppo_recurrent.args import RecurrentPPOArgs

if TYPE_CHECKING:
    from tensordict import TensorDict


class RecurrentPPO(PPO, Algorithm[RecurrentPPOArgs]):
    """PPO on a memory that actor and critic share. A training sequence begins with the state that the player had."""

    args: RecurrentPPOArgs

    def build_agent(self) -> nn.Module:
        """Build encoder, memory, actor and critic."""
        return RecurrentPPOAgent(self.spaces, self.args)

    @property
    def row_keys(self) -> tuple[str, ...]:
        """Return the stored keys that the losses read: PPO's, the beginnings of episodes and the memory's state."""
        return (*super().row_keys, "is_first", *CELLS[self.args.memory].names)

    def policy_output(
        self, policy: RecurrentActor, inputs: PolicyInput, rnn_state: Tensors
    ) -> tuple[Tensor, Tensors, Tensors]:
        """Take one step of the memory. Return the policy's output, and the state before and after the row."""
        before = policy.state(rnn_state, inputs.is_first.shape[0])
        features = policy.features(inputs.obs).unsqueeze(0)
        outputs, after = policy.unroll(features, before, inputs.is_first.unsqueeze(0))
        return policy.head(outputs.squeeze(0), inputs.obs), before, after

    def rollout_features(self, agent: RecurrentPPOAgent, rollout: TensorDict) -> Tensor:
        """Return the memory's outputs `[T + 1, B, memory_size]`, beginning with the first row's stored state."""
        return unrolled(agent.policy, rollout)

    def batch_features(self, agent: RecurrentPPOAgent, batch: TensorDict) -> tuple[Tensor, TensorDict]:
        """Return the memory's outputs of sequences `[L, N]`, and their rows, both flattened to `[L N, *]`."""
        return unrolled(agent.policy, batch).flatten(0, 1), batch.flatten(0, 1)


def unrolled(policy: RecurrentActor, rows: TensorDict) -> Tensor:
    """Return the memory's outputs for rows `[T, N]`: `[T, N, memory_size]`, beginning with the first row's state."""
    state = policy.state(rows[0], rows.shape[1])
    outputs, _ = policy.unroll(policy.features(rows["obs"], batch_dims=2), state, rows["is_first"])
    return outputs
