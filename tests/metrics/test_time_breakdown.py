"""Test the time breakdown and its suggestions."""

import pytest

from sheeprl.metrics.time_breakdown import Setting, StartupTimer, TimeBreakdown, describe, in_short, suggest

DECOUPLED = Setting(coupled=False, overlaps=True, players=2)
COUPLED = Setting(coupled=True, overlaps=False, players=1)


@pytest.mark.parametrize(
    ("breakdown", "setting", "expected"),
    [
        (TimeBreakdown(), DECOUPLED, None),
        (
            TimeBreakdown(100, updating=50, waiting_for_players=40),
            DECOUPLED,
            "trainer waits for players 40 %: raise players.num or players.cpus",
        ),
        (
            TimeBreakdown(100, updating=50, waiting_for_players=40),
            Setting(coupled=False, overlaps=False, players=2),
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
            Setting(coupled=True, overlaps=True, players=1),
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
            Setting(coupled=False, overlaps=True, players=2, compiles=False),
            "trainer updates 90 %: set trainer.compile=true, or raise trainer.threads or trainer.devices",
        ),
        (
            TimeBreakdown(100, updating=90, players_idle=120),
            Setting(coupled=False, overlaps=True, players=2, threads_left=False),
            "trainer updates 90 %: all cores are in use; add cores or a GPU",
        ),
        (
            TimeBreakdown(100, updating=90, players_idle=120),
            Setting(coupled=False, overlaps=True, players=2, threads_left=False, on_gpu=True),
            "trainer updates 90 %: raise trainer.devices",
        ),
        (TimeBreakdown(100, updating=90, players_idle=10), DECOUPLED, None),  # both are busy
        (
            TimeBreakdown(100, updating=40, waiting_for_players=10),
            DECOUPLED,
            None,
        ),  # overhead, for which there is no remedy
    ],
)
def test_a_suggestion_names_bottleneck_and_remedy(breakdown, setting, expected):
    """A suggestion names the bottleneck and a remedy."""
    assert suggest(breakdown, setting) == expected
    assert in_short(breakdown, setting) == (expected and expected.partition(":")[0])


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
