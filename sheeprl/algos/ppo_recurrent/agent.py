"""Networks with a memory between the encoder and both heads."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from sheeprl.algos.ppo.agent import Actor, ActorCriticAgent, PPOAgent
from sheeprl.algos.ppo_recurrent.args import MemoryArgs
from sheeprl.models.recurrent import GRU, LSTM, Recurrent, State

CELLS: dict[str, type[Recurrent]] = {"lstm": LSTM, "gru": GRU}


class RecurrentActor(Actor):
    """Policy network with a memory: encoder, recurrent cell, hidden layers. The critic reads the cell, too.

    Without the argument `memory` it is an `Actor`, and `state` and `unroll` can't be called.
    """

    memory: Recurrent

    def build_memory(self, inputs: int, args: MemoryArgs) -> Recurrent | None:
        """Return the recurrent cell for vectors of `inputs` features; None without `memory`."""
        return None if args.memory is None else CELLS[args.memory](inputs, args.memory_size)

    def unroll(self, features: Tensor, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        """Pass rows through the memory, which is set to 0 before each row that begins an episode.

        Args:
            features: `[T, N, features]`, see `features`.
            state: state `[N, memory_size]` before the first row.
            is_first: `[T, N]` booleans, true where an episode begins.

        Returns:
            The inputs `[T, N, memory_size]` of both heads, and the state after the last row.
        """
        return self.memory.unroll(features, state, is_first)


class RecurrentAgent(ActorCriticAgent):
    """Actor and critic on a memory that they share, if there is one. Players get the actor."""

    actor: ClassVar[type[Actor]] = RecurrentActor
    policy: RecurrentActor


class RecurrentPPOAgent(PPOAgent):
    """Actor and critic on a memory that they share. Players get the actor, and with it encoder and memory."""

    actor: ClassVar[type[Actor]] = RecurrentActor
    policy: RecurrentActor
