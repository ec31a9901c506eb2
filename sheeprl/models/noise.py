"""Random numbers drawn on the device by a stateless generator: an integer hash of seed, place and element.

A phase's noise function draws one seed per sample, `seeds`, and networks draw from it with `uniform`, `normal` and
`dropout`. All operations but those of `normal` are exact, so eager and compiled steps, CPUs and GPUs, and any number of
ranks get the same bits.

The hash is `lowbias32` of Chris Wellons, https://nullprogram.com/blog/2018/07/31/. It computes with 32-bit integers
that wrap around. Each shift is followed by a mask, which makes it a shift of an unsigned integer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MULTIPLIER_1, MULTIPLIER_2 = 0x7FEB352D, 0x846CA68B - 2**32
GOLDEN = 0x9E3779B9  # 2³² divided by the golden ratio: spreads consecutive numbers
WORD = 2**32
COPIES = 16  # of the numbers that a reduction stores; the compiler unrolls shorter reductions


def seeds(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw one seed per sample, `[N]` int64; for `Phase.noise`."""
    return torch.randint(-(2**63), 2**63 - 1, shape, generator=generator)


def uniform(seed: Tensor, place: int, shape: Sequence[int]) -> Tensor:
    """Draw numbers from [0, 1), multiples of 2⁻²⁴.

    Args:
        seed: `[N]` int64, one per sample.
        place: number of the place that draws. Different places draw independent numbers from one seed.
        shape: shape of each sample's numbers.

    Returns:
        `[N, *shape]` float32.
    """
    bits = _hash(seed, place, math.prod(shape))
    return (((bits >> 8) & 0xFFFFFF).float() * 2.0**-24).view(len(seed), *shape)


def normal(seed: Tensor, place: int, shape: Sequence[int]) -> Tensor:
    """Draw standard normal numbers by Box and Muller's transform of two uniform ones; equal up to rounding only.

    Args:
        seed: `[N]` int64, one per sample.
        place: number of the place; see `uniform`.
        shape: shape of each sample's numbers.

    Returns:
        `[N, *shape]` float32.
    """
    radius, angle = uniform(seed, place, (2, *shape)).unbind(1)
    return (-2.0 * (1.0 - radius).log()).sqrt() * (2.0 * math.pi * angle).cos()


def dropout(x: Tensor, p: float, seed: Tensor, place: int) -> Tensor:
    """Set each element to 0 with probability p and divide the others by 1 − p (Srivastava et al. 2014).

    Args:
        x: `[N, *]`.
        p: probability of 0, less than 1.
        seed: `[N]` int64, one per sample.
        place: number of the place; see `uniform`.
    """
    if p == 0.0:
        return x
    keep = uniform(seed, place, x.shape[1:]) >= p
    return torch.where(keep, x * (1.0 / (1.0 - p)), torch.zeros_like(x))


def _hash(seed: Tensor, place: int, count: int) -> Tensor:
    """Return random 32-bit integers `[N, count]` int32.

    Both halves of a seed enter at different points, so two samples share numbers only if their whole seeds are equal.
    """
    low, high = seed.int(), (seed >> 32).int()  # a conversion to int32 drops the upper half
    element = torch.arange(count, dtype=torch.int32, device=seed.device)
    first = _stored(_mix(low + _signed(GOLDEN * (2 * place + 1))))
    second = _stored(_mix(high ^ first))
    return _mix((element * _signed(GOLDEN)) ^ first[:, None], second[:, None])


def _stored(x: Tensor) -> Tensor:
    """Return `[N]` numbers unchanged, by a reduction, whose result the compiler stores.

    It would repeat the computation of `x` for each use otherwise, and each step of the hash uses its input twice: the
    time to compile would grow exponentially.
    """
    return x.expand(COPIES, len(x)).amax(0)


def _mix(x: Tensor, added: Tensor | None = None) -> Tensor:
    """Hash 32-bit integers, each to another one; `added` changes the function."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * MULTIPLIER_1
    x = x if added is None else x + added
    x = (x ^ ((x >> 15) & 0x1FFFF)) * MULTIPLIER_2
    return x ^ ((x >> 16) & 0xFFFF)


def _signed(number: int) -> int:
    """Return the signed 32-bit integer with the lowest 32 bits of a number."""
    return (number + WORD // 2) % WORD - WORD // 2
