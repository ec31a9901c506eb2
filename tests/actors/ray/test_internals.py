"""Test the uses of Ray's private API: hidden messages, and the start of its processes."""

import os
import signal

import pytest
from ray._private import node, services, utils, worker

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


def test_idle_services_are_not_started_within_the_block():
    """Within the block Ray starts none of the services that a run's own Ray doesn't use; they exist in this version."""
    before = {name: getattr(node.Node, name) for name in internals.IDLE_SERVICES}
    with internals.without_idle_services():
        assert node.Node.start_api_server(None, include_dashboard=False, raise_on_failure=False) is None
        assert node.Node.start_monitor(None) is None and node.Node.start_log_monitor(None) is None
    assert {name: getattr(node.Node, name) for name in internals.IDLE_SERVICES} == before


def test_only_the_driver_handles_signals():
    """Ray's processes don't receive the signals of the driver's process group."""
    before = signal.getsignal(signal.SIGTERM)
    with internals.apart_from_signals():
        utils.set_sigterm_handler(lambda number, frame: None)
        process = services.start_ray_process(["sleep", "60"], "raylet", fate_share=False).process
    try:
        assert os.getsid(process.pid) == process.pid
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        process.kill()
        process.wait()
