"""Imagination: states and actions that follow each other in the world model, without observations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sheeprl.algos.base import Tensors
from sheeprl.models.rssm import RSSM


@dataclass(frozen=True)
class Imagined:
    """Imagined sequences from K rows of N samples.

    Args:
        states: joined states `[H + 1, K, N, deter + stoch]`; the first one is the start.
        actions: `[H + 1, K, N, *]`, chosen in each state.
    """

    states: Tensor
    actions: Tensor


@dataclass(frozen=True)
class Behavior:
    """Actor and critic that learn in imagination, and the reward that they learn from.

    Args:
        actor: policy on the joined state.
        critic: value of the joined state.
        critic_target: slow copy of the critic.
        reward: function from imagined sequences to the rewards on arrival at their states, `[H + 1, K, N]`. Nothing
            uses those of the first states.
        returns: `PercentileRange` of the imagined returns; None if they aren't normalized.
    """

    actor: Any
    critic: Any
    critic_target: Any
    reward: Callable[[Imagined], Tensor]
    returns: Any = None


@dataclass(frozen=True)
class BehaviorLoss:
    """Loss of a behavior.

    Args:
        value: sum of the losses of actor and critic.
        metrics: detached metrics.
        returns: imagined returns `[H, K, N]`.
        percentiles: new buffers of `Behavior.returns`.
    """

    value: Tensor
    metrics: Tensors
    returns: Tensor
    percentiles: Tensors = field(default_factory=dict)


def imagine(
    rssm: RSSM, actor: Any, deter: Tensor, stoch: Tensor, state_noise: Tensor, action_noise: Tensor
) -> Imagined:
    """Imagine H steps. Gradients pass through states and actions where they are enabled.

    Args:
        rssm: dynamics.
        actor: policy on the joined state.
        deter: deterministic states at the start `[K, N, deter]`.
        stoch: stochastic states at the start `[K, N, stoch]`.
        state_noise: noise of the states `[N, K, H, *]`.
        action_noise: noise of the actions `[N, K, H + 1, *]`.
    """
    batch, weights = deter.shape[:2], rssm.cell.step_weights()
    deter, stoch = deter.flatten(0, 1), stoch.flatten(0, 1)
    state_noise, action_noise = (each.transpose(0, 1).flatten(0, 1) for each in (state_noise, action_noise))
    states, actions = [torch.cat([deter, stoch], -1)], []
    for step in range(action_noise.shape[1]):
        actions.append(actor.head.sample(actor(states[-1]), action_noise[:, step]))
        if step < state_noise.shape[1]:
            vector = actor.head.vector(actions[-1])
            deter, stoch = rssm.imagine(deter, stoch, vector, state_noise[:, step], weights)
            states.append(torch.cat([deter, stoch], -1))
    return Imagined(*(_restored(each, batch) for each in (states, actions)))


def _restored(steps: list[Tensor], batch: torch.Size) -> Tensor:
    """Stack steps `[K × N, *]` to `[steps, K, N, *]`."""
    stacked = torch.stack(steps)
    return stacked.view(len(steps), *batch, *stacked.shape[2:])
