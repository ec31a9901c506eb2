"""Importance-weighted actor-learner architecture (IMPALA)."""
