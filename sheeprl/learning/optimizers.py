"""Update rules of torch's optimizers as pure functions, which can be traced into a larger graph.

`optimizer.step()` can't be traced together with the computation of its gradients; its formula can. The functions use
the state of torch's optimizer, under torch's names, so a run can switch between the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RAdam, RMSprop

from sheeprl.models.optimizers import LaProp, RMSpropTF

Settings = Mapping[str, Any]
"""Settings of one of the optimizer's `param_groups`."""
State = Mapping[str, Tensor]
"""State of the optimizer for one vector, such as `exp_avg`."""
Stepped = tuple[Tensor, dict[str, Tensor]]
"""The new vector, and the new state."""
Formula = Callable[[Tensor, Tensor, State, Settings, Sequence[Tensor]], Stepped]
"""Signature `formula(vector, gradient, state, settings, factors)`: compute the update of one vector."""
Factors = Callable[[float, float, Settings], tuple[float, ...]]
"""Signature `factors(learning rate, step, settings)`: compute the scalars that all elements of a vector share.

`step` counts from 1. The factors are computed outside of the graph, as torch does: inside a compiled graph they would
be recomputed for every block of elements.
"""


def learning_rate(rate: float, step: float, settings: Settings) -> tuple[float, ...]:
    """Return the learning rate as the only factor."""
    return (rate,)


def corrected(rate: float, step: float, settings: Settings) -> tuple[float, ...]:
    """Return α, α / (1 − β₁ᵗ) and √(1 − β₂ᵗ): the learning rate, and Adam's bias corrections of the moments."""
    beta1, beta2 = settings["betas"]
    return rate, rate / (1 - beta1**step), math.sqrt(1 - beta2**step)


def rectified(rate: float, step: float, settings: Settings) -> tuple[float, ...]:
    """Return α r √(1 − β₂ᵗ) / (1 − β₁ᵗ) and α / (1 − β₁ᵗ); the one that RAdam doesn't use in this step is 0.

    r_t = √((ρ_t − 4)(ρ_t − 2) ρ_∞ / ((ρ_∞ − 4)(ρ_∞ − 2) ρ_t)) rectifies the variance of the adaptive rate, with
    ρ_∞ = 2 / (1 − β₂) − 1 and ρ_t = ρ_∞ − 2 t β₂ᵗ / (1 − β₂ᵗ). Up to ρ_t = 5, steps follow the mean alone.
    """
    beta1, beta2 = settings["betas"]
    remaining = 1 - beta2**step
    limit = 2 / (1 - beta2) - 1
    length = limit - 2 * step * beta2**step / remaining
    corrected_rate = rate / (1 - beta1**step)
    if length <= 5:
        return 0.0, corrected_rate
    rectification = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
    return corrected_rate * math.sqrt(rectification * remaining), 0.0


def adam(vector: Tensor, gradient: Tensor, state: State, settings: Settings, factors: Sequence[Tensor]) -> Stepped:
    """Step by Adam, Kingma & Ba 2015 (1412.6980), algorithm 1: g ← g + λ θ (L2 penalty), then `_moments`."""
    gradient = gradient + settings["weight_decay"] * vector if settings["weight_decay"] else gradient
    return _moments(vector, gradient, state, settings, factors)


def adamw(vector: Tensor, gradient: Tensor, state: State, settings: Settings, factors: Sequence[Tensor]) -> Stepped:
    """Step by AdamW, Loshchilov & Hutter 2019 (1711.05101), algorithm 2: θ ← θ − α λ θ, then `_moments`."""
    decayed = vector * (1 - factors[0] * settings["weight_decay"]) if settings["weight_decay"] else vector
    return _moments(decayed, gradient, state, settings, factors)


def _moments(vector: Tensor, gradient: Tensor, state: State, settings: Settings, factors: Sequence[Tensor]) -> Stepped:
    """Apply m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², θ ← θ − α m̂ / (√v̂ + ε)."""
    beta1, beta2 = settings["betas"]
    mean = state["exp_avg"] + (gradient - state["exp_avg"]) * (1 - beta1)
    square = state["exp_avg_sq"] * beta2 + gradient * gradient * (1 - beta2)
    deviation = square.sqrt() / factors[2] + settings["eps"]
    return vector - factors[1] * mean / deviation, {"exp_avg": mean, "exp_avg_sq": square}


def radam(vector: Tensor, gradient: Tensor, state: State, settings: Settings, factors: Sequence[Tensor]) -> Stepped:
    """Step by RAdam, Liu et al. 2020 (1908.03265), algorithm 2: θ ← θ − α r m̂ / (√v̂ + ε), or θ ← θ − α m̂ at first."""
    gradient = gradient + settings["weight_decay"] * vector if settings["weight_decay"] else gradient
    beta1, beta2 = settings["betas"]
    mean = state["exp_avg"] + (gradient - state["exp_avg"]) * (1 - beta1)
    square = state["exp_avg_sq"] * beta2 + gradient * gradient * (1 - beta2)
    step = factors[0] * mean / (square.sqrt() + settings["eps"]) + factors[1] * mean
    return vector - step, {"exp_avg": mean, "exp_avg_sq": square}


def rmsprop(vector: Tensor, gradient: Tensor, state: State, settings: Settings, factors: Sequence[Tensor]) -> Stepped:
    """Step by RMSprop, Tieleman & Hinton 2012: v ← α v + (1 − α) g², θ ← θ − lr g / (√v + ε).

    Centered, as in Graves 2013 (1308.0850), eq. 38 to 45, the root is √(v − m²) with m ← α m + (1 − α) g. With momentum
    μ, b ← μ b + g / (√v + ε) and θ ← θ − lr b.
    """
    gradient = gradient + settings["weight_decay"] * vector if settings["weight_decay"] else gradient
    square = state["square_avg"] * settings["alpha"] + gradient * gradient * (1 - settings["alpha"])
    stepped, variance = {"square_avg": square}, square
    if settings["centered"]:
        mean = state["grad_avg"] + (gradient - state["grad_avg"]) * (1 - settings["alpha"])
        stepped["grad_avg"], variance = mean, square - mean * mean
    deviation = variance.sqrt() + settings["eps"]
    if not settings["momentum"]:
        return vector - factors[0] * gradient / deviation, stepped
    stepped["momentum_buffer"] = state["momentum_buffer"] * settings["momentum"] + gradient / deviation
    return vector - factors[0] * stepped["momentum_buffer"], stepped


def rmsprop_tf(
    vector: Tensor, gradient: Tensor, state: State, settings: Settings, factors: Sequence[Tensor]
) -> Stepped:
    """Step by `RMSpropTF`: v ← α v + (1 − α) g², θ ← θ − lr g / √(v + ε)."""
    gradient = gradient + settings["weight_decay"] * vector if settings["weight_decay"] else gradient
    square = state["square_avg"] * settings["alpha"] + gradient * gradient * (1 - settings["alpha"])
    return vector - factors[0] * gradient / (square + settings["eps"]).sqrt(), {"square_avg": square}


def laprop(vector: Tensor, gradient: Tensor, state: State, settings: Settings, factors: Sequence[Tensor]) -> Stepped:
    """Step by `LaProp`: v ← β₂ v + (1 − β₂) g², m ← β₁ m + (1 − β₁) g / (√v̂ + ε), θ ← θ − lr m̂."""
    beta1, beta2 = settings["betas"]
    square = state["exp_avg_sq"] * beta2 + gradient * gradient * (1 - beta2)
    deviation = square.sqrt() / factors[2] + settings["eps"]
    mean = state["exp_avg"] * beta1 + gradient / deviation * (1 - beta1)
    return vector - factors[1] * mean, {"exp_avg": mean, "exp_avg_sq": square}


def sgd(vector: Tensor, gradient: Tensor, state: State, settings: Settings, factors: Sequence[Tensor]) -> Stepped:
    """Step by stochastic gradient descent: θ ← θ − lr g.

    With momentum μ and dampening d, Sutskever et al. 2013, b ← μ b + (1 − d) g and θ ← θ − lr b; Nesterov's form steps
    by g + μ b.
    """
    gradient = gradient + settings["weight_decay"] * vector if settings["weight_decay"] else gradient
    if not settings["momentum"]:
        return vector - factors[0] * gradient, {}
    buffer = state["momentum_buffer"] * settings["momentum"] + gradient * (1 - settings["dampening"])
    direction = gradient + settings["momentum"] * buffer if settings["nesterov"] else buffer
    return vector - factors[0] * direction, {"momentum_buffer": buffer}


@dataclass(frozen=True)
class Rule:
    """Update rule of one optimizer.

    Args:
        step: formula of the update.
        factors: function that computes the formula's factors.
        state_names: names of the state tensors that the formula reads and replaces.
        counts_steps: the optimizer also stores the number of its steps, as `step`. This tensor stays on the CPU and
            isn't a part of the graph, because only `factors` needs it.
        unsupported: options of torch's optimizer that the formula doesn't implement.
        optional_state: further state tensors, by the option that adds them.
        rates: number of leading factors that are proportional to the learning rate.
    """

    step: Formula
    factors: Factors
    state_names: tuple[str, ...]
    counts_steps: bool
    unsupported: tuple[str, ...]
    optional_state: Mapping[str, str] = field(default_factory=dict)
    rates: int = 1

    def scaled(self, factors: Sequence[Tensor], scale: Tensor) -> list[Tensor]:
        """Return the factors for a learning rate that is multiplied by `scale`, a scalar."""
        return [factor * scale if place < self.rates else factor for place, factor in enumerate(factors)]

    def names(self, settings: Settings) -> list[str]:
        """Return the names of the state tensors of an optimizer with these settings."""
        return [*self.state_names, *(name for option, name in self.optional_state.items() if settings[option])]

    def has_state(self, state: Mapping[str, Any], settings: Settings) -> bool:
        """Return True if the state is complete: torch creates it in the optimizer's first step."""
        return {*self.names(settings), *(["step"] if self.counts_steps else [])} <= state.keys()


RULES: dict[type[Optimizer], Rule] = {
    Adam: Rule(
        adam, corrected, ("exp_avg", "exp_avg_sq"), True, ("amsgrad", "maximize", "decoupled_weight_decay"), rates=2
    ),
    AdamW: Rule(adamw, corrected, ("exp_avg", "exp_avg_sq"), True, ("amsgrad", "maximize"), rates=2),
    RAdam: Rule(radam, rectified, ("exp_avg", "exp_avg_sq"), True, ("maximize", "decoupled_weight_decay"), rates=2),
    RMSprop: Rule(
        rmsprop,
        learning_rate,
        ("square_avg",),
        True,
        ("maximize",),
        {"momentum": "momentum_buffer", "centered": "grad_avg"},
    ),
    LaProp: Rule(laprop, corrected, ("exp_avg", "exp_avg_sq"), True, (), rates=2),
    RMSpropTF: Rule(rmsprop_tf, learning_rate, ("square_avg",), False, ()),
    SGD: Rule(sgd, learning_rate, (), False, ("maximize",), {"momentum": "momentum_buffer"}),
}
NOT_ELEMENTWISE = ("LBFGS", "Muon", "Adafactor", "Shampoo", "SOAP", "LAMB", "LARS")
"""Optimizers whose step of one element depends on the other elements of the same tensor."""


def check_elementwise(group: str, optimizer: Optimizer) -> None:
    """Check that an optimizer treats each element of a parameter alone, because it gets flat vectors of parameters.

    Args:
        group: name of the parameter group.
        optimizer: optimizer of the group.

    Raises:
        ValueError: the optimizer is known to treat a tensor as a whole.
    """
    names = {name.lower() for name in NOT_ELEMENTWISE}
    if any(kind.__name__.lower() in names for kind in type(optimizer).__mro__):
        raise ValueError(
            f"optimizers() builds {type(optimizer).__name__} for {group!r}, whose steps depend on the shapes of the "
            "parameters, but it gets flat vectors; use an elementwise optimizer, such as Adam or RMSprop"
        )


class NoRuleError(TypeError):
    """Raised when an optimizer has no update rule here, so its steps can't be compiled."""


def rule_of(optimizer: Optimizer) -> Rule:
    """Return the update rule of an optimizer.

    Raises:
        NoRuleError: the optimizer's class has no rule, or an option of it is unsupported.
    """
    kind = type(optimizer)
    if kind not in RULES:
        raise NoRuleError(f"{kind.__name__} is none of {', '.join(known.__name__ for known in RULES)}")
    for settings in optimizer.param_groups:
        if used := [name for name in RULES[kind].unsupported if settings.get(name)]:
            raise NoRuleError(f"{kind.__name__} with {used[0]}={settings[used[0]]} is not supported")
    return RULES[kind]
