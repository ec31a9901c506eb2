"""Matrix products of one SAC update, and their time alone, a lower bound of the time of an update.

`python -m benchmarks.harness.products --threads 1` prints it as JSON.
They are in float32, and every result is written into existing memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch


class Product(NamedTuple):
    """Matrix product `[rows, inner] @ [inner, columns]`."""

    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """Return the floating-point operations: a multiplication and an addition per term."""
        return 2 * self.rows * self.inner * self.columns


def forward(batch: int, sizes: Sequence[int]) -> Iterator[Product]:
    """Yield the products of a network's layers, from its input's size to its output's."""
    for inputs, outputs in pairwise(sizes):
        yield Product(batch, inputs, outputs)


def backward_to_weights(batch: int, sizes: Sequence[int]) -> Iterator[Product]:
    """Yield the products of the gradients of the layers' weights."""
    for inputs, outputs in pairwise(sizes):
        yield Product(outputs, batch, inputs)


def backward_to_inputs(batch: int, sizes: Sequence[int], first: bool) -> Iterator[Product]:
    """Yield the products of the gradients of the layers' inputs, for the first layer only if `first`."""
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        if number or first:
            yield Product(batch, outputs, inputs)


def of_sac(batch: int, obs: int, action: int, hidden: Sequence[int], critics: int = 2) -> list[Product]:
    """Return the products of one SAC update: targets, the critics' loss, the actor's loss through the critics."""
    actor, critic = (obs, *hidden, 2 * action), (obs + action, *hidden, 1)
    products = [*forward(batch, actor)]  # the next actions
    for _ in range(critics):
        products += forward(batch, critic)  # their target
        products += [*forward(batch, critic), *backward_to_weights(batch, critic)]
        products += backward_to_inputs(batch, critic, first=False)
        products += [*forward(batch, critic), *backward_to_inputs(batch, critic, first=True)]  # for the actor's loss
    products += [*forward(batch, actor), *backward_to_weights(batch, actor)]
    return [*products, *backward_to_inputs(batch, actor, first=False)]


HALFCHEETAH = {"batch": 256, "obs": 17, "action": 6, "hidden": (256, 256)}


def seconds_of(products: Sequence[Product], seconds: float = 3.0) -> float:
    """Return the median time of all products, one after the other."""
    operands = [(torch.randn(p.rows, p.inner), torch.randn(p.inner, p.columns)) for p in products]
    results = [torch.empty(p.rows, p.columns) for p in products]
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 10:
        began = time.perf_counter()
        for (left, right), result in zip(operands, results, strict=True):
            torch.mm(left, right, out=result)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Print the time of the products as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    products = of_sac(**HALFCHEETAH)
    seconds, flops = seconds_of(products, given.seconds), sum(product.flops for product in products)
    print(json.dumps({"seconds": seconds, "flops": flops, "gflops_per_second": flops / seconds / 1e9}))


if __name__ == "__main__":
    main()
