"""Proximal Policy Optimization with a recurrent policy."""
