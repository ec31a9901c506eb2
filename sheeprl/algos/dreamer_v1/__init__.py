"""DreamerV1: a world model with Gaussian states, and an actor that learns by gradients through it."""
