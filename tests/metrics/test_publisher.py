"""Test the publisher of a run with a control store in memory."""

import threading
import time
from types import SimpleNamespace

import pytest

from sheeprl import load_config
from sheeprl.actors.ray import internals
from sheeprl.config.checks import check
from sheeprl.metrics import publisher as module
from sheeprl.metrics.display import Progress
from sheeprl.metrics.publisher import RETENTION, RunPublisher
from sheeprl.metrics.run_entry import RunEntry


class Reporter:
    """Reporter that records its calls."""

    def __init__(self):
        """Begin without calls."""
        self.calls = []

    def __getattr__(self, name):
        """Return a method that records its call."""
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


@pytest.fixture(scope="module")
def config():
    """Return a resolved configuration."""
    return check(load_config("ppo", ["run.total_steps=1000", "players.num=2"]).model_dump()).config


@pytest.fixture
def store(monkeypatch):
    """Return the values of a control store in memory, by key."""
    import ray

    values = {}
    context = SimpleNamespace(get_job_id=lambda: "01000000")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(module, "RayMetrics", lambda tags: SimpleNamespace(update=lambda *args: None))
    monkeypatch.setattr(internals, "store_value", lambda namespace, key, value: values.__setitem__(key, value))
    monkeypatch.setattr(internals, "stored_values", lambda namespace: dict(values))
    monkeypatch.setattr(internals, "remove_value", lambda namespace, key: values.pop(key))
    return values


def entry(store, run):
    """Return the entry of a run."""
    return RunEntry.from_json(store[str(run)])


def wait_for(condition):
    """Wait until a condition holds."""
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the condition never held")


def test_states_follow_a_run(config, store, tmp_path):
    """A run is starting, then running with its progress, then finished; each call reaches the reporter too."""
    publisher, inner = RunPublisher(config, tmp_path, interval=0.01), Reporter()
    publisher.start()
    wait_for(lambda: store)
    assert (entry(store, tmp_path).state, entry(store, tmp_path).players) == ("starting", 2)
    reporter = publisher.observe(inner)
    reporter.progress(Progress(100, 1000, 50, 1.5, 2, 2, checkpoint_age=3.0))
    reporter.metrics(100, {"Buffer/size": 7})
    wait_for(lambda: entry(store, tmp_path).policy_steps == 100)
    running = entry(store, tmp_path)
    assert (running.state, running.mean_return, running.players_alive) == ("running", 1.5, 2)
    assert 0 <= running.updated - running.checkpoint < 60
    reporter.event("end", status="done", policy_steps=1000)
    reporter.close()
    publisher.close()
    assert entry(store, tmp_path).state == "finished"
    assert [name for name, _, _ in inner.calls] == ["progress", "metrics", "event", "close"]


def test_run_without_an_end_event_has_failed(config, store, tmp_path):
    """A run that fails before it has a reporter is published as failed."""
    publisher = RunPublisher(config, tmp_path)
    publisher.start()
    publisher.close()
    assert entry(store, tmp_path).state == "failed"


def test_failing_control_store_does_not_end_the_thread(config, store, tmp_path, monkeypatch):
    """The thread survives errors of the control store, and the next update repairs the entry."""
    failures = []

    def fail_twice(namespace, key, value):
        """Raise twice, then store the value."""
        if len(failures) < 2:
            failures.append(key)
            raise RuntimeError("no control store")
        store[key] = value

    monkeypatch.setattr(internals, "store_value", fail_twice)
    publisher = RunPublisher(config, tmp_path, interval=0.01)
    publisher.start()
    wait_for(lambda: str(tmp_path) in store)
    publisher.close()
    assert len(failures) == 2


def test_hanging_control_store_does_not_hold_up_the_end(config, store, tmp_path, monkeypatch):
    """The end of a run doesn't wait for a control store that hangs."""
    hung = threading.Event()
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(internals, "store_value", lambda *args: hung.wait(60))
    publisher = RunPublisher(config, tmp_path)
    publisher.start()
    publisher.close()
    assert publisher._thread.is_alive()
    hung.set()
    publisher._thread.join()


def test_entries_of_old_runs_are_removed(config, store, tmp_path):
    """A new run removes entries of runs that ended long ago, and those it can't read."""
    old = RunPublisher(config, tmp_path / "old").entry()
    for name, state, age in (("old", "finished", RETENTION + 1), ("new", "finished", 60), ("on", "running", 1e9)):
        fields = {**vars(old), "run": name, "state": state, "updated": time.time() - age}
        store[name] = RunEntry(**fields).to_json()
    store["damaged"] = "{"
    publisher = RunPublisher(config, tmp_path / "run")
    publisher.start()
    publisher.close()
    assert set(store) == {"new", "on", str(tmp_path / "run")}
