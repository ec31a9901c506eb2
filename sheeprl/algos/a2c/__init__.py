"""Advantage Actor-Critic."""
