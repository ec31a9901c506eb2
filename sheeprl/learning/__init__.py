"""A gradient step: over flat vectors of parameters, and as one compiled graph."""
