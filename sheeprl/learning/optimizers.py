"""What optimizers of torch do to a vector, as pure functions that can be a part of a larger graph.

`optimizer.step()` can't be traced together with the gradients that it applies; its formula can. The state is that of
torch's optimizer, under its names, so that a run may go on with either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

Settings = Mapping[str, Any]
"""What stands in the optimizer's `param_groups`."""
State = Mapping[str, Tensor]
"""What the optimizer remembers of a vector."""
Stepped = tuple[Tensor, dict[str, Tensor]]
"""The new vector, and the new state."""
Formula = Callable[[Tensor, Tensor, State, Settings, Sequence[Tensor]], Stepped]
"""formula(vector, gradient, state, settings, factors)."""
Factors = Callable[[float, float, Settings], tuple[float, ...]]
"""factors(learning rate, number of this step from 1 on, settings): what is the same for all numbers of a vector.

As a part of a compiled graph it would be computed anew for every few of them; torch computes it beforehand as well.
"""


def learning_rate(rate: float, step: float, settings: Settings) -> tuple[float, ...]:
    """The learning rate alone."""
    return (rate,)


def corrected(rate: float, step: float, settings: Settings) -> tuple[float, ...]:
    """α, α / (1 − β₁ᵗ) and √(1 − β₂ᵗ), which take the moments' bias towards their start at 0 away."""
    beta1, beta2 = settings["betas"]
    return rate, rate / (1 - beta1**step), math.sqrt(1 - beta2**step)


def adam(vector: Tensor, gradient: Tensor, state: State, settings: Settings, factors: Sequence[Tensor]) -> Stepped:
    """Adam, Kingma & Ba 2015 (1412.6980), algorithm 1, with an L2 penalty in the gradient."""
    gradient = gradient + settings["weight_decay"] * vector if settings["weight_decay"] else gradient
    return _moments(vector, gradient, state, settings, factors)


def adamw(vector: Tensor, gradient: Tensor, state: State, settings: Settings, factors: Sequence[Tensor]) -> Stepped:
    """AdamW, Loshchilov & Hutter 2019 (1711.05101), algorithm 2: weights decay beside the gradient."""
    decayed = vector * (1 - factors[0] * settings["weight_decay"]) if settings["weight_decay"] else vector
    return _moments(decayed, gradient, state, settings, factors)


def _moments(vector: Tensor, gradient: Tensor, state: State, settings: Settings, factors: Sequence[Tensor]) -> Stepped:
    """Moments: m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², θ ← θ − α m̂ / (√v̂ + ε)."""
    beta1, beta2 = settings["betas"]
    mean = state["exp_avg"] + (gradient - state["exp_avg"]) * (1 - beta1)
    square = state["exp_avg_sq"] * beta2 + gradient * gradient * (1 - beta2)
    deviation = square.sqrt() / factors[2] + settings["eps"]
    return vector - factors[1] * mean / deviation, {"exp_avg": mean, "exp_avg_sq": square}


def rmsprop(vector: Tensor, gradient: Tensor, state: State, settings: Settings, factors: Sequence[Tensor]) -> Stepped:
    """RMSprop, Tieleman & Hinton 2012: v ← α v + (1 − α) g², θ ← θ − lr g / (√v + ε)."""
    gradient = gradient + settings["weight_decay"] * vector if settings["weight_decay"] else gradient
    square = state["square_avg"] * settings["alpha"] + gradient * gradient * (1 - settings["alpha"])
    return vector - factors[0] * gradient / (square.sqrt() + settings["eps"]), {"square_avg": square}


def sgd(vector: Tensor, gradient: Tensor, state: State, settings: Settings, factors: Sequence[Tensor]) -> Stepped:
    """Stochastic gradient descent without momentum."""
    gradient = gradient + settings["weight_decay"] * vector if settings["weight_decay"] else gradient
    return vector - factors[0] * gradient, {}


@dataclass(frozen=True)
class Rule:
    """What an optimizer does.

    Args:
        step: the formula.
        factors: what the formula is given.
        remembers: names of the state that it reads and gives anew.
        counts: whether the optimizer remembers the number of its steps too, as `step`. It isn't a part of a graph: it
            lies on the CPU wherever the vector is, and `factors` are all that need it.
        lacks: options of torch's optimizer that it leaves out.
    """

    step: Formula
    factors: Factors
    remembers: tuple[str, ...]
    counts: bool
    why_empty: tuple[str, ...]

    def is_begun(self, state: Mapping[str, Any]) -> bool:
        """Whether the optimizer has made what it remembers of a vector."""
        return {*self.remembers, *(["step"] if self.counts else [])} <= state.keys()


RULES: dict[type[Optimizer], Rule] = {
    Adam: Rule(adam, corrected, ("exp_avg", "exp_avg_sq"), True, ("amsgrad", "maximize", "decoupled_weight_decay")),
    AdamW: Rule(adamw, corrected, ("exp_avg", "exp_avg_sq"), True, ("amsgrad", "maximize")),
    RMSprop: Rule(rmsprop, learning_rate, ("square_avg",), True, ("momentum", "centered", "maximize")),
    SGD: Rule(sgd, learning_rate, (), False, ("momentum", "maximize")),
}


class NoRuleError(TypeError):
    """What an optimizer does isn't known here; it can only be asked to do it."""


def rule_of(optimizer: Optimizer) -> Rule:
    """What an optimizer does.

    Raises:
        NoRuleError: it is of another class, or has options that aren't known.
    """
    kind = type(optimizer)
    if kind not in RULES:
        raise NoRuleError(f"{kind.__name__} is none of {', '.join(known.__name__ for known in RULES)}")
    for settings in optimizer.param_groups:
        if used := [name for name in RULES[kind].why_empty if settings.get(name)]:
            raise NoRuleError(f"{kind.__name__} with {used[0]}={settings[used[0]]}")
    return RULES[kind]
