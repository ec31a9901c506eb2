"""Workloads, environments and checks that the benchmarks run."""
