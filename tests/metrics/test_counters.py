"""Test counters, the metrics window, periods and the failure budget."""

import json

import pytest

from sheeprl.actors.handle import LostError
from sheeprl.actors.messages import FragmentInfo, UpdateInfo
from sheeprl.actors.player import EnvFailedError
from sheeprl.driver.failures import FailureBudget
from sheeprl.metrics.counters import Counters, RunStats
from sheeprl.metrics.time_breakdown import TimeBreakdown
from sheeprl.utils.errors import RunFailedError


def some_stats():
    """Return statistics with a fragment and two updates."""
    stats = RunStats(Counters(), now=10.0)
    stats.record_fragment(FragmentInfo(0, 30, 32, (5.0, 7.0), (11, 12), seconds=2.0))
    stats.record_update(UpdateInfo(3, {"Loss/policy_loss": 0.5}, seconds=1.0, began=0.0))
    stats.record_update(UpdateInfo(6, {"Loss/policy_loss": 1.5}, seconds=3.0, began=1.0, compiling=2.0))
    stats.window.player_idle = 1.0
    return stats


def test_the_numbers_of_episodes_are_averaged():
    """The numbers of episode infos are averaged, also after a resume."""
    stats = RunStats(Counters(), 0.0)
    stats.record_fragment(FragmentInfo(0, 8, 8, (), (), 1.0, episode_numbers={"success": [1.0, 0.0], "a/b": [5.0]}))
    stats.record_fragment(FragmentInfo(0, 8, 8, (), (), 1.0, episode_numbers={"success": [1.0, 1.0]}))
    stats = RunStats.from_state_dict(json.loads(json.dumps(stats.state_dict(1.0))), 1.0)
    values = stats.metrics(2.0, players=1)
    assert (values["Episode/success"], values["Episode/a/b"]) == (0.75, 5.0)
    assert values["Episode/success_rate"] == 0.75
    stats.reset_window(2.0)
    stats.record_fragment(FragmentInfo(0, 8, 8, (), (), 1.0))
    assert not any(name.startswith("Episode/") for name in stats.metrics(3.0, players=1))


def test_a_retracted_fragment_is_not_counted():
    """A retracted fragment isn't counted."""
    stats = some_stats()
    stats.record_fragment(info := FragmentInfo(0, 7, 8, (), (), seconds=1.0))
    stats.retract_fragment(info)
    assert (stats.counters.policy_steps, stats.counters.rows) == (30, 32)


def test_metrics_of_a_window():
    """The metrics of a window are those expected."""
    stats = some_stats()
    values = stats.metrics(now=14.0, players=2)
    assert values["Rewards/rew_avg"] == 6.0
    assert values["Game/ep_len_avg"] == 11.5
    assert values["Loss/policy_loss"] == 1.0
    assert values["Time/sps"] == 30 / 4
    assert values["Time/sps_env_interaction"] == 30 * 2 / 2
    assert values["Time/sps_train"] == 6 / 2
    assert values["Time/compiling"] == 2 / 4
    assert values["Time/player_idle"] == 1 / (4 * 2)
    assert values["Params/replay_ratio"] == 6 / 30
    stats.reset_window(14.0)
    assert stats.metrics(15.0, 2) is None


def test_a_wait_is_divided_among_the_windows():
    """A wait is divided among the windows."""
    stats = some_stats()
    stats.window.player_idle = 0.0
    stats.start_wait(0, now=11.0)
    assert stats.metrics(now=14.0, players=1)["Time/player_idle"] == 3 / 4
    stats.reset_window(14.0)
    stats.record_fragment(FragmentInfo(0, 1, 1, (), (), seconds=1.0))
    stats.end_wait(0, now=15.0)
    later = stats.metrics(now=18.0, players=1)
    assert later["Time/player_idle"] == 1 / 4
    assert "Time/compiling" not in later
    assert stats.breakdown_until(18.0).players_idle == 4.0


def test_the_breakdown_is_the_sum_over_the_windows():
    """The breakdown is the sum over the windows, also after a resume."""
    stats = some_stats()
    stats.window.batch_wait = 0.5
    expected = TimeBreakdown(4.0, updating=2.0, compiling=2.0, waiting_for_batches=0.5, players_idle=1.0, playing=2.0)
    assert stats.breakdown_until(14.0) == expected
    stats.reset_window(14.0)
    stats.window.trainer_idle = 3.0
    assert stats.breakdown_until(18.0) == expected + TimeBreakdown(4.0, waiting_for_players=3.0)
    state = json.loads(json.dumps(stats.state_dict(now=18.0)))
    assert RunStats.from_state_dict(state, now=118.0).breakdown_until(118.0) == stats.breakdown_until(18.0)
    del state["spent"]  # as in checkpoints of older versions
    assert RunStats.from_state_dict(state, now=118.0).breakdown_until(118.0) == TimeBreakdown(
        4.0, waiting_for_players=3.0
    )


def test_a_resumed_run_continues_the_window():
    """A resumed run continues the window."""
    stats = some_stats()
    assert not stats.is_due("log", 100)
    state = json.loads(json.dumps(stats.state_dict(now=12.0)))
    resumed = RunStats.from_state_dict(state, now=500.0)
    assert resumed.counters == stats.counters
    assert resumed.metrics(502.0, 2) == stats.metrics(14.0, 2)
    assert resumed.mean_return == stats.mean_return == 6.0
    assert resumed.state_dict(500.0) == state


@pytest.mark.parametrize("interrupted", [False, True])
def test_an_action_is_due_once_per_period(interrupted):
    """An action is due once per period."""
    stats, due = RunStats(Counters(), 0.0), []
    for _ in range(10):
        stats.counters.policy_steps += 30
        if stats.is_due("log", 100):
            due.append(stats.counters.policy_steps)
        if interrupted:
            stats = RunStats.from_state_dict(stats.state_dict(0.0), 0.0)
    assert due == [120, 210, 300]
    assert not RunStats(Counters(policy_steps=500), 0.0).is_due("log", None)


@pytest.mark.parametrize("before", [100, None])
def test_a_changed_period_begins_where_the_run_is(before):
    """After a resume with another period, an action is due at the next multiple of the new one."""
    stats = RunStats(Counters(policy_steps=1020), 0.0)
    stats.is_due("log", before)
    resumed = RunStats.from_state_dict(stats.state_dict(0.0), 0.0)
    assert not resumed.is_due("log", 10_000) and not resumed.is_due("log", 25)
    resumed.counters.policy_steps = 1025
    assert resumed.is_due("log", 25)


def test_failures_are_counted_per_worker_and_window():
    """Failures are counted per worker within the time window."""
    now = [0.0]
    messages: list[tuple[str, str]] = []
    failures = FailureBudget(2, 10.0, lambda: now[0], lambda *words: messages.append(words))
    for worker in ("a", "a", "b"):
        failures.count(worker, "replaced", ValueError("no"))
    now[0] = 10.5
    failures.count("a", "replaced", ValueError("again"))
    failures.count("a", "replaced", ValueError("and again"))
    assert messages == [
        ("a failed and is replaced (1 of 2): no", "warning"),
        ("a failed and is replaced (2 of 2): no", "warning"),
        ("b failed and is replaced (1 of 2): no", "warning"),
        ("a failed and is replaced (1 of 2): again", "warning"),
        ("a failed and is replaced (2 of 2): and again", "warning"),
    ]
    with pytest.raises(RunFailedError, match=r"^a failed 3 times in 10 s \(ray\.max_failures=2\): again$"):
        failures.count("a", "replaced", ValueError("what followed"))
    assert len(messages) == 5


def test_losses_with_the_node_have_a_budget_of_their_own():
    """A worker that is lost with its node doesn't use up its failures."""
    messages: list[tuple[str, str]] = []
    failures = FailureBudget(1, 10.0, lambda: 0.0, lambda *words: messages.append(words), most_node_losses=2)
    for _ in range(2):
        failures.count("a", "replaced", LostError("preempted", with_node=True))
    failures.count("a", "replaced", LostError("killed"))
    assert [text for text, _ in messages] == [
        "a was lost with its node and is replaced (1 of 2): preempted",
        "a was lost with its node and is replaced (2 of 2): preempted",
        "a failed and is replaced (1 of 1): killed",
    ]
    with pytest.raises(RunFailedError, match=r"^a was lost with its node 3 times in 10 s \(ray\.max_node_losses=2\)"):
        failures.count("a", "replaced", LostError("preempted", with_node=True))


def test_a_failure_that_recurs_at_once_is_final():
    """A second failure of the same signature ends the run, unless the worker has worked in between."""
    failures = FailureBudget(9, 10.0, lambda: 0.0, lambda *words: None)
    failing, passing = EnvFailedError("no", signature="reset", advice="check x"), EnvFailedError("lost", signature="")
    failures.count("a", "replaced", failing)
    failures.count("b", "replaced", failing)
    failures.recovered("a")
    failures.count("a", "replaced", failing)
    for _ in range(3):
        failures.count("a", "replaced", passing)
    with pytest.raises(RunFailedError, match=r"^b failed again in the same way: no; check x$"):
        failures.count("b", "replaced", failing)
