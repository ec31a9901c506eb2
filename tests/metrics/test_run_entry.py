"""Test the entry of a run in its cluster."""

from dataclasses import asdict, replace

import pytest

from sheeprl.metrics.run_entry import SILENT_AFTER, RunEntry

ENTRY = RunEntry(
    run="/home/me/logs/ppo/CartPole-v1/1_0",
    algorithm="ppo",
    environment="CartPole-v1",
    state="running",
    since=1000.0,
    updated=2000.0,
    node="head",
    job="01000000",
    policy_steps=10,
    total_steps=100,
    gradient_steps=5,
    mean_return=None,
    players_alive=1,
    players=2,
)


def test_json_restores_an_entry():
    """An entry survives JSON."""
    assert RunEntry.from_json(ENTRY.to_json()) == ENTRY


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": "a"}', '{"unknown": 1}', "null"])
def test_entries_of_other_versions_are_none(text):
    """Damaged entries, and those with other fields, are ignored."""
    assert RunEntry.from_json(text) is None


@pytest.mark.parametrize(
    ("run", "name"),
    [("/a/logs/ppo/x/1", "ppo/x/1"), ("/a/b", "/a/b"), ("/logs/ppo/logs/x", "x")],
)
def test_name_is_the_path_below_logs(run, name):
    """The name is the path below the last folder `logs`."""
    assert replace(ENTRY, run=run).name == name


@pytest.mark.parametrize(
    ("state", "jobs", "late", "current"),
    [
        ("running", {"01000000"}, 1, "running"),
        ("starting", {"01000000"}, 1, "starting"),
        ("running", {"02000000"}, 1, "failed"),
        ("starting", (), SILENT_AFTER + 1, "failed"),
        ("running", {"01000000"}, SILENT_AFTER + 1, "silent"),
        ("finished", (), 1e6, "finished"),
        ("stopped", {"01000000"}, 1e6, "stopped"),
        ("failed", (), 1, "failed"),
    ],
)
def test_current_state_knows_dead_and_frozen_drivers(state, jobs, late, current):
    """A dead driver's run has failed, a frozen driver's run is silent, an ended run stays as it ended."""
    assert replace(ENTRY, state=state).current_state(jobs, ENTRY.updated + late) == current


def test_fields_are_plain_values():
    """Each field is a value of JSON, so `sheeprl status --json` can print it."""
    assert all(value is None or isinstance(value, (str, int, float)) for value in asdict(ENTRY).values())
