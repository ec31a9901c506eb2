"""Test the metrics that Ray exports, with fakes of Ray's gauges and counters."""

import json
import math
import re
from pathlib import Path

import pytest

from sheeprl.metrics.counters import Counters, RunStats
from sheeprl.metrics.display import Progress
from sheeprl.metrics.ray_metrics import METRICS, TAGS, RayMetrics

DASHBOARD = Path(__file__).parents[2] / "cluster" / "grafana.json"
PROGRESS = Progress(100, 1000, 50, None, 1, 2)


class Instrument:
    """Gauge or counter that holds its value."""

    def __init__(self, name, description, tag_keys):
        """Store the name and register by it."""
        self.name, self.tag_keys, self.value = name, tag_keys, None
        assert description
        Instrument.made[name] = self

    def set_default_tags(self, tags):
        """Check that each tag is declared."""
        assert set(tags) == set(self.tag_keys)
        self.tags = tags


class FakeGauge(Instrument):
    """Gauge."""

    def set(self, value):
        """Set the value."""
        self.value = value


class FakeCounter(Instrument):
    """Counter."""

    def inc(self, value):
        """Add to the value, as Ray does it."""
        assert value > 0
        self.value = (self.value or 0) + value


@pytest.fixture
def metrics(monkeypatch):
    """Return the metrics of a run with fake instruments."""
    import ray.util.metrics

    Instrument.made = {}
    monkeypatch.setattr(ray.util.metrics, "Gauge", FakeGauge)
    monkeypatch.setattr(ray.util.metrics, "Counter", FakeCounter)
    return RayMetrics(dict.fromkeys(TAGS, "x"))


def value(name):
    """Return the value of a metric."""
    return Instrument.made[name].value


def test_values_without_a_number_are_not_exported(metrics):
    """None and non-finite values leave a metric as it is."""
    metrics.update(PROGRESS, {"Weights/staleness": math.nan})
    assert (
        value("sheeprl_mean_return") is value("sheeprl_staleness") is value("sheeprl_checkpoint_time_seconds") is None
    )
    assert value("sheeprl_players_alive") == 1


def test_counters_never_decrease(metrics):
    """A run that repeats lost steps counts each of them once."""
    for steps in (100, 90, 95, 120):
        metrics.update(Progress(steps, 1000, steps, None, 1, 2), {})
    assert value("sheeprl_policy_steps") == value("sheeprl_gradient_steps") == 120


def test_age_of_the_checkpoint_becomes_its_time(metrics, monkeypatch):
    """Prometheus gets the time of the checkpoint, from which it computes the age at any time."""
    monkeypatch.setattr("sheeprl.metrics.ray_metrics.time.time", lambda: 5000.0)
    metrics.update(Progress(100, 1000, 50, None, 1, 2, checkpoint_age=30.0), {})
    assert value("sheeprl_checkpoint_time_seconds") == 4970.0


def test_keys_of_the_metrics_line_exist():
    """The exported values exist in the metrics of a run; the run itself adds those of the buffer and evaluations."""

    class KeyRecorder(dict):
        """Mapping that records the keys that are read."""

        def get(self, key, default=None):
            """Record the key."""
            keys.add(key)

    keys = set()
    for metric in METRICS:
        metric.value(PROGRESS, KeyRecorder())
    stats = RunStats(Counters(policy_steps=1), 0.0)
    stats.window.policy_steps = 0
    assert keys - set(stats.metrics(1.0, 1)) == {"Test/cumulative_reward", "Buffer/size"}


def test_dashboard_shows_exactly_the_exported_metrics():
    """Every panel of the dashboard names exported metrics only, and every exported metric has a panel."""
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert all("sheeprl_" in expression for expression in expressions)
    named = set(re.findall(r"ray_sheeprl_\w+", " ".join(expressions)))
    assert named == {metric.exported for metric in METRICS}
    assert "label_values(ray_sheeprl_players" in json.dumps(dashboard["templating"])


def test_panels_of_the_dashboard_do_not_overlap():
    """Each panel has its own id and place on the grid of 24 columns."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24
