"""Whatever happens to a run, it keeps its promises (see disasters.py); and these would be seen to be broken."""

import pytest

from sheeprl.driver.collection import Collector
from sheeprl.driver.replay import ReplayClient
from sheeprl.run import Run
from tests.helpers.disasters import Learner, Rows, draw_schedule, play

PARTS, PART = 8, 60


@pytest.mark.parametrize("part", range(PARTS))
def test_a_run_keeps_its_promises_whatever_happens(part: int) -> None:
    for seed in range(part * PART, (part + 1) * PART):
        play(draw_schedule(seed))


def test_a_rollout_that_is_lost_while_the_run_is_to_stop_was_never_played() -> None:
    world = play(draw_schedule(5379))
    assert world.happened["stop"] and world.happened["node"]


def test_what_happens_is_what_was_drawn() -> None:
    worlds = [play(draw_schedule(7)) for _ in range(2)]
    assert worlds[0].reporter.messages == worlds[1].reporter.messages
    assert worlds[0].taken == worlds[1].taken
    kinds = sum((play(draw_schedule(seed)).happened for seed in range(200)), start=worlds[0].happened)
    assert len(kinds) == 9 and min(kinds.values()) > 20


def outcome(seed: int) -> str:
    """What a schedule breaks; "" if it goes well."""
    try:
        play(draw_schedule(seed))
    except Exception as error:  # whatever a broken program does
        return str(error) or type(error).__name__
    return ""


def first_that_fails() -> str:
    """What the first schedule that doesn't go well breaks."""
    return next(filter(None, map(outcome, range(400))), "nothing")


def test_a_shard_that_takes_a_fragment_twice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rows, "add", lambda self, fragment: self.fragments.append(fragment))
    assert first_that_fails() == "a stream goes back"


def test_rows_that_are_lost_and_not_counted_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "lost_rows", property(lambda self: 0))
    assert "lost" in first_that_fails()


def test_gradient_steps_that_are_not_taken_again_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = Learner.restore

    def forget_what_was_lost(self: Learner, data: tuple[int, list[tuple[int, ...]]]) -> int:
        restore(self, data)
        return self.gradient_steps + 1

    monkeypatch.setattr(Learner, "restore", forget_what_was_lost)
    assert first_that_fails() != "nothing"


def test_a_save_that_is_not_of_a_rounds_border_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    save = ReplayClient.save
    monkeypatch.setattr(ReplayClient, "save", lambda self, folder, while_adding=False: save(self, folder))
    assert first_that_fails() == "a row that nobody was told of"


def test_a_run_that_waits_for_ever_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_round_only(self, round_number):
        return self.published is not None and round_number == 0

    monkeypatch.setattr(Collector, "may_collect", first_round_only)
    assert first_that_fails().startswith(("deadlock", "still going on"))
