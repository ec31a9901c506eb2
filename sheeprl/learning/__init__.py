"""Gradient steps: batches, optimizers and metrics. `compile` turns a step into one graph."""
