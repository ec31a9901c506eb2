"""Parallelised Q-learning (PQN)."""
