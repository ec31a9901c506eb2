"""Measure SheepRL's DQN and IMPALA beside Stable-Baselines3 and RLlib, as `benchmarks.speed` does.

DQN's updates differ by a few: SheepRL's rounds of 256 rows contain the rows that end episodes. RLlib's IMPALA has as
many environment runners as SheepRL has players, and ends after some updates; the updates per second are compared.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.programs import VALUES
from benchmarks.speed import Benchmark, compare

BENCHMARK = Benchmark("values", (__doc__ or "").splitlines()[0], VALUES, ["sb3", "rllib"])


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    compare(BENCHMARK, args)


if __name__ == "__main__":
    main()
