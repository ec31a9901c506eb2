"""Recurrent replay distributed DQN (R2D2)."""
