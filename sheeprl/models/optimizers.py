"""Optimizers that torch doesn't have. `learning.optimizers` holds their update rules for compiled gradient steps."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class _ByParameter(Optimizer):
    """Optimizer that steps each parameter on its own."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; return the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for settings in self.param_groups:
            for parameter in settings["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, settings)
        return loss

    @abstractmethod
    def _step_one(self, parameter: Tensor, settings: dict[str, Any]) -> None:
        """Step one parameter, which has a gradient, in place."""


class RMSpropTF(_ByParameter):
    """RMSprop as in TensorFlow 1: v ← α v + (1 − α) g², θ ← θ − lr g / √(v + ε), with v = 1 at the start.

    In torch's RMSprop ε is outside of the root and v begins with 0, so its first steps are much larger. A2C's published
    results use this form.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        alpha: decay α of the mean of the squares.
        eps: ε, inside of the square root.
        weight_decay: coefficient of the L2 penalty.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """Store the settings; the first step creates the state."""
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay})

    def _step_one(self, parameter: Tensor, settings: dict[str, Any]) -> None:
        """Step one parameter in place."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if settings["weight_decay"]:
            gradient = gradient + settings["weight_decay"] * parameter
        if not state:
            state["square_avg"] = torch.ones_like(parameter)
        square = state["square_avg"].mul_(settings["alpha"]).addcmul_(gradient, gradient, value=1 - settings["alpha"])
        parameter.addcdiv_(gradient, (square + settings["eps"]).sqrt_(), value=-settings["lr"])


class LaProp(_ByParameter):
    """LaProp, Ziyin et al. 2020 (2002.04839): normalize the gradient by its mean square, then apply momentum.

    v ← β₂ v + (1 − β₂) g², m ← β₁ m + (1 − β₁) g / (√(v / (1 − β₂ᵗ)) + ε), θ ← θ − lr m / (1 − β₁ᵗ).

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decays β₁ and β₂.
        eps: ε.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 4e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
    ) -> None:
        """Store the settings; the first step creates the state."""
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    def _step_one(self, parameter: Tensor, settings: dict[str, Any]) -> None:
        """Step one parameter in place."""
        gradient, state, (beta1, beta2) = parameter.grad, self.state[parameter], settings["betas"]
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step = float(state["step"])
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        deviation = square.sqrt().div_(math.sqrt(1 - beta2**step)).add_(settings["eps"])
        mean = state["exp_avg"].mul_(beta1).addcdiv_(gradient, deviation, value=1 - beta1)
        parameter.add_(mean, alpha=-settings["lr"] / (1 - beta1**step))
