"""Test the time breakdown and its suggestions."""

import pytest

from sheeprl.algos.args import OffPolicy, OnPolicy
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.metrics.time_breakdown import StartupTimer, TimeBreakdown, describe, in_short, suggest
from tests.helpers.driver_config import NEVER, driver_config

ON_POLICY, OFF_POLICY = OnPolicy(4, None, 1), OffPolicy(8, 1.0)


def with_settings(config, **sections):
    """Return the configuration with other settings, given by section."""
    updates = {name: getattr(config, name).model_copy(update=update) for name, update in sections.items()}
    return config.model_copy(update=updates)


def overlapping(data=OFF_POLICY, players=2, max_staleness=1, **trainer):
    """Return a decoupled configuration on a CPU, with one thread."""
    config = driver_config(data, NEVER, players, 4, max_staleness)
    return with_settings(config, trainer={"accelerator": "cpu", "threads": 1, "compile": True, **trainer})


DECOUPLED = overlapping()
COUPLED = with_settings(overlapping(ON_POLICY, players=1, max_staleness=0), run={"mode": "coupled"})
SMALL_NETWORKS = DECOUPLED.model_copy(
    update={"algo": PPOArgs(name="ppo", rollout_steps=4, batch_size=8, hidden_sizes=[64, 64])}
)
ON_CLUSTER = with_settings(DECOUPLED, ray={"address": "10.0.0.1:6379"})
COUPLED_OFF_POLICY = with_settings(overlapping(players=1), run={"mode": "coupled"})


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Pretend that this machine has four cores and a compiler."""
    monkeypatch.setattr("sheeprl.metrics.time_breakdown.available_cores", lambda: 4)
    monkeypatch.setattr("sheeprl.config.defaults.has_compiler", lambda: True)


@pytest.mark.parametrize(
    ("breakdown", "config", "expected"),
    [
        (TimeBreakdown(), DECOUPLED, None),
        (
            TimeBreakdown(100, updating=50, waiting_for_players=40),
            DECOUPLED,
            "trainer waits for players 40 %: raise players.num or players.cpus",
        ),
        (
            TimeBreakdown(100, updating=50, waiting_for_players=40),
            overlapping(max_staleness=0),
            "trainer waits for players 40 %: raise players.num or players.cpus, or set run.max_staleness=1",
        ),
        (
            TimeBreakdown(100, updating=30, waiting_for_players=2, playing=70),
            COUPLED,
            "playing takes 70 %: set run.mode=decoupled and run.max_staleness=1, or env.vectorization=async if steps "
            "are slow",
        ),
        (
            TimeBreakdown(100, updating=30, waiting_for_players=2, playing=70),
            COUPLED_OFF_POLICY,
            "playing takes 70 %: set run.mode=decoupled, or env.vectorization=async if steps are slow",
        ),
        (
            TimeBreakdown(100, updating=50, waiting_for_batches=30, waiting_for_players=10),
            DECOUPLED,
            "trainer waits for batches 30 %: raise trainer.prefetch or buffer.shards",
        ),
        (TimeBreakdown(100, updating=50, checkpoints=25), DECOUPLED, "checkpoints take 25 %: raise checkpoint.every"),
        (
            TimeBreakdown(100, updating=90, players_idle=120),
            DECOUPLED,
            "trainer updates 90 %: raise trainer.threads or trainer.devices",
        ),
        (
            TimeBreakdown(100, updating=90, players_idle=120),
            overlapping(compile=False),
            "trainer updates 90 %: set trainer.compile=true, or raise trainer.threads or trainer.devices",
        ),
        (
            TimeBreakdown(100, updating=90, players_idle=120),
            overlapping(threads=3),
            "trainer updates 90 %: add cores or a GPU, since all are in use",
        ),
        (
            TimeBreakdown(100, updating=90, players_idle=120),
            overlapping(threads=3, accelerator="cuda"),
            "trainer updates 90 %: raise trainer.devices",
        ),
        (TimeBreakdown(9, updating=3, playing=6), COUPLED, None),  # too short
        (
            TimeBreakdown(50, updating=20, playing=30),
            COUPLED,
            "playing takes 60 %: set env.vectorization=async if steps are slow",
        ),
        (
            TimeBreakdown(100, updating=10, playing=90),
            COUPLED,
            "playing takes 90 %: set env.vectorization=async if steps are slow",
        ),
        (TimeBreakdown(100, updating=90, players_idle=120), SMALL_NETWORKS, None),
        (
            TimeBreakdown(100, updating=30, playing=30, waiting_for_players=60),
            DECOUPLED,
            "run.mode=coupled would take about 40 % less time",
        ),
        (
            TimeBreakdown(100, updating=30, playing=60, waiting_for_players=60),
            DECOUPLED,
            "trainer waits for players 60 %: raise players.num or players.cpus",
        ),
        (
            TimeBreakdown(100, updating=30, playing=30, waiting_for_players=60),
            ON_CLUSTER,
            "trainer waits for players 60 %: raise players.num or players.cpus",
        ),
        (TimeBreakdown(100, updating=90, players_idle=10), DECOUPLED, None),  # both are busy
        (
            TimeBreakdown(100, updating=40, waiting_for_players=10),
            DECOUPLED,
            None,
        ),  # overhead, for which there is no remedy
    ],
)
def test_a_suggestion_names_bottleneck_and_remedy(breakdown, config, expected):
    """A suggestion names the bottleneck and a remedy."""
    assert suggest(breakdown, config) == expected
    assert in_short(breakdown, config) == (expected and expected.partition(":")[0])


def test_one_line_describes_the_whole_time():
    """One line describes the whole time."""
    breakdown = TimeBreakdown(
        200, updating=80, compiling=20, waiting_for_players=50, waiting_for_batches=0.5, players_idle=80, playing=60
    )
    expected = "updating 40 %, compiling 10 %, waiting for players 25 %, other 25 %; players idle 20 %"
    assert describe(breakdown, DECOUPLED) == expected
    assert describe(breakdown, COUPLED) == "updating 40 %, compiling 10 %, playing 30 %, other 20 %"
    assert breakdown + breakdown == TimeBreakdown(400, 160, 40, 100, 1.0, 0.0, 160, 120)


def test_start_up_adds_up_its_parts():
    """The start-up time is the sum of its phases."""
    times = iter([10.0, 12.0, 15.5, 16.0])
    startup = StartupTimer(lambda: next(times))
    for part in ("imports", "Ray", "imports"):
        startup.done(part)
    assert startup.parts == {"imports": 2.5, "Ray": 3.5}
    assert str(startup) == "start-up: 6.0 s (imports 2.5, Ray 3.5)"
