"""R2D2's network: the Q-network of DQN, with an LSTM between the encoder and the layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from sheeprl.algos.dqn.agent import QNetwork, mapped
from sheeprl.algos.r2d2.args import R2D2Args
from sheeprl.models.recurrent import LSTM, State

if TYPE_CHECKING:
    from tensordict import TensorDict


class RecurrentQNetwork(QNetwork):
    """Q-network with an LSTM, whose inputs are the observation, the previous action and its reward."""

    memory: LSTM

    def build_memory(self, inputs: int, args: R2D2Args) -> LSTM:
        """Return the LSTM for `inputs` features of the observation, the previous action and its reward."""
        return LSTM(inputs + self.actions.outputs + 1, args.memory_size)

    def unroll(self, obs: Any, action: Tensor, reward: Tensor, is_first: Tensor, state: State) -> tuple[Tensor, State]:
        """Pass rows through the encoder and the LSTM, which is set to 0 before each row that begins an episode.

        Args:
            obs: `[T, N, *]` observations.
            action: `[T, N]` int64, the action of the row before each row; without meaning where an episode begins.
            reward: `[T, N]`, received on arrival at each row.
            is_first: `[T, N]` booleans, true where an episode begins.
            state: state `[N, memory_size]` before the first row.

        Returns:
            The outputs `[T, N, memory_size]`, and the state after the last row.
        """
        continues = ~is_first.unsqueeze(-1)
        previous = functional.one_hot(action, self.actions.outputs) * continues
        features = self.encoder.forward(obs, 2)
        inputs = torch.cat([features, previous.to(features.dtype), reward.unsqueeze(-1).to(features.dtype)], -1)
        return self.memory.unroll(inputs, state, is_first)

    def unroll_rows(self, rows: TensorDict, burn_in: int) -> Tensor:
        """Return the outputs `[T, N, memory_size]` of sampled rows after the burn-in, which has no gradient.

        Args:
            rows: `[1 + burn_in + T, N]` rows. The first one is the context row, which only serves for its action. The
                second one has the state that the player had.
            burn_in: number of rows that warm up the memory.
        """
        action = rows["action"][:-1]
        reward, is_first = rows["reward"][1:], rows["is_first"][1:]
        state = self.memory.state({name: rows[name][1] for name in self.memory.names}, rows["reward"].shape[1])
        if burn_in:
            with torch.no_grad():
                obs = mapped(rows["obs"], lambda part: part[1 : 1 + burn_in])
                _, state = self.unroll(obs, action[:burn_in], reward[:burn_in], is_first[:burn_in], state)
        obs = mapped(rows["obs"], lambda part: part[1 + burn_in :])
        outputs, _ = self.unroll(obs, action[burn_in:], reward[burn_in:], is_first[burn_in:], state)
        return outputs
