"""Start of a run: accelerator and exclusive use of the process."""

import asyncio
import signal

import pytest

from sheeprl import session
from sheeprl.callbacks.base import Callback
from sheeprl.config import defaults
from sheeprl.config.loading import load_config, validate
from sheeprl.driver.collection import Collector
from sheeprl.launch import _with_accelerator, train, train_tree
from sheeprl.utils.errors import ConfigError, RunFailedError
from sheeprl.utils.process import Interrupted, exclusive
from tests.helpers.runs import QUIET


@pytest.mark.parametrize(("accelerator", "compiles"), [("cpu", True), ("cuda", True), ("mps", False)])
def test_steps_are_compiled_for_cpu_and_cuda(accelerator, compiles):
    """Steps are compiled for CPU and CUDA."""
    tree = {"algo": {"name": "ppo"}, "env": {"id": "none"}, "trainer": {"compile": True}}
    found = _with_accelerator(defaults.fill_in(validate(tree)), accelerator)
    assert (found.trainer.accelerator, found.trainer.compile) == (accelerator, compiles)


def test_a_second_run_in_a_process_is_refused():
    """A second run in a process is refused."""
    with exclusive("the run"), pytest.raises(RunFailedError, match="this process already has a run"):
        train_tree({"algo": {"name": "ppo"}, "env": {"id": "CartPole-v1"}})


def test_train_refuses_a_name():
    """`train` refuses the name of a configuration and says how to load it."""
    with pytest.raises(ConfigError, match=r"needs a Config, not str; use train\(load_config\('ppo'\)\)"):
        train("ppo")


class NotACallback:
    """Object of another class than a callback."""


@pytest.mark.parametrize(
    ("callbacks", "mistake"),
    [
        ([NotACallback()], "callbacks[0]: NotACallback: is no class derived from sheeprl.Callback"),
        ([NotACallback], "callbacks[0]: NotACallback: is no class derived from sheeprl.Callback"),
        ([Callback(), Callback], "callbacks[1]: Callback: is a class, not a callback; use Callback(...)"),
        (NotACallback(), "callbacks: must be a list of callbacks, not NotACallback; use callbacks=[NotACallback(...)]"),
    ],
)
def test_train_refuses_other_objects_as_callbacks(callbacks, mistake):
    """Nothing starts if an object isn't a callback."""
    with pytest.raises(ConfigError) as caught:
        train_tree({}, callbacks)
    assert caught.value.mistakes == [mistake]


@pytest.mark.parametrize("named", [False, True])
def test_a_run_stopped_before_its_first_round_leaves_nothing(tmp_path, monkeypatch, capsys, named):
    """Its folder is removed, and the same command starts it again."""

    async def start_players(collector):
        """Interrupt the run while its players start."""
        signal.raise_signal(signal.SIGTERM)
        await asyncio.Event().wait()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Collector, "start_players", start_players)
    settings = ["run.mode=coupled", *QUIET, "log.level=warning", *([f"run.dir={tmp_path / 'run'}"] if named else [])]
    with pytest.raises(Interrupted):
        train(load_config("ppo", settings))
    stopped = "warning: stopped without saving a checkpoint; its folder is removed; start it again\n"
    assert capsys.readouterr().err.endswith(stopped)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not (tmp_path / "run").exists()


def test_a_ray_job_is_stopped_within_its_time(monkeypatch):
    """After SIGTERM, a Ray job waits two thirds of the time until it is killed; other runs wait their own time."""
    monkeypatch.delenv("RAY_JOB_STOP_WAIT_TIME_S", raising=False)
    assert session.patience(signal.SIGTERM) == 2.0
    monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", "60")
    assert session.patience(signal.SIGTERM) == 40.0 and session.patience(signal.SIGINT) == 10.0


def test_the_line_at_a_signal_names_what_stops_the_run_at_once():
    """Ctrl-C is named after SIGINT only; a process without a terminal gets another signal."""
    assert "press Ctrl-C again" in session.stop_notice(signal.SIGINT)
    for number in (signal.SIGTERM, signal.SIGHUP):
        assert "Ctrl-C" not in session.stop_notice(number) and "another signal" in session.stop_notice(number)
