"""Imagination: states and actions that follow each other in the world model, without observations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sheeprl.algos.base import Tensors
from sheeprl.models import hot
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
    """Imagine H steps. Gradients pass through dynamics and actions where they are enabled, not into the actor's inputs.

    Args:
        rssm: dynamics.
        actor: policy on the joined state.
        deter: deterministic states at the start `[K, N, deter]`.
        stoch: stochastic states at the start `[K, N, stoch]`.
        state_noise: noise of the states `[N, K, H, *]`.
        action_noise: noise of the actions `[N, K, H + 1, *]`.
    """
    batch = deter.shape[:2]
    state = torch.cat([deter, stoch], -1).flatten(0, 1)
    action_noise, state_noise = _by_step(action_noise), _by_step(state_noise)
    states, actions = [state], []
    step = ImaginedStep(rssm, actor, rssm.cell.step_weights())
    compiled = None if torch.is_grad_enabled() else _compiled(rssm, actor, state, action_noise[0], state_noise[0])
    for number, drawn in enumerate(state_noise):
        action, state = (compiled or step)(state, action_noise[number], drawn)
        states.append(state)
        actions.append(action)
    actions.append(step.act(state, action_noise[-1]))
    joined, chosen = torch.stack(states), torch.stack(actions)
    return Imagined(*(each.view(len(each), *batch, *each.shape[2:]) for each in (joined, chosen)))


def _by_step(noise: Tensor) -> Tensor:
    """Return noise `[N, K, H, *]` as `[H, K N, *]`."""
    return noise.movedim((2, 1), (0, 1)).flatten(1, 2).contiguous()


class ImaginedStep(nn.Module):
    """Step of imagination.

    Args:
        rssm: dynamics.
        actor: policy on the joined state.
        weights: result of the cell's `step_weights()`, for several steps.
    """

    def __init__(self, rssm: RSSM, actor: Any, weights: Sequence[Tensor] | None = None) -> None:
        """Store the networks."""
        super().__init__()
        self.rssm, self.actor, self.weights = rssm, actor, weights

    def act(self, state: Tensor, noise: Tensor) -> Tensor:
        """Return the actions in states `[N, deter + stoch]`, sampled by noise, without gradients into the states."""
        action: Tensor = self.actor.head.sample(self.actor(state.detach()), noise)
        return action

    def forward(self, state: Tensor, action_noise: Tensor, state_noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the actions in states, and the states after them."""
        action = self.act(state, action_noise)
        deter, stoch = torch.split(state, [self.rssm.cell.size, self.rssm.latents.size], -1)
        following = self.rssm.imagine(deter, stoch, self.actor.head.vector(action), state_noise, self.weights)
        return action, torch.cat(following, -1)


@dataclass(frozen=True)
class HotStep:
    """Step of imagination as a function of the inputs of `ImaginedStep`, then its weights; equal for equal networks."""

    rssm: RSSM
    actor: Any

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """Take the step."""
        step = ImaginedStep(self.rssm, self.actor)
        names = [name for name, _ in step.named_parameters()]
        count = len(tensors) - len(names)
        return list(functional_call(step, dict(zip(names, tensors[count:], strict=True)), tensors[:count]))

    def weights(self) -> list[Tensor]:
        """Return the weights of the networks."""
        return [weight.detach() for weight in ImaginedStep(self.rssm, self.actor).parameters()]


def _compiled(rssm: RSSM, actor: Any, *inputs: Tensor) -> Callable[..., Sequence[Tensor]] | None:
    """Return the compiled step for inputs as the given ones; None if nothing compiles it."""
    hot_step = HotStep(rssm, actor)
    weights = hot_step.weights()
    library = hot.compiled(hot_step, [*inputs, *weights])
    return None if library is None else lambda *tensors: library([*tensors, *weights])
