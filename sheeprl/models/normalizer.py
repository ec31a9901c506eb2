"""Running mean and variance of observations, rewards or returns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

EPSILON = 1e-8  # added to the variance
TINY = torch.finfo(torch.float64).tiny


class RunningMoments(nn.Module):
    """Mean and variance of all rows so far, per element, as buffers that are saved and sent with the policy.

    The buffers are sums, so they are linear in the rows: their average over ranks gives exactly the mean and variance
    of the rows of all ranks, even where ranks have different numbers of valid rows. `count` is then the number of rows
    per rank. Without rows, the mean is 0 and the variance 1.

    Args:
        shape: shape of one row; empty for scalars such as rewards.
    """

    count: Tensor
    total: Tensor
    total_square: Tensor

    def __init__(self, shape: Sequence[int] = ()) -> None:
        """Start without rows."""
        super().__init__()
        self.dims = len(shape)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("total", torch.zeros(tuple(shape), dtype=torch.float64))
        self.register_buffer("total_square", torch.zeros(tuple(shape), dtype=torch.float64))

    @property
    def mean(self) -> Tensor:
        """Mean, float64 `[*shape]`."""
        return self.total / self.count.clamp_min(TINY)

    @property
    def variance(self) -> Tensor:
        """Variance E[x²] − E[x]², float64 `[*shape]`."""
        variance = (self.total_square / self.count - self.mean.square()).clamp_min(0.0)
        return torch.where(self.count > 0, variance, 1.0)

    def scale(self) -> Tensor:
        """Return the standard deviation √(variance + ε), float64 `[*shape]`."""
        return (self.variance + EPSILON).sqrt()

    def normalize(self, x: Tensor, clip: float | None = 10.0) -> Tensor:
        """Return (x − mean) / scale, clipped to [−clip, clip]: `[*, *shape]` in the dtype of x; float32 for integers.

        Args:
            x: `[*, *shape]`.
            clip: largest absolute value; None for no limit.
        """
        normal = (x - self.mean) / self.scale()
        if clip is not None:
            normal = normal.clamp(-clip, clip)
        return normal.to(x.dtype if x.is_floating_point() else torch.float32)

    def updated(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Return the buffers by name after more rows; this module is unchanged.

        Args:
            x: rows `[*batch, *shape]`.
            mask: `[*batch]` booleans, true for valid rows; None for all. Invalid rows may hold NaN.
        """
        rows = x.detach().double().reshape(-1, *self.total.shape)
        if mask is None:
            count = self.count + rows.shape[0]
        else:
            valid = mask.reshape(-1)
            count = self.count + valid.sum()
            rows = torch.where(valid.reshape(-1, *[1] * self.dims), rows, 0.0)
        return {
            "count": count,
            "total": self.total + rows.sum(0),
            "total_square": self.total_square + rows.square().sum(0),
        }
