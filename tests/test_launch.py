"""What is decided once it is known where the learner will be."""

import asyncio
import subprocess
from contextlib import nullcontext

import pytest

from sheeprl.config import defaults
from sheeprl.config.loading import validate
from sheeprl.launch import Control, _told_of_cores, _unless_services_die, _with_accelerator, train_tree
from sheeprl.utils.errors import RunFailedError
from sheeprl.utils.process import StopSignals, exclusive


@pytest.mark.parametrize(("accelerator", "compiles"), [("cpu", True), ("cuda", True), ("mps", False)])
def test_steps_are_compiled_for_cpu_and_cuda(accelerator, compiles):
    tree = {"algo": {"name": "ppo"}, "env": {"id": "none"}, "trainer": {"compile": True}}
    found = _with_accelerator(defaults.fill_in(validate(tree)), accelerator)
    assert (found.trainer.accelerator, found.trainer.compile) == (accelerator, compiles)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"players": {"num": 3}, "trainer": {"threads": 1}}, None),
        (
            {"players": {"num": 4}, "trainer": {"threads": 1}},
            "4 players and 1 thread of the trainer share 4 cores: lower players.num or trainer.threads, or players.cpus"
            " if the environments wait rather than compute",
        ),
        ({"players": {"num": 30, "cpus": 0.1}, "trainer": {"threads": 1}}, None),
        ({"players": {"num": 9}, "ray": {"address": "10.0.0.1:6379"}}, None),
        ({"run": {"mode": "coupled"}, "trainer": {"threads": 4}}, None),
        (
            {"run": {"mode": "coupled"}, "trainer": {"threads": 5}},
            "5 threads of the trainer share 4 cores: lower trainer.threads",
        ),
    ],
)
def test_more_than_there_are_cores_for_is_told(monkeypatch, settings, told):
    monkeypatch.setattr(defaults, "available_cores", lambda: 4)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    tree = {"algo": {"name": "ppo"}, "env": {"id": "none"}}
    assert _told_of_cores(defaults.fill_in(validate(tree | settings))) == told


def test_on_one_core_the_least_that_there_can_be_is_not_told(monkeypatch):
    monkeypatch.setattr(defaults, "available_cores", lambda: 1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert _told_of_cores(defaults.fill_in(validate({"algo": {"name": "ppo"}, "env": {"id": "none"}}))) is None


def test_a_second_run_in_a_process_is_refused():
    with exclusive("the run"), pytest.raises(RunFailedError, match="this process already has a run"):
        train_tree({"algo": {"name": "ppo"}, "env": {"id": "CartPole-v1"}})


def check_waiting(pid, *, raises, work):
    async def wait():
        control = Control(StopSignals(), services={"the service": pid})
        await _unless_services_die(control, asyncio.ensure_future(work()))

    with pytest.raises(RunFailedError, match="the service on this machine died") if raises else nullcontext():
        asyncio.run(wait())


async def never():
    await asyncio.get_running_loop().create_future()


async def fail():
    raise OSError("connection lost")


def test_a_dead_service_ends_the_wait_and_explains_other_failures(monkeypatch):
    monkeypatch.setattr("sheeprl.launch.SERVICE_CHECK_SECONDS", 0.01)
    service = subprocess.Popen(["sleep", "60"])
    check_waiting(service.pid, raises=False, work=fail)  # the caller reads the failure
    service.kill()
    service.wait()
    check_waiting(service.pid, raises=True, work=never)
    check_waiting(service.pid, raises=True, work=fail)
