"""Measure SheepRL's DreamerV3 beside SheepRL 0.8.4's, as `benchmarks.speed` does.

Both have networks of the same widths and imagine from all rows. SheepRL 0.8.4 runs without its compilation, which takes
minutes in each run.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.programs import WORLDS
from benchmarks.speed import Benchmark, compare

BENCHMARK = Benchmark("worlds", (__doc__ or "").splitlines()[0], WORLDS, ["sheeprl_084"])


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    compare(BENCHMARK, args)


if __name__ == "__main__":
    main()
