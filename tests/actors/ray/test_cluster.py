"""Test failures to connect to Ray."""

import pytest
import ray

from sheeprl.actors.ray import cluster
from sheeprl.config import defaults
from sheeprl.config.loading import validate


def test_a_failed_start_is_one_line(monkeypatch):
    """A failed start of Ray is an error of one line."""

    def init(*args, **kwargs):
        """Raise Ray's error."""
        raise Exception("The current node timed out during startup.\nAnd a page more.")  # Ray's own text

    monkeypatch.setattr(ray, "init", init)
    config = defaults.fill_in(validate({"algo": {"name": "ppo"}, "env": {"id": "none"}, "run": {"mode": "decoupled"}}))
    with pytest.raises(cluster.ClusterError, match=r"^Ray can't be started: The current node timed out"):
        cluster.connect(config)
