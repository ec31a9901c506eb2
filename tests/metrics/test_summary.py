"""Lines at the start and the end of a run."""

from pathlib import Path

import pytest

from sheeprl.config import defaults
from sheeprl.config.loading import validate
from sheeprl.metrics import summary
from sheeprl.metrics.counters import Counters
from sheeprl.metrics.time_breakdown import TimeBreakdown

TREE = {"algo": {"name": "ppo"}, "env": {"id": "CartPole-v1"}}


def resolved(**sections):
    """Return a configuration with all defaults."""
    return defaults.fill_in(validate(TREE | sections))


@pytest.fixture
def cores(monkeypatch):
    """Set the number of cores of this machine to the value it is called with."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def pretend(number):
        """Pretend a number of cores."""
        monkeypatch.setattr(defaults, "available_cores", lambda: number)
        monkeypatch.setattr(summary, "available_cores", lambda: number)

    return pretend


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ({"players": {"num": 3}, "trainer": {"threads": 1}}, None),
        (
            {"players": {"num": 4}, "trainer": {"threads": 1}},
            "4 players and 1 thread of the trainer share 4 cores: lower players.num or trainer.threads, or players.cpus"
            " if the environments wait rather than compute",
        ),
        ({"players": {"num": 4, "max": 1}, "trainer": {"threads": 1}}, None),  # one process with all players
        (
            {"players": {"num": 30, "max": 4}, "trainer": {"threads": 1}},
            "4 hosts and 1 thread of the trainer share 4 cores: lower players.max or trainer.threads, or players.cpus"
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
def test_too_many_processes_and_threads_give_a_warning(cores, settings, warning):
    """More processes and threads than cores give a warning, except on a cluster."""
    cores(4)
    assert summary.core_warning(resolved(**settings)) == warning


def test_the_smallest_run_gives_no_warning_on_one_core(cores):
    """One player and one thread give no warning, even on one core."""
    cores(1)
    assert summary.core_warning(resolved()) is None


def test_the_opening_line_describes_the_run(cores):
    """The opening line names algorithm, environment, workers and device."""
    cores(4)
    config = resolved(players={"num": 2}, trainer={"accelerator": "cpu", "compile": False})
    assert summary.opening_line(config) == (
        "ppo on CartPole-v1, decoupled: 2 players with 4 environments (and 10 for evaluation), 1 rank on cpu with "
        "1 thread"
    )


@pytest.mark.parametrize(
    ("status", "shown", "command"),
    [("done", "finished", "eval"), ("interrupted", "stopped", "resume"), ("failed", "failed", "resume")],
)
def test_the_closing_lines_end_with_the_next_command(status, shown, command):
    """The closing lines have the time breakdown, the result and the next command."""
    breakdown = TimeBreakdown(4.0, updating=2.0)
    lines = summary.closing_lines(
        resolved(), Path("my runs/a"), status, Counters(policy_steps=1000, gradient_steps=20), breakdown, 3.21, 4.4
    )
    assert lines == [
        "time: updating 50 %, other 50 %; players idle 0 %; start-up 3.2 s",
        f"{shown}: 1,000 policy steps and 20 gradient steps in 4 s; sheeprl {command} 'my runs/a'",
    ]
