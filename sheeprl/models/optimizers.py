"""Optimizers that torch doesn't have. `learning.optimizers` holds their update rules for compiled gradient steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class RMSpropTF(Optimizer):
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
