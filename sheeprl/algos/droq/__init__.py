"""Dropout Q-functions."""
