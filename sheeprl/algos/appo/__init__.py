"""Asynchronous Proximal Policy Optimization (APPO)."""
