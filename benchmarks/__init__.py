"""Learning gates, speed comparisons and their figures: `python -m benchmarks --list`."""
