"""Measure SheepRL beside Stable-Baselines3 on policies that read pictures or remember, as `benchmarks.speed` does.

The pictures cost nothing to make, so the time is that of the libraries and of the networks.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.programs import POLICIES
from benchmarks.speed import Benchmark, compare

BENCHMARK = Benchmark("policies", (__doc__ or "").splitlines()[0], POLICIES, ["sb3"])


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    compare(BENCHMARK, args)


if __name__ == "__main__":
    main()
