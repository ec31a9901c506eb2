"""Test runs whose hosts come, go, are drained and die, with simulated workers in virtual time (see simulation.py)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sheeprl.algos.args import OffPolicy, OnPolicy
from tests.helpers.simulation import (
    Delays,
    FleetEvent,
    Hosts,
    Leg,
    PlayerFailure,
    Schedule,
    schedules,
    simulate,
    uniform,
)
from tests.test_run import check_replay_ratio

SAC = OffPolicy(batch_size=4, replay_ratio=0.5, learning_starts=8)
PPO = OnPolicy(rollout_steps=2, batch_size=4, epochs=2)


@st.composite
def _events(draw: st.DrawFn) -> tuple[FleetEvent, ...]:
    """Draw changes of the fleet with up to two deaths of a process: a third one in a fragment begins new episodes."""
    kinds = st.sampled_from(["drain", "drain", "die", "node"])
    events = draw(st.lists(st.builds(FleetEvent, at=uniform(0, 60), kind=kinds, host=uniform(0, 7)), max_size=8))
    deaths = [event for event in events if event.kind == "die"]
    return tuple(event for event in events if event not in deaths[2:])


_state_seconds = st.sampled_from([0.0, 0.05, 0.5])  # a state after every fragment, every 3 or 25


@st.composite
def fleets(draw: st.DrawFn, max_staleness: int = 1) -> Schedule:
    """Draw schedules of runs with hosts."""
    schedule = draw(schedules(calm=True, max_staleness=max_staleness))
    most = draw(uniform(1, schedule.players))
    starts = draw(st.lists(st.sampled_from([0, 1, 3, 10, 40]), min_size=1, max_size=4).map(tuple))
    hosts = Hosts(draw(uniform(1, most)), most, starts, draw(_events()))
    return replace(schedule, hosts=hosts, state_seconds=draw(_state_seconds))


def log_of(leg: Leg) -> list[tuple[Any, ...]]:
    """Return the fragments offered to each shard, and the updates."""
    offers = [offer.fragment for offer in sorted(leg.world.buffer.offered, key=lambda offer: offer.shard)]
    played = [tuple(value for name, value in vars(each).items() if name != "weights") for each in offers]
    updates = [(each.steps, each.progress, each.order) for each in leg.world.learner.log if hasattr(each, "steps")]
    return [*played, *updates]


def check_fleet(schedule: Schedule) -> None:
    """Check that a run whose hosts come, go and die is that of a fixed fleet, with every fragment."""
    fleet, fixed = simulate(schedule), simulate(replace(schedule, hosts=None))
    assert fleet.outcome == fixed.outcome == "done"
    assert log_of(fleet) == log_of(fixed)


@settings(max_examples=30, deadline=None)
@given(fleets())
def test_a_run_does_not_depend_on_its_hosts(schedule: Schedule) -> None:
    """At staleness 0 and 1, what is added and trained on is that of a fixed fleet."""
    check_fleet(schedule)


@settings(max_examples=15, deadline=None)
@given(schedules(calm=True, max_staleness=1), st.lists(uniform(1, 30), min_size=1, max_size=10), _state_seconds)
def test_a_run_does_not_depend_on_the_deaths_of_its_players(
    schedule: Schedule, ticks: list[int], seconds: float
) -> None:
    """The same holds for a fixed fleet in which each player dies up to twice."""
    deaths = tuple(PlayerFailure(number // 2 % schedule.players, True, at) for number, at in enumerate(ticks))
    deaths = deaths[: 2 * schedule.players]
    troubled = simulate(replace(schedule, failures=deaths, state_seconds=seconds))
    assert troubled.outcome == "done"
    assert log_of(troubled) == log_of(simulate(schedule))


@pytest.mark.every
@pytest.mark.timeout(7200)
@settings(max_examples=10_000, deadline=None)
@given(fleets())
def test_ten_thousand_fleets(schedule: Schedule) -> None:
    """The same holds for 10,000 schedules."""
    check_fleet(schedule)


def test_a_player_that_is_lost_again_and_again_starts_new_episodes() -> None:
    """After three losses in a fragment, its environments may be the cause."""
    schedule = Schedule(SAC, total_steps=20, max_failures=3, delays=Delays(player=(10,)))
    leg = simulate(replace(schedule, failures=3 * (PlayerFailure(0, True, 5),)))
    assert leg.outcome == "done" and leg.world.run.counters.incarnations == [1]
    assert (
        "info",
        "player 0 starts new episodes: it was lost 3 times in the same fragment",
    ) in leg.world.reporter.messages
    leg = simulate(replace(schedule, failures=2 * (PlayerFailure(0, True, 5),)))
    assert leg.outcome == "done" and leg.world.run.counters.incarnations == [0]


def test_an_environment_that_fails_starts_new_episodes() -> None:
    """A failure of the environment isn't repeated."""
    leg = simulate(Schedule(SAC, total_steps=20, max_failures=1, failures=(PlayerFailure(0, False, 3),)))
    assert leg.outcome == "done" and leg.world.run.counters.incarnations == [1]


@pytest.mark.parametrize("settings", [{"state_seconds": 100.0}, {"plays_differently": True}])
def test_a_player_that_cannot_continue_starts_new_episodes(settings: dict[str, Any]) -> None:
    """Its state is too expensive, or its environments don't repeat what they did."""
    schedule = Schedule(SAC, total_steps=200, max_failures=1, delays=Delays((1,), (0,), (0,)), state_seconds=0.5)
    leg = simulate(replace(schedule, failures=(PlayerFailure(0, True, 180),), **settings))
    assert leg.outcome == "done" and leg.world.run.counters.incarnations == [1]


# --------------------------------------------------------------------------------------------------- a quorum


@st.composite
def quorums(draw: st.DrawFn) -> Schedule:
    """Draw schedules of rounds of a part of the players, with failures, and with hosts in every second one."""
    schedule = draw(schedules(max_staleness=4))
    data = schedule.data
    if isinstance(data, OnPolicy):
        data = replace(data, tolerates_staleness=True)
    failures = tuple(each for each in schedule.failures if not each.dies) if draw(st.booleans()) else schedule.failures
    quorum = draw(st.sampled_from([0.1, 0.25, 0.5, 0.6, 0.9, 0.99]))
    staleness = max(1, schedule.max_staleness)
    schedule = replace(schedule, data=data, quorum=quorum, max_staleness=staleness, failures=failures)
    if draw(st.booleans()):
        most = draw(uniform(1, schedule.players))
        hosts = Hosts(draw(uniform(1, most)), most, (0, 3, 20), draw(_events()))
        schedule = replace(schedule, failures=(), hosts=hosts, max_failures=10)
    return schedule


def check_quorum(schedule: Schedule) -> None:
    """Check the invariants of a run with a quorum."""
    leg = simulate(schedule)
    world, size = leg.world, schedule.config.round_fragments
    offered = world.buffer.offered
    if leg.outcome == "failed":
        assert leg.error is not None and "refused" in str(leg.error)
        offered = offered[: world.learner.published[-1].fragments] if world.learner.published else []
    else:
        assert leg.outcome == "done" and len(offered) == size * world.run.counters.version
        assert world.run.counters.policy_steps == world.buffer.policy_steps
        check_replay_ratio(leg)
    played = [offer.fragment for offer in offered]
    lives = [(each.player, each.incarnation, each.sequence) for each in played]
    assert len(set(lives)) == len(lives)  # none is double
    streams = {(player, life): 0 for player, life, _ in lives}
    for player, life, sequence in lives:
        assert sequence == streams[player, life]  # none is dropped
        streams[player, life] += 1
    for number, each in enumerate(played):
        assert 0 <= number // size - each.version <= schedule.max_staleness
        assert each.version == each.weights.number
    if not schedule.data.is_off_policy:
        rounds = [[each.player for each in played[start : start + size]] for start in range(0, len(played), size)]
        assert all(players == sorted(set(players)) for players in rounds)


@settings(max_examples=30, deadline=None)
@given(quorums())
def test_invariants_of_a_quorum(schedule: Schedule) -> None:
    """Ages of weights are bounded, no fragment is lost or double, and the ratio is exact."""
    check_quorum(schedule)


@pytest.mark.every
@pytest.mark.timeout(7200)
@settings(max_examples=10_000, deadline=None)
@given(quorums())
def test_ten_thousand_quorums(schedule: Schedule) -> None:
    """The same holds for 10,000 schedules."""
    check_quorum(schedule)


LOST_WHILE_STOPPING = Schedule(
    OffPolicy(batch_size=1, replay_ratio=0.001),
    players=2,
    fragment_rows=1,
    envs=1,
    total_steps=3,
    max_staleness=3,
    max_failures=10,
    delays=Delays(player=(2,), buffer=(0, 2), learner=(3,)),
    hosts=Hosts(1, 1, starts=(0, 3, 20), events=(FleetEvent(9, "node", 0),)),
    quorum=0.1,
)
"""A fragment is lost with its node, and the patience of the stopped run ends before it is collected again."""


@settings(max_examples=20, deadline=None)
@given(quorums(), uniform(1, 200))
@example(LOST_WHILE_STOPPING, 12)
def test_a_quorum_is_stopped_and_resumed(schedule: Schedule, calls: int) -> None:
    """A stopped run ends without a deadlock; its resume adds no fragment again and skips none."""
    stopped = simulate(replace(schedule, stop_after=calls))
    if not stopped.world.store.checkpoints or stopped.outcome == "failed":
        return
    resumed = simulate(schedule, stopped.world.store.checkpoints[-1])
    played = [offer.fragment for leg in (stopped, resumed) for offer in leg.world.buffer.offered]
    streams = Counter[tuple[int, int]]()
    for each in played:
        assert each.sequence == streams[each.player, each.incarnation]
        streams[each.player, each.incarnation] += 1


def test_fast_players_do_not_wait_for_slow_ones() -> None:
    """With a quorum, players whose fragments take 5 and 20 ticks reach nine tenths of the sum of their own rates."""
    schedule = Schedule(
        OffPolicy(batch_size=1, replay_ratio=0.0),
        players=8,
        total_steps=500,
        max_staleness=8,
        delays=Delays(player=(5,), buffer=(0,), learner=(0,)),
        slowness=(1, 4),
    )
    own = 4 / 5 + 4 / 20  # fragments per tick
    rates = []
    for quorum in (1.0, 0.25):
        leg = simulate(replace(schedule, quorum=quorum))
        assert leg.outcome == "done"
        rates.append(leg.world.run.counters.policy_steps / leg.world.events[-1].time)
    assert rates[0] < 0.5 * own and rates[1] >= 0.9 * own


@pytest.mark.parametrize("data", [SAC, PPO])
def test_one_call_per_host_and_round(data: OffPolicy | OnPolicy) -> None:
    """A round of 200 players on 4 hosts takes 4 calls."""
    hosts = Hosts(4, 4)
    leg = simulate(Schedule(data, players=200, fragment_rows=2, total_steps=2000, max_staleness=1, hosts=hosts))
    collects = [event for event in leg.world.events if (event.what, event.method) == ("requested", "collect")]
    assert leg.world.run.counters.version == 5
    assert len(collects) <= 4 * (5 + 1)  # a round may be under way at the end
    assert {event.actor for event in collects} == {f"host:{number}" for number in range(4)}


def test_players_of_a_lost_host_go_to_the_others_at_once() -> None:
    """No round waits for the successor of a lost host, which takes long to start."""
    hosts = Hosts(2, 2, starts=(0, 0, 10_000), events=(FleetEvent(5, "die", 0),))
    leg = simulate(Schedule(SAC, players=4, fragment_rows=2, total_steps=400, max_failures=1, hosts=hosts))
    assert leg.outcome == "done" and leg.world.run.counters.restarts == 2
    assert max(event.time for event in leg.world.events if event.actor != "host:2") < 1000


def test_players_move_to_hosts_that_come() -> None:
    """A host that comes later gets its share of the players, with their state."""
    hosts = Hosts(1, 2, starts=(0, 20))
    leg = simulate(Schedule(SAC, players=4, fragment_rows=2, total_steps=800, hosts=hosts))
    assert leg.world.hosts is not None
    assert [len(host.players) for host in leg.world.hosts.hosts] == [2, 2]
    assert leg.world.run.counters.incarnations == [0, 0, 0, 0]
    assert [text for _, text in leg.world.reporter.messages if "more room" in text] == [
        "players 2 and 3 move: host 1 has more room"
    ]
