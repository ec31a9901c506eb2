"""Test the checks of a fleet that need no cluster."""

import pytest

from sheeprl import ConfigError, load_config
from sheeprl.actors.ray import fleet as fleets
from sheeprl.actors.ray.fleet import Fleet
from sheeprl.config.checks import check


def fleet_of(*overrides):
    """Return a fleet that has not reserved anything."""
    fleet = object.__new__(Fleet)
    words = ["players.num=8", "trainer.accelerator=cpu", "trainer.compile=false", *overrides]
    fleet.config = check(load_config("sac", words).model_dump(mode="json")).config
    fleet.is_local, fleet.replay_folder, fleet.excluded = False, "memmap", {"excluded"}
    return fleet


@pytest.fixture
def cluster(monkeypatch):
    """Replace the cluster by one of three nodes, of which one isn't used, and yield whether it has an autoscaler."""
    autoscaled = []
    nodes = [{"NodeID": name, "Resources": {"CPU": 3.0, "memory": 1e9}} for name in ("one", "two", "excluded")]
    monkeypatch.setattr(fleets, "live_nodes", lambda: nodes)
    monkeypatch.setattr(fleets.internals, "is_autoscaled", lambda: bool(autoscaled))
    return autoscaled


def test_a_minimum_that_the_cluster_cannot_hold_is_refused(cluster):
    """The message has both numbers; an autoscaler may bring nodes, and without `players.min` the run waits."""
    fleet_of("players.min=5")._check_least()
    with pytest.raises(
        ConfigError, match=r"^players.min=6: the cluster has room for 5 such processes beside the train"
    ):
        fleet_of("players.min=6")._check_least()
    fleet_of()._check_least()
    cluster.append(True)
    fleet_of("players.min=6")._check_least()
