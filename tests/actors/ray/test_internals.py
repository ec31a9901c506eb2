"""What Ray is kept from saying, since the run says it in a line."""

import pytest
from ray._private import worker

from sheeprl.actors.ray import internals


@pytest.fixture
def shown(monkeypatch):
    """What gets past the run, line by line."""
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
def test_rays_pages_about_losses_are_not_shown(shown, page):
    worker.print_to_stdstream({"lines": [page], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert not shown


def test_the_rest_is_shown(shown):
    worker.print_to_stdstream({"lines": ["the disk is full"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    assert shown == ["the disk is full"]
