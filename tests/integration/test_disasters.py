"""Invariants of runs with random failures (see disasters.py), and proof that broken ones are detected."""

import pytest

from sheeprl.driver.collection import Collector
from sheeprl.driver.replay import ReplayClient
from sheeprl.run import Run
from tests.helpers.disasters import Learner, Rows, draw_schedule, play

PARTS, PART = 8, 60


@pytest.mark.parametrize("part", range(PARTS))
def test_random_failures_break_no_invariant(part: int) -> None:
    """Random failures break no invariant."""
    for seed in range(part * PART, (part + 1) * PART):
        play(draw_schedule(seed))


def test_a_rollout_lost_during_a_stop_is_not_counted() -> None:
    """A rollout that is lost during a stop isn't counted."""
    world = play(draw_schedule(5379))
    assert world.happened["stop"] and world.happened["node"]


def test_a_schedule_is_deterministic() -> None:
    """The same schedule gives the same run, and all kinds of disasters occur."""
    worlds = [play(draw_schedule(7)) for _ in range(2)]
    assert worlds[0].reporter.messages == worlds[1].reporter.messages
    assert worlds[0].taken == worlds[1].taken
    kinds = sum((play(draw_schedule(seed)).happened for seed in range(200)), start=worlds[0].happened)
    assert len(kinds) == 9 and min(kinds.values()) > 20


def outcome(seed: int) -> str:
    """Return the error of a schedule; "" if it succeeds."""
    try:
        play(draw_schedule(seed))
    except Exception as error:  # a broken program can raise anything
        return str(error) or type(error).__name__
    return ""


def first_failure() -> str:
    """Return the error of the first schedule that fails."""
    return next(filter(None, map(outcome, range(400))), "nothing")


def test_a_duplicated_fragment_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that adds a fragment twice is detected."""
    monkeypatch.setattr(Rows, "add", lambda self, fragment: self.fragments.append(fragment))
    assert first_failure() == "a stream goes back"


def test_uncounted_lost_rows_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost rows that aren't counted are detected."""
    monkeypatch.setattr(Run, "lost_rows", property(lambda self: 0))
    assert "lost" in first_failure()


def test_missing_gradient_steps_are_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing gradient steps after a rebuild are detected."""
    restore = Learner.restore

    def restore_one_step_too_many(self: Learner, data: tuple[int, list[tuple[int, ...]]]) -> int:
        """Restore, and count one gradient step too many."""
        restore(self, data)
        return self.gradient_steps + 1

    monkeypatch.setattr(Learner, "restore", restore_one_step_too_many)
    assert first_failure() != "nothing"


def test_a_save_inside_a_round_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that isn't of a border between rounds is detected."""
    monkeypatch.setattr("sheeprl.run.SNAPSHOT_REST", 0)  # many snapshots make it likely
    save = ReplayClient.save
    monkeypatch.setattr(ReplayClient, "save", lambda self, folder, while_adding=False: save(self, folder))
    assert first_failure() == "a row is stored that was never reported"


def test_a_deadlock_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadlock is detected."""

    def first_round_only(self, round_number):
        """Allow the first round only."""
        return self.published is not None and round_number == 0

    monkeypatch.setattr(Collector, "may_collect", first_round_only)
    assert first_failure().startswith(("deadlock", "no end after"))
