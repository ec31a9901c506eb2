"""Test the checks of a fleet that need no cluster."""

from types import SimpleNamespace

import pytest

from sheeprl import ConfigError, load_config
from sheeprl.actors.ray import fleet as fleets
from sheeprl.actors.ray.fleet import Fleet
from sheeprl.actors.ray.nodes import Marker, NodeReport
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


def test_every_node_that_can_not_be_used_is_excluded(monkeypatch):
    """Nodes without the run's storage and without its packages are all excluded, and each is named."""
    fleet, said = fleet_of(), []
    fleet._known, fleet.excluded, fleet.report = set(), set(), said.append
    fleet.marker = Marker("s3://bucket/lease", "content")
    live = [{"NodeID": name} for name in ("blind", "bare", "good")]
    reports = [
        NodeReport("blind", "10.0.0.1", [], "no such bucket"),
        NodeReport("bare", "10.0.0.2", ["it has no module torch"]),
        NodeReport("good", "10.0.0.3", []),
    ]
    monkeypatch.setattr(fleets, "live_nodes", lambda: live)
    monkeypatch.setattr(fleets.nodes, "check_nodes", lambda *given: reports)
    monkeypatch.setattr(fleets.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "own"))
    fleet._check_new_nodes()
    assert fleet.excluded == {"blind", "bare"}
    assert len(said) == 2 and "node 10.0.0.2 is not used" in said[0] and "from node 10.0.0.1" in said[1]


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
