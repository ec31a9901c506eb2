"""Connecting, where it fails."""

import pytest
import ray

from sheeprl.actors.ray import cluster
from sheeprl.config import defaults
from sheeprl.config.loading import validate


def test_a_ray_that_does_not_start_is_told_in_a_line(monkeypatch):
    def init(*args, **kwargs):
        raise Exception("The current node timed out during startup.\nAnd a page more.")  # as Ray has it

    monkeypatch.setattr(ray, "init", init)
    config = defaults.fill_in(validate({"algo": {"name": "ppo"}, "env": {"id": "none"}, "run": {"mode": "decoupled"}}))
    with pytest.raises(cluster.ClusterError, match=r"^Ray can't be started: The current node timed out"):
        cluster.connect(config)
