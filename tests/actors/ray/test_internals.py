"""Test which of Ray's messages are hidden, because the run reports the loss itself."""

import pytest
from ray._private import worker

from sheeprl.actors.ray import internals


@pytest.fixture
def shown(monkeypatch):
    """Return the list of lines that are shown."""
    shown = []
    monkeypatch.setattr(worker, "print_to_stdstream", lambda data, ignore_prefix: shown.extend(data["lines"]))
    internals.leave_losses_to_the_run()
    return shown


@pytest.mark.parametrize(
    "page",
    [
        "A worker died or was killed while executing a task. To troubleshoot …",
        "Raylet is terminated. Termination is unexpected. Possible reasons include: …\n    [state-dump]",
        "The node with node id: 4ab5 and address: 10.0.0.1 has been marked dead because the detector …",
    ],
)
def test_messages_about_losses_are_hidden(shown, page):
    """Ray's messages about losses are hidden."""
    worker.print_to_stdstream({"lines": [page], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert not shown


def test_other_messages_are_shown(shown):
    """Other messages are shown."""
    worker.print_to_stdstream({"lines": ["the disk is full"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert shown == ["the disk is full"]
