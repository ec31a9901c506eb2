"""What is counted, when something is due, and who has failed too often."""

import json

import pytest

from sheeprl.actors.messages import FragmentInfo, UpdateInfo
from sheeprl.driver.failures import Failures
from sheeprl.metrics.counters import Books, Counters
from sheeprl.metrics.time_breakdown import Spent
from sheeprl.utils.errors import RunFailedError


def some_books():
    books = Books(Counters(), now=10.0)
    books.played(FragmentInfo(0, 30, 32, (5.0, 7.0), (11, 12), seconds=2.0))
    books.learned(UpdateInfo(3, {"Loss/policy_loss": 0.5}, seconds=1.0, began=0.0))
    books.learned(UpdateInfo(6, {"Loss/policy_loss": 1.5}, seconds=3.0, began=1.0, compiling=2.0))
    books.window.player_idle = 1.0
    return books


def test_a_fragment_that_is_given_up_is_not_counted():
    books = some_books()
    books.played(info := FragmentInfo(0, 7, 8, (), (), seconds=1.0))
    books.given_up(info)
    assert (books.counters.policy_steps, books.counters.rows) == (30, 32)


def test_metrics_of_a_window():
    books = some_books()
    values = books.metrics(now=14.0, players=2)
    assert values["Rewards/rew_avg"] == 6.0
    assert values["Game/ep_len_avg"] == 11.5
    assert values["Loss/policy_loss"] == 1.0
    assert values["Time/sps"] == 30 / 4
    assert values["Time/sps_env_interaction"] == 30 * 2 / 2
    assert values["Time/sps_train"] == 6 / 2
    assert values["Time/compiling"] == 2 / 4
    assert values["Time/player_idle"] == 1 / (4 * 2)
    assert values["Params/replay_ratio"] == 6 / 30
    books.turn_page(14.0)
    assert books.metrics(15.0, 2) is None


def test_a_long_wait_is_shared_out_over_the_windows_that_it_lasts():
    books = some_books()
    books.window.player_idle = 0.0
    books.waits(0, now=11.0)
    assert books.metrics(now=14.0, players=1)["Time/player_idle"] == 3 / 4
    books.turn_page(14.0)
    books.played(FragmentInfo(0, 1, 1, (), (), seconds=1.0))
    books.goes_on(0, now=15.0)
    later = books.metrics(now=18.0, players=1)
    assert later["Time/player_idle"] == 1 / 4
    assert "Time/compiling" not in later
    assert books.spent_until(18.0).players_idle == 4.0


def test_where_the_time_went_is_added_up_over_the_windows():
    books = some_books()
    books.window.batch_wait = 0.5
    expected = Spent(4.0, updating=2.0, compiling=2.0, waiting_for_batches=0.5, players_idle=1.0, playing=2.0)
    assert books.spent_until(14.0) == expected
    books.turn_page(14.0)
    books.window.trainer_idle = 3.0
    assert books.spent_until(18.0) == expected + Spent(4.0, waiting_for_players=3.0)
    plain = json.loads(json.dumps(books.to_plain(now=18.0)))
    assert Books.from_plain(plain, now=118.0).spent_until(118.0) == books.spent_until(18.0)
    del plain["spent"]  # as in checkpoints of before
    assert Books.from_plain(plain, now=118.0).spent_until(118.0) == Spent(4.0, waiting_for_players=3.0)


def test_a_resumed_run_goes_on_with_the_window():
    books = some_books()
    assert not books.due("log", 100)
    plain = json.loads(json.dumps(books.to_plain(now=12.0)))
    resumed = Books.from_plain(plain, now=500.0)
    assert resumed.counters == books.counters
    assert resumed.metrics(502.0, 2) == books.metrics(14.0, 2)
    assert resumed.mean_return == books.mean_return == 6.0
    assert resumed.to_plain(500.0) == plain


@pytest.mark.parametrize("interrupted", [False, True])
def test_what_is_due_is_due_once(interrupted):
    books, due = Books(Counters(), 0.0), []
    for _ in range(10):
        books.counters.policy_steps += 30
        if books.due("log", 100):
            due.append(books.counters.policy_steps)
        if interrupted:
            books = Books.from_plain(books.to_plain(0.0), 0.0)
    assert due == [120, 210, 300]
    assert not Books(Counters(policy_steps=500), 0.0).due("log", None)


def test_failures_are_counted_by_who_failed_and_for_a_while():
    now = [0.0]
    told: list[tuple[str, str]] = []
    failures = Failures(2, 10.0, lambda: now[0], lambda *words: told.append(words))
    for who in ("a", "a", "b"):
        failures.count(who, "replaced", ValueError("no"))
    now[0] = 10.5
    failures.count("a", "replaced", ValueError("again"))
    failures.count("a", "replaced", ValueError("and again"))
    assert told == [
        ("a is replaced (1 of 2): no", "warning"),
        ("a is replaced (2 of 2): no", "warning"),
        ("b is replaced (1 of 2): no", "warning"),
        ("a is replaced (1 of 2): again", "warning"),
        ("a is replaced (2 of 2): and again", "warning"),
    ]
    with pytest.raises(RunFailedError, match=r"^a has failed once too often: again \(ray\.max_failures=2\)$"):
        failures.count("a", "replaced", ValueError("what followed"))
    assert len(told) == 5
