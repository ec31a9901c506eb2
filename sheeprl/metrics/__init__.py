"""Metrics: counters, their reporter and the time breakdown."""
