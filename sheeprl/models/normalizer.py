"""Running mean and variance of observations, rewards or returns, and running percentiles of returns."""

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


class PercentileRange(nn.Module):
    """Exponential averages of a low and a high percentile, as buffers that are saved. Their distance scales returns.

    Hafner et al. 2023 (2301.04104), eq. 12. The distance ignores outliers, and small returns aren't scaled up.

    Args:
        low: the low percentile, as a fraction.
        high: the high percentile, as a fraction.
        rate: step size of the averages, which start at 0.
        least: smallest scale.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: float = 0.05, high: float = 0.95, rate: float = 0.01, least: float = 1.0) -> None:
        """Start both averages at 0."""
        super().__init__()
        self.fractions, self.rate, self.least = (low, high), rate, least
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def updated(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the buffers by name after more numbers, those of all ranks; this module is unchanged."""
        # Filled on the device: a CUDA graph can't contain a copy from the CPU's pageable memory.
        fractions = torch.stack([self.low.new_full((), fraction) for fraction in self.fractions])
        low, high = torch.quantile(rows.detach().flatten().to(self.low.dtype), fractions).unbind(0)
        return {"low": self.low + self.rate * (low - self.low), "high": self.high + self.rate * (high - self.high)}

    def scale(self, buffers: dict[str, Tensor] | None = None) -> Tensor:
        """Return max(least, high − low) of this module, or of the result of `updated`: a scalar."""
        low, high = (self.low, self.high) if buffers is None else (buffers["low"], buffers["high"])
        return (high - low).clamp_min(self.least)
