"""Imagination: states and actions that follow each other in the world model, without observations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sheeprl.algos.dreamer_v3.agent import Policy


@dataclass(frozen=True)
class Imagined:
    """Imagined sequences from K rows of N samples.

    Args:
        states: joined states `[H + 1, K, N, deter + stoch]`; the first one is the start.
        actions: `[H + 1, K, N, *]`, chosen in each state.
    """

    states: Tensor
    actions: Tensor


def imagine(policy: Policy, deter: Tensor, stoch: Tensor, state_noise: Tensor, action_noise: Tensor) -> Imagined:
    """Imagine H steps. Gradients pass through states and actions where they are enabled.

    Args:
        policy: dynamics and actor.
        deter: deterministic states at the start `[K, N, deter]`.
        stoch: stochastic states at the start `[K, N, stoch]`.
        state_noise: noise of the states `[N, K, H, *]`.
        action_noise: noise of the actions `[N, K, H + 1, *]`.
    """
    batch, rssm, actor = deter.shape[:2], policy.rssm, policy.actor
    deter, stoch = deter.flatten(0, 1), stoch.flatten(0, 1)
    state_noise, action_noise = (each.transpose(0, 1).flatten(0, 1) for each in (state_noise, action_noise))
    states, actions = [torch.cat([deter, stoch], -1)], []
    for step in range(action_noise.shape[1]):
        actions.append(actor.head.sample(actor(states[-1]), action_noise[:, step]))
        if step < state_noise.shape[1]:
            vector = actor.head.vector(actions[-1])
            deter, stoch = rssm.imagine(deter, stoch, vector, state_noise[:, step])
            states.append(torch.cat([deter, stoch], -1))
    return Imagined(*(_restored(each, batch) for each in (states, actions)))


def _restored(steps: list[Tensor], batch: torch.Size) -> Tensor:
    """Stack steps `[K × N, *]` to `[steps, K, N, *]`."""
    stacked = torch.stack(steps)
    return stacked.view(len(steps), *batch, *stacked.shape[2:])
