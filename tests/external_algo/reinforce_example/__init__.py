"""REINFORCE with a learned baseline."""
