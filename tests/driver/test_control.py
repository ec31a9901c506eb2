"""Services that a run depends on."""

import asyncio
import subprocess
from contextlib import nullcontext

import pytest

from sheeprl.driver.control import Control
from sheeprl.utils.errors import RunFailedError
from sheeprl.utils.process import StopSignals


def check_waiting(pid, *, raises, work):
    """Wait for some work beside a service and check whether the death of the service is reported."""

    async def wait():
        """Wait for the work."""
        control = Control(StopSignals(), services={"the service": pid})
        await control.wait_unless_services_die(asyncio.ensure_future(work()))

    with pytest.raises(RunFailedError, match="the service on this machine died") if raises else nullcontext():
        asyncio.run(wait())


async def never():
    """Never end."""
    await asyncio.get_running_loop().create_future()


async def fail():
    """Raise an error that the death of a service causes."""
    raise OSError("connection lost")


def test_a_dead_service_ends_the_wait_and_explains_other_failures(monkeypatch):
    """A dead service ends the wait and explains other failures."""
    monkeypatch.setattr("sheeprl.driver.control.SERVICE_CHECK_SECONDS", 0.01)
    service = subprocess.Popen(["sleep", "60"])
    check_waiting(service.pid, raises=False, work=fail)  # the caller reads the failure
    service.kill()
    service.wait()
    check_waiting(service.pid, raises=True, work=never)
    check_waiting(service.pid, raises=True, work=fail)
