"""The run, as it is, against stand-ins in virtual time (see simulation.py): what it promises, whatever happens."""

import asyncio
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import floor

import pytest
from hypothesis import given, settings

from sheeprl.algos.args import OffPolicy, OnPolicy
from tests.simulation import (
    Checkpoint,
    Delays,
    DiedError,
    FailedError,
    Leg,
    Played,
    PlayerFailure,
    Schedule,
    SimulatedHandle,
    SimulatedRef,
    StuckError,
    Trouble,
    Weights,
    Writes,
    delays,
    run_virtually,
    schedules,
    simulate,
)

FAILURES = (DiedError, FailedError)  # those of the schedule

# -------------------------------------------------------------------------------------------- what must hold


def gradient_steps_due(data: OffPolicy, policy_steps: int) -> int:
    return floor(Fraction(str(data.replay_ratio)) * max(0, policy_steps - data.learning_starts))


def gradient_steps_of_rollout(schedule: Schedule, data: OnPolicy) -> int:
    return data.epochs * -(-schedule.round_rows // data.batch_size)


def check(leg: Leg) -> None:
    """Everything that every leg must hold."""
    mistakes = [event for event in leg.world.events if event.error and not isinstance(event.error, FAILURES)]
    assert not mistakes  # an actor was asked for something that it can't do
    check_outcome(leg)
    check_rounds(leg)
    check_replay_ratio(leg)
    check_end(leg)
    check_fragments(leg)
    check_blocks(leg)
    check_prefetch(leg)
    check_checkpoints(leg)
    check_reports(leg)
    if leg.world.schedule.max_staleness == 0:
        check_that_nothing_overlaps(leg)


def check_outcome(leg: Leg) -> None:
    """Who fails too often ends the run; whoever else fails does not, and each failure is counted."""
    world, schedule = leg.world, leg.world.schedule
    ends = [event for event in world.events if event.what == "ended"]
    failures = [event for event in ends if event.method == "collect" and event.error]
    last_round = max((event.time for event in ends if event.method == "weights"), default=0.0)
    noticed = sum(event.time < last_round for event in failures)  # later ones may or may not have been
    restarts = world.run.counters.restarts - world.began_at.restarts
    assert noticed <= restarts <= len(failures)
    gave_up = max(0, restarts - schedule.max_failures)  # players that were not replaced any more
    if world.troubled_at:
        assert leg.outcome == "failed"
    elif leg.outcome == "failed":
        assert schedule.max_failures < restarts <= schedule.max_failures + schedule.players
    else:
        assert not gave_up or world.run.counters.policy_steps >= schedule.total_steps
        made = len(world.players) - (schedule.players + restarts - gave_up)
        assert not world.buffer.added or 0 <= made <= gave_up  # the last evaluation may have one made anew
        assert leg.outcome == "done" or schedule.stop_after is not None or gave_up
    if leg.outcome != "failed":
        assert sum(level == "warning" for level, _ in world.reporter.messages) == restarts - gave_up
    assert sum(player.closed for player in world.players) == restarts


def check_rounds(leg: Leg) -> None:
    """Weights are handed out once a round, and the run ends with the round in which it has what it needs."""
    world, schedule = leg.world, leg.world.schedule
    published = world.learner.published
    for number, weights in enumerate(published):
        assert weights.fragments == number * schedule.players
    assert all(weights.policy_steps < schedule.total_steps for weights in published[:-1])
    assert sum(weights.stopping for weights in published) <= 1
    if leg.outcome == "done":
        assert published[-1].policy_steps >= schedule.total_steps
    if leg.outcome != "failed":
        assert len(world.buffer.added) == published[-1].fragments


def check_replay_ratio(leg: Leg) -> None:
    """Exact at the end of every round from the moment the buffer can serve a sample."""
    world, schedule = leg.world, leg.world.schedule
    began_at = world.began_at.gradient_steps
    before = began_at
    for number, weights in enumerate(world.learner.published):
        if isinstance(schedule.data, OnPolicy):
            assert weights.gradient_steps == began_at + number * gradient_steps_of_rollout(schedule, schedule.data)
        elif not weights.ready:
            assert weights.gradient_steps == before
        elif weights.stopping:
            assert before <= weights.gradient_steps <= gradient_steps_due(schedule.data, weights.policy_steps)
        else:
            assert weights.gradient_steps == gradient_steps_due(schedule.data, weights.policy_steps)
        before = weights.gradient_steps


def check_end(leg: Leg) -> None:
    """The counters agree with what buffer and learner counted themselves."""
    world, counters = leg.world, leg.world.run.counters
    if world.troubled_at is None:
        assert counters.policy_steps == world.buffer.policy_steps
        assert counters.gradient_steps == world.learner.gradient_steps
        assert counters.version == world.began_at.version + len(world.learner.published) - 1


def check_fragments(leg: Leg) -> None:
    """In the order of rounds and players, each once, none left out, none too old, each played as it should be."""
    world, schedule = leg.world, leg.world.schedule
    sequences = Counter[tuple[int, int]]()
    added = world.buffer.added
    if world.troubled_at == "add":  # the round in which the buffer failed is incomplete, and isn't counted
        added = added[: world.learner.published[-1].fragments]
    for number, fragment in enumerate(added):
        round_number = world.began_at.version + number // schedule.players
        stream = fragment.player, fragment.incarnation
        assert fragment.player == number % schedule.players
        assert fragment.sequence == sequences[stream]
        assert stream not in world.before
        sequences[stream] += 1
        assert fragment.version == world.began_at.version + fragment.weights.number
        assert 0 <= round_number - fragment.version <= schedule.max_staleness
        starting = fragment.weights.policy_steps < schedule.data.learning_starts
        assert fragment.mode == ("random" if starting else "explore")
        assert fragment.progress == min(1.0, fragment.weights.policy_steps / schedule.total_steps)


def check_blocks(leg: Leg) -> None:
    """Blocks are sampled between rounds, used in order, each once, in the round they were sampled in, and answered."""
    world, schedule = leg.world, leg.world.schedule
    blocks = updates = writes = added = 0
    for entry in world.buffer.log:
        if isinstance(entry, Played):
            added += 1
            assert not schedule.data.writes_back or writes == blocks
        elif isinstance(entry, Writes):
            assert entry.block == writes
            writes += 1
        else:
            assert added % schedule.players == 0
            blocks += 1
    published = 0
    begun = world.began_at.policy_steps  # what had been played when the round began that is being learned from
    for step in world.learner.log:
        if isinstance(step, Weights):
            published += 1
            begun = step.policy_steps
            continue
        assert step.block.number == updates
        assert step.block.fragments == published * schedule.players
        assert step.steps > 0
        assert step.progress == min(1.0, begun / schedule.total_steps)
        if isinstance(schedule.data, OffPolicy):
            assert step.block.asked == step.steps
        updates += 1
    if leg.outcome != "failed":
        assert updates == blocks
        assert writes == (blocks if schedule.data.writes_back else 0)


def check_prefetch(leg: Leg) -> None:
    """No more blocks are asked for ahead of updates than allowed, nor updates ahead of their answers."""
    prefetch = leg.world.schedule.prefetch
    asked: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for event in leg.world.events:
        (asked if event.what == "asked" else ended)[event.method] += 1
        assert asked["sample"] - asked["update"] <= prefetch + 1
        assert asked["update"] - ended["update"] <= prefetch + 1


def check_that_nothing_overlaps(leg: Leg) -> None:
    """At staleness 0 nobody learns while somebody plays."""
    under_way: Counter[str] = Counter()
    learning = ("status", "add", "sample", "update", "write_back", "weights")
    for event in leg.world.events:
        if event.what == "asked":
            others = learning if event.method == "collect" else ("collect",) if event.method in learning else ()
            assert not any(under_way[other] for other in others), event
        under_way[event.method] += 1 if event.what == "asked" else -1


def passed(every: int | None, published: list[Weights]) -> list[int]:
    """Policy steps at the ends of rounds in which a multiple of `every` was passed."""
    return [
        b.policy_steps for a, b in pairwise(published) if every and b.policy_steps // every > a.policy_steps // every
    ]


def check_checkpoints(leg: Leg) -> None:
    """When they are due and at the end, also of a run that failed, if learner and buffer still can."""
    world, schedule = leg.world, leg.world.schedule
    checkpoints = world.keeper.checkpoints
    if leg.outcome == "failed":
        trouble = schedule.trouble if world.troubled_at else None
        if trouble is None or not (trouble.dies or world.troubled_at == "save"):
            assert checkpoints
            assert checkpoints[-1].counters == world.run.counters
            assert checkpoints[-1].counters.gradient_steps == world.learner.gradient_steps
        else:
            assert leg.error is not None
            told = [leg.error.reason, *(text for _, text in world.reporter.messages)]
            assert (
                any("no checkpoint could be written" in text for text in told)
                or checkpoints[-1].counters == world.run.counters
            )
        return
    at = [checkpoint.counters.policy_steps for checkpoint in checkpoints]
    assert at == [*passed(schedule.checkpoint_every, world.learner.published), world.run.counters.policy_steps]
    assert checkpoints[-1].counters == world.run.counters
    assert all(checkpoint.counted == checkpoint.counters.gradient_steps for checkpoint in checkpoints)


def check_reports(leg: Leg) -> None:
    """What is shown never goes back; the lag that is logged is the true one; evaluations take place."""
    world, schedule = leg.world, leg.world.schedule
    shown = world.reporter.shown
    for before, after in pairwise(shown):
        assert before.policy_steps <= after.policy_steps
        assert before.gradient_steps <= after.gradient_steps
    published = world.learner.published
    if leg.outcome != "failed" and len(published) > 1 and published[-1].policy_steps > published[-2].policy_steps:
        lags = [i // schedule.players - each.weights.number for i, each in enumerate(world.buffer.added)]
        lines = [(step, line) for step, line in world.reporter.lines if "Weights/staleness" in line]
        assert max(line["Weights/staleness"] for _, line in lines) == max(lags)
        step, line = lines[-1]
        assert (step, line["Params/gradient_steps"]) == (world.buffer.policy_steps, world.learner.gradient_steps)
    if leg.outcome == "done":
        asked = sum(event[:3:2] == ("asked", "evaluate") for event in world.events)
        due = passed(schedule.eval_every, published)
        at_the_end = bool(schedule.eval_episodes) and published[-1].policy_steps not in due
        assert asked == len(due) + at_the_end


def checkpoint_to_resume(leg: Leg) -> Checkpoint | None:
    """One of the leg's checkpoints, if there is one whose totals can still come out right."""
    world, schedule = leg.world, leg.world.schedule
    checkpoints = world.keeper.checkpoints
    if isinstance(schedule.data, OnPolicy) and world.troubled_at:
        return None  # a rollout that the learner failed on is lost
    return checkpoints[-1 - schedule.resume_from % len(checkpoints)] if checkpoints else None


@settings(max_examples=1000, deadline=None)
@given(schedules())
def test_run_keeps_its_promises_whatever_happens(schedule: Schedule) -> None:
    leg = simulate(schedule)
    check(leg)
    checkpoint = checkpoint_to_resume(leg)
    if checkpoint is not None:
        rest = simulate(replace(schedule, failures=(), trouble=None, stop_after=None), checkpoint)
        assert rest.outcome == "done"
        check(rest)


@settings(max_examples=200, deadline=None)
@given(schedules(calm=True, max_staleness=1), delays)
def test_what_is_learned_does_not_depend_on_who_is_faster(schedule: Schedule, others: Delays) -> None:
    first, second = simulate(schedule).world, simulate(replace(schedule, delays=others)).world
    assert first.buffer.log == second.buffer.log
    assert first.learner.log == second.learner.log


# ------------------------------------------------------------------------------------------- single promises

SAC = OffPolicy(batch_size=4, replay_ratio=1.0)
PPO = OnPolicy(rollout_steps=4, batch_size=2, epochs=2)


@pytest.mark.parametrize("replay_ratio", [0.1, 0.29, 0.57, 0.7, 1.1, 2.3, 4.35])
def test_replay_ratio_is_exact_where_floats_are_not(replay_ratio: float) -> None:
    # 0.29 * 100 is 28.999999999999996, and adding 0.1 ten times gives 0.9999999999999999.
    leg = simulate(Schedule(replace(SAC, replay_ratio=replay_ratio), total_steps=200))
    check(leg)
    assert leg.world.learner.gradient_steps == round(replay_ratio * 1000) * 200 // 1000


@pytest.mark.parametrize(("max_staleness", "seconds"), [(0, 5 * 20), (1, 10 + 5 * 10), (2, 10 + 5 * 10)])
def test_playing_overlaps_learning_as_far_as_allowed(max_staleness: int, seconds: int) -> None:
    schedule = Schedule(SAC, fragment_rows=4, total_steps=20, max_staleness=max_staleness)
    world = simulate(replace(schedule, delays=Delays(player=(10,), buffer=(0,), learner=(0, 10)))).world
    last_round = max(event.time for event in world.events if event.method == "weights")
    assert last_round == seconds


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("dies", [False, True])
def test_learner_that_fails_in_a_checkpoint_fails_the_run(at: int, dies: bool) -> None:
    schedule = Schedule(SAC, total_steps=2, checkpoint_every=1, trouble=Trouble("learner", "save", dies, at))
    leg = simulate(schedule)
    assert leg.world.troubled_at == "save"
    assert leg.outcome == "failed"
    assert leg.error is not None
    assert "no checkpoint could be written: the learner" in leg.error.reason


def test_stopped_rollout_is_learned_before_the_run_ends() -> None:
    for calls in range(20):
        leg = simulate(Schedule(PPO, fragment_rows=4, total_steps=8, stop_after=calls))
        check(leg)


def test_replacement_that_is_given_newer_weights_plays_as_these_demand() -> None:
    # Player 1 of round 1 begins at random, and fails once learning has started.
    data = OffPolicy(batch_size=4, replay_ratio=1.0, learning_starts=2)
    schedule = Schedule(data, players=2, total_steps=6, max_staleness=1, max_failures=1)
    leg = simulate(replace(schedule, delays=Delays((4,), (0,), (1,)), failures=(PlayerFailure(1, True, 7),)))
    check(leg)
    replacement = next(fragment for fragment in leg.world.buffer.added if fragment.incarnation == 1)
    assert (replacement.version, replacement.mode) == (1, "explore")


# ------------------------------------------------------------------------------------- the simulation itself


class Slow:
    """Has methods whose calls are written down."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def say(self, word: str) -> str:
        self.calls.append(word)
        return word

    def pair(self) -> tuple[str, str]:
        return "left", "right"

    def fail(self) -> None:
        raise FailedError("no")


def slow(seconds: float = 1.0, target: Slow | None = None) -> SimulatedHandle:
    return SimulatedHandle("slow", target or Slow(), lambda: seconds, [])


def test_time_passes_only_virtually() -> None:
    async def main() -> float:
        await asyncio.gather(asyncio.sleep(86_400), asyncio.sleep(3 * 86_400))
        return asyncio.get_running_loop().time()

    assert run_virtually(main) == 3 * 86_400


def test_deadlock_raises() -> None:
    async def main() -> None:
        await asyncio.gather(asyncio.sleep(1), asyncio.Event().wait())

    with pytest.raises(StuckError, match="deadlock at 1"):
        run_virtually(main)


def test_endless_loop_raises() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(StuckError, match="still going on"):
        run_virtually(main)


def test_calls_are_carried_out_in_order_and_wait_for_their_arguments() -> None:
    target = Slow()

    async def main() -> float:
        handle, other = slow(1, target), slow(10)
        left, right = other.call_pair("pair")
        waiting, last = handle.call("say", left), handle.call("say", "last")
        assert [await last, await waiting, await right] == ["last", "left", "right"]
        return asyncio.get_running_loop().time()

    assert run_virtually(main) == 10 + 1 + 1
    assert target.calls == ["left", "last"]


def test_call_fails_with_its_argument() -> None:
    async def main() -> None:
        failing = slow().call("fail")
        with pytest.raises(FailedError):
            await slow().call("say", failing)

    run_virtually(main)


def test_death_fails_calls_under_way_and_to_come() -> None:
    target = Slow()

    async def main() -> float:
        handle = slow(10, target)
        under_way, waiting = handle.call("say", "a"), handle.call("say", "b")
        handle.loop.call_later(3, handle.die, DiedError("gone"))
        for call in (under_way, waiting, handle.call("say", "c")):
            with pytest.raises(DiedError, match="gone"):
                await call
        return asyncio.get_running_loop().time()

    assert run_virtually(main) == 3
    assert target.calls == []


def test_who_stops_waiting_does_not_stop_the_call() -> None:
    target = Slow()

    async def main() -> None:
        ref = slow(5, target).call("say", "a")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_value(ref), 1)
        assert await ref == "a"

    run_virtually(main)
    assert target.calls == ["a"]


async def _value(ref: SimulatedRef) -> object:
    return await ref
