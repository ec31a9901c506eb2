"""Test the run against simulated workers in virtual time (see simulation.py)."""

import asyncio
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import floor
from typing import Any

import pytest
from hypothesis import given, settings

from sheeprl.algos.args import OffPolicy, OnPolicy
from sheeprl.buffer.fragments import RefusedFragmentError
from tests.helpers.simulation import (
    Delays,
    DiedError,
    FailedError,
    Leg,
    Played,
    PlayerFailure,
    Schedule,
    ShardDeath,
    SimulatedHandle,
    SimulatedRef,
    StuckError,
    Trouble,
    Update,
    Weights,
    World,
    Writes,
    delays,
    run_virtually,
    schedules,
    simulate,
)

FAILURES = (DiedError, FailedError, RefusedFragmentError)  # those of the schedule

# -------------------------------------------------------------------------------------------- what must hold


def gradient_steps_due(data: OffPolicy, policy_steps: int) -> int:
    """Return the gradient steps that are due after `policy_steps`."""
    steps = policy_steps - data.learning_starts
    return data.pretrain_steps + floor(Fraction(str(data.replay_ratio)) * steps) if steps > 0 else 0


def gradient_steps_of_rollout(schedule: Schedule, data: OnPolicy) -> int:
    """Return the gradient steps of one rollout."""
    return data.epochs * -(-schedule.round_rows // data.batch_size)


def check(leg: Leg) -> None:
    """Check all invariants of a leg."""
    mistakes = [event for event in leg.world.events if event.error and not isinstance(event.error, FAILURES)]
    assert not mistakes  # every call was valid
    check_outcome(leg)
    check_shards(leg)
    check_rounds(leg)
    check_replay_ratio(leg)
    check_end(leg)
    check_fragments(leg)
    check_blocks(leg)
    check_updates(leg)
    check_prefetch(leg)
    check_checkpoints(leg)
    check_reports(leg)
    if leg.world.schedule.max_staleness == 0 and not leg.world.buffer.losses:
        check_that_nothing_overlaps(leg)


def check_outcome(leg: Leg) -> None:
    """Check that only the failure budget decides if the run fails, and that each failure is counted."""
    world, schedule = leg.world, leg.world.schedule
    ends = [event for event in world.events if event.what == "ended"]
    failures = [event for event in ends if event.method in ("load", "collect") and event.error]
    last_round = max((event.time for event in ends if event.method == "weights"), default=0.0)
    noticed = sum(event.time < last_round for event in failures)  # later ones may or may not have been
    restarts = world.run.counters.restarts - world.began_at.restarts
    assert noticed <= restarts <= len(failures)
    losses = world.buffer.losses
    assert losses == world.run.counters.buffer_restarts - world.began_at.buffer_restarts
    on_policy = not schedule.data.is_off_policy
    refused = world.run.counters.refused - world.began_at.refused
    gave_up = max(0, restarts + losses - schedule.max_failures)  # players that were not replaced any more
    if world.troubled_at or refused_too_often(leg) or (on_policy and (losses or refused)):
        assert leg.outcome == "failed"
    elif leg.outcome == "failed":
        assert schedule.max_failures < restarts + losses <= schedule.max_failures + schedule.players + 1
    else:
        assert not gave_up or world.run.counters.policy_steps >= schedule.total_steps
        made = len(world.players) - (schedule.players + restarts - gave_up)
        assert not world.buffer.offered or 0 <= made <= gave_up  # the last evaluation may start another one
        assert leg.outcome == "done" or schedule.stop_after is not None or gave_up
    if leg.outcome != "failed":
        warnings = sum(level == "warning" for level, _ in world.reporter.messages)
        assert warnings == restarts + losses - gave_up + refused
        assert refused == sum(offer.refused for offer in world.buffer.offered)
    assert sum(player.closed for player in world.players) == restarts


def refused_too_often(leg: Leg) -> bool:
    """Return True if more fragments of one player in a row were refused than the run tolerates."""
    in_a_row = Counter[int]()
    for offer in leg.world.buffer.offered:
        player = offer.fragment.player
        in_a_row[player] = in_a_row[player] + 1 if offer.refused else 0
        if in_a_row[player] > leg.world.schedule.max_failures:
            return True
    return False


def check_shards(leg: Leg) -> None:
    """Check that lost shards are replaced, and that the run knows the rows that the replay holds."""
    world, replay = leg.world, leg.world.run.replay
    replaced = [handle for handle in world.shards if handle.closed]
    assert len(replaced) == world.buffer.losses
    assert all("was closed" not in str(handle.dead) for handle in replaced)  # it had died before
    assert not any(handle.target in world.buffer.newest for handle in replaced)
    if leg.outcome != "failed":
        assert replay.size == world.buffer.rows
        assert replay.incarnations == [shard.incarnation for shard in world.buffer.newest]


def check_rounds(leg: Leg) -> None:
    """Check that weights are published once per round, and that the run ends after the round that reaches its total."""
    world, schedule = leg.world, leg.world.schedule
    published = world.learner.published
    for number, weights in enumerate(published):
        assert weights.fragments == number * schedule.players
    assert all(weights.policy_steps < schedule.total_steps for weights in published[:-1])
    assert sum(weights.stopping for weights in published) <= 1
    if leg.outcome == "done":
        assert published[-1].policy_steps >= schedule.total_steps
    if leg.outcome != "failed":
        assert len(world.buffer.offered) == published[-1].fragments


def check_replay_ratio(leg: Leg) -> None:
    """Check that the replay ratio is exact after every round in which the replay can serve a batch."""
    world, schedule = leg.world, leg.world.schedule
    began_at = world.began_at.gradient_steps
    before, losses = began_at, 0
    overdue = False  # in a round in which the run could report it
    for number, weights in enumerate(world.learner.published):
        if isinstance(schedule.data, OnPolicy):
            assert weights.gradient_steps == began_at + number * gradient_steps_of_rollout(schedule, schedule.data)
            continue
        due = gradient_steps_due(schedule.data, weights.policy_steps)
        if weights.ready and not weights.stopping:
            assert weights.gradient_steps == due
        elif weights.ready or weights.losses > losses:
            assert before <= weights.gradient_steps <= due
        else:
            assert weights.gradient_steps == before
        overdue |= not weights.ready and weights.losses == losses and weights.gradient_steps < due
        before, losses = weights.gradient_steps, weights.losses
    reported = sum("training waits for" in text for _, text in world.reporter.messages)
    assert reported <= 1
    assert reported or not overdue or leg.outcome != "done"


def check_end(leg: Leg) -> None:
    """Check that the counters agree with those of the replay and the learner."""
    world, counters = leg.world, leg.world.run.counters
    if world.troubled_at is None and (leg.outcome != "failed" or not world.buffer.losses):
        assert counters.policy_steps == world.buffer.policy_steps
        assert counters.gradient_steps == world.learner.gradient_steps
        assert counters.version == world.began_at.version + len(world.learner.published) - 1


def check_fragments(leg: Leg) -> None:
    """Check order, shard, sequence number, version, mode and progress of all fragments."""
    world, schedule = leg.world, leg.world.schedule
    sequences = Counter[tuple[int, int]]()
    offered = world.buffer.offered
    for shard in range(schedule.shards):  # each round's in the players' order
        numbers = [i // schedule.players * 100 + o.fragment.player for i, o in enumerate(offered) if o.shard == shard]
        assert numbers == sorted(set(numbers))
    if leg.outcome == "failed":  # a round in which the buffer failed is incomplete, and isn't counted
        offered = offered[: world.learner.published[-1].fragments] if world.learner.published else []
    offered = sorted(
        offered, key=lambda offer: world.buffer.offered.index(offer) // schedule.players * 100 + offer.fragment.player
    )
    for number, offer in enumerate(offered):
        fragment = offer.fragment
        round_number = world.began_at.version + number // schedule.players
        stream = fragment.player, fragment.incarnation
        assert fragment.player == number % schedule.players
        assert offer.shard == fragment.player % schedule.shards
        assert fragment.sequence == sequences[stream]
        assert stream not in world.before
        sequences[stream] += 1
        assert fragment.version == world.began_at.version + fragment.weights.number
        assert 0 <= round_number - fragment.version <= schedule.max_staleness
        starting = fragment.weights.policy_steps < schedule.data.learning_starts
        assert fragment.mode == ("random" if starting else "explore")
        assert fragment.progress == min(1.0, fragment.weights.policy_steps / schedule.total_steps)


def check_blocks(leg: Leg) -> None:
    """Check that blocks are sampled between rounds and written back before the next call to their shard."""
    world, schedule = leg.world, leg.world.schedule
    for shard in world.buffer.lives:
        blocks = writes = 0
        for entry in shard.log:
            if isinstance(entry, Played):
                assert world.buffer.losses or not schedule.data.feeds_back or writes == blocks
            elif isinstance(entry, Writes):
                writes += 1
                assert writes <= blocks
            else:
                assert entry.number == blocks
                # A chunk given up after a loss may still be drawn from who lives when the next round has begun.
                assert world.buffer.losses or entry.fragments % schedule.players == 0
                blocks += 1
        assert schedule.data.feeds_back or not writes
        if leg.outcome != "failed" and not world.buffer.losses:
            served = [n for n, step in enumerate(updates_of(leg)) if any(b.shard == shard.number for b in step.blocks)]
            assert len(served) == blocks  # every block was used
            written = [entry.update for entry in shard.log if isinstance(entry, Writes)]
            assert written == (served if schedule.data.feeds_back else [])


def updates_of(leg: Leg) -> list[Update]:
    """Return the updates of the learner."""
    return [step for step in leg.world.learner.log if isinstance(step, Update)]


def check_updates(leg: Leg) -> None:
    """Check that each update uses blocks of the same round, and each block once."""
    world, schedule = leg.world, leg.world.schedule
    published, used, orders = 0, [], []
    begun = world.began_at.policy_steps  # what had been played when the round began that is being learned from
    for step in world.learner.log:
        if isinstance(step, Weights):
            published += 1
            begun = step.policy_steps
            continue
        assert step.steps > 0
        assert step.progress == min(1.0, begun / schedule.total_steps)
        assert all(block.progress == step.progress for block in step.blocks)
        assert all(block.fragments == published * schedule.players for block in step.blocks)
        used += [(block.shard, block.incarnation, block.number) for block in step.blocks]
        assert (step.order is None) == (schedule.shards == 1)
        orders += [step.order] if step.order is not None else []
        if isinstance(schedule.data, OffPolicy):
            assert step.steps <= schedule.chunk_steps
            assert sum(block.samples for block in step.blocks) == step.steps * schedule.batch_size
            assert all(block.batches == (step.steps if schedule.shards == 1 else 0) for block in step.blocks)
    assert len(used) == len(set(used))
    assert len(orders) == len(set(orders))
    if not world.buffer.losses:
        assert all(numbers == sorted(numbers) for numbers in ([u for u in used if u[0] == k] for k in range(3)))


def check_prefetch(leg: Leg) -> None:
    """Check that at most `prefetch` blocks are requested ahead of updates, and updates ahead of their results."""
    prefetch = leg.world.schedule.prefetch
    requested: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for event in leg.world.events:
        (requested if event.what == "requested" else ended)[event.method] += 1
        assert requested["sample"] - requested["update"] <= prefetch + 1 + leg.world.buffer.losses * (prefetch + 1)
        assert requested["update"] - ended["update"] <= prefetch + 1


def check_that_nothing_overlaps(leg: Leg) -> None:
    """Check that no training and no collection overlap at staleness 0."""
    under_way: Counter[str] = Counter()
    learning = ("status", "add", "sample", "sample_part", "update", "write_back", "weights")
    for event in leg.world.events:
        if event.what == "requested":
            others = learning if event.method == "collect" else ("collect",) if event.method in learning else ()
            assert not any(under_way[other] for other in others), event
        under_way[event.method] += 1 if event.what == "requested" else -1


def passed(every: int | None, published: list[Weights]) -> list[int]:
    """Return the policy steps at the ends of rounds in which a multiple of `every` was passed."""
    return [
        b.policy_steps for a, b in pairwise(published) if every and b.policy_steps // every > a.policy_steps // every
    ]


def check_checkpoints(leg: Leg) -> None:
    """Check that due checkpoints and a last one are written, also by a failed run if learner and replay still work."""
    world, schedule = leg.world, leg.world.schedule
    checkpoints = world.store.checkpoints
    if leg.outcome == "failed":
        trouble = schedule.trouble if world.troubled_at else None
        if world.buffer.losses:
            return  # others may have been lost while what was left was saved
        if trouble is None or not (trouble.dies or world.troubled_at == "snapshot"):
            assert checkpoints
            assert checkpoints[-1].counters == world.run.counters
            assert checkpoints[-1].counters.gradient_steps == world.learner.gradient_steps
        else:
            assert leg.error is not None
            reported = [leg.error.reason, *(text for _, text in world.reporter.messages)]
            assert (
                any("no checkpoint could be written" in text for text in reported)
                or checkpoints[-1].counters == world.run.counters
            )
        return
    at = [checkpoint.counters.policy_steps for checkpoint in checkpoints]
    assert at == [*passed(schedule.checkpoint_every, world.learner.published), world.run.counters.policy_steps]
    assert checkpoints[-1].counters == world.run.counters
    assert all(checkpoint.counted == checkpoint.counters.gradient_steps for checkpoint in checkpoints)


def check_reports(leg: Leg) -> None:
    """Check that reported counters never decrease, that the staleness is exact, and that evaluations take place."""
    world, schedule = leg.world, leg.world.schedule
    shown = world.reporter.shown
    for before, after in pairwise(shown):
        assert before.policy_steps <= after.policy_steps
        assert before.gradient_steps <= after.gradient_steps
    published = world.learner.published
    if leg.outcome == "done" and len(published) > 1 and published[-1].policy_steps > published[-2].policy_steps:
        offers = enumerate(world.buffer.offered)
        lags = [i // schedule.players - each.fragment.weights.number for i, each in offers if not each.refused]
        lines = [(step, line) for step, line in world.reporter.lines if "Weights/staleness" in line]
        assert max(line["Weights/staleness"] for _, line in lines) == max(lags)
        step, line = lines[-1]
        assert (step, line["Params/gradient_steps"]) == (world.buffer.policy_steps, world.learner.gradient_steps)
    if leg.outcome == "done":
        requested = sum(event[:3:2] == ("requested", "evaluate") for event in world.events)
        due = passed(schedule.eval_every, published)
        at_the_end = bool(schedule.eval_episodes) and published[-1].policy_steps not in due
        assert requested == len(due) + at_the_end


@settings(max_examples=300, deadline=None)
@given(schedules())
def test_all_invariants_hold_for_random_schedules(schedule: Schedule) -> None:
    """The invariants hold for random schedules of delays and failures."""
    check(simulate(schedule))


@settings(max_examples=200, deadline=None)
@given(schedules(calm=True, max_staleness=1), delays)
def test_training_does_not_depend_on_delays(schedule: Schedule, others: Delays) -> None:
    """Samples and updates don't depend on the delays of the workers."""
    first, second = simulate(schedule).world, simulate(replace(schedule, delays=others)).world
    assert [shard.log for shard in first.buffer.lives] == [shard.log for shard in second.buffer.lives]
    assert first.learner.log == second.learner.log


# ------------------------------------------------------------------------------------------- single promises

SAC = OffPolicy(batch_size=1, replay_ratio=1.0)
PPO = OnPolicy(rollout_steps=4, batch_size=2, epochs=2)


@pytest.mark.parametrize("replay_ratio", [0.1, 0.29, 0.57, 0.7, 1.1, 2.3, 4.35])
def test_replay_ratio_is_exact_where_floats_are_not(replay_ratio: float) -> None:
    """The replay ratio is exact for ratios that binary floats can't represent."""
    # 0.29 * 100 is 28.999999999999996, and adding 0.1 ten times gives 0.9999999999999999.
    leg = simulate(Schedule(replace(SAC, replay_ratio=replay_ratio), total_steps=200))
    check(leg)
    assert leg.world.learner.gradient_steps == round(replay_ratio * 1000) * 200 // 1000


@pytest.mark.parametrize(("max_staleness", "seconds"), [(0, 5 * 20), (1, 10 + 5 * 10), (2, 10 + 5 * 10)])
def test_collection_overlaps_training_up_to_max_staleness(max_staleness: int, seconds: int) -> None:
    """Collection overlaps training as far as `max_staleness` permits."""
    schedule = Schedule(SAC, fragment_rows=4, total_steps=20, max_staleness=max_staleness)
    world = simulate(replace(schedule, delays=Delays(player=(10,), buffer=(0,), learner=(0, 10)))).world
    last_round = max(event.time for event in world.events if event.method == "weights")
    assert last_round == seconds


@pytest.mark.parametrize("eval_every", [None, 2])
def test_a_stopping_run_gives_up_an_evaluation(eval_every: int | None) -> None:
    """A stopping run gives up an evaluation that doesn't end, and saves a checkpoint."""

    async def train() -> World:
        """Train with an evaluation that hangs, and stop."""
        world = World(Schedule(SAC, total_steps=8, eval_every=eval_every, eval_episodes=1))
        player = await world.run.players.get(0)
        call = player.call

        def call_or_hang(method: Any, *args: Any) -> Any:
            """Call the player; an evaluation hangs."""
            if method.__name__ != "evaluate":
                return call(method, *args)
            asyncio.get_running_loop().call_later(5, world.run.stop)
            return SimulatedRef(asyncio.get_running_loop().create_future())

        player.call = call_or_hang  # type: ignore[method-assign]
        await world.run.train()
        return world

    world = run_virtually(train)
    assert ("warning", f"the evaluation at step {eval_every or 8} is given up, since the run stops") in (
        world.reporter.messages
    )
    assert world.store.checkpoints[-1].counters == world.run.counters


def test_a_failed_checkpoint_is_reported_and_the_next_one_written() -> None:
    """A failed checkpoint is reported, and the next one is written."""
    schedule = Schedule(SAC, total_steps=3, checkpoint_every=1, trouble=Trouble("learner", "snapshot", False, 0))
    leg = simulate(schedule)
    assert leg.world.troubled_at == "snapshot"
    assert leg.outcome == "done"
    reported = [text for level, text in leg.world.reporter.messages if level == "error"]
    assert reported == ["no checkpoint could be written: the learner raised in snapshot"]
    assert [each.counters.policy_steps for each in leg.world.store.checkpoints] == [2, 3, 3]


def test_a_failed_last_checkpoint_fails_the_run() -> None:
    """A failed last checkpoint fails the run."""
    leg = simulate(Schedule(SAC, total_steps=2, trouble=Trouble("learner", "snapshot", False, 0)))
    assert leg.error is not None
    assert leg.error.reason == "no checkpoint could be written: the learner raised in snapshot"


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("dies", [False, True])
def test_a_failed_learner_counts_no_loss_of_a_shard(dies: bool, prefetch: int) -> None:
    """A failed learner counts no loss of the shard that waits for its priorities."""
    data = replace(SAC, replay_ratio=100.0, writes_back=True)
    schedule = Schedule(data, total_steps=2, prefetch=prefetch, max_failures=3)
    leg = simulate(replace(schedule, trouble=Trouble("learner", "update", dies, 0)))
    assert leg.error is not None
    assert leg.error.reason.startswith("the learner failed: the learner")
    assert leg.world.buffer.losses == 0


def test_a_lost_shard_is_reported_and_replaced() -> None:
    """A lost shard is reported and replaced, and the other shard serves the samples."""
    schedule = Schedule(SAC, players=2, shards=2, total_steps=20, max_failures=1)
    leg = simulate(replace(schedule, shard_deaths=(ShardDeath(1, "call", 9),)))
    check(leg)
    assert leg.outcome == "done"
    assert ("warning", "shard 1 of the replay failed and is replaced (1 of 1): shard 1 died") in (
        leg.world.reporter.messages
    )
    assert leg.world.reporter.lines[-1][1]["Buffer/restarts"] == 1
    assert leg.world.learner.gradient_steps == 20


def test_a_lost_replay_starts_empty() -> None:
    """A lost replay starts empty, and training waits until it holds a batch again."""
    schedule = Schedule(replace(SAC, batch_size=6), total_steps=20, max_failures=1)
    leg = simulate(replace(schedule, shard_deaths=(ShardDeath(0, "call", 20),)))
    check(leg)
    published = leg.world.learner.published
    lost = next(number for number, weights in enumerate(published) if weights.losses)
    assert 0 < published[lost].gradient_steps < published[lost].policy_steps
    assert [weights.ready for weights in published[lost : lost + 7]] == [*[False] * 5, True, True]
    assert leg.world.learner.gradient_steps == 20


def test_shards_that_are_lost_too_often_end_the_run() -> None:
    """A shard that is lost more often than `ray.max_failures` ends the run."""
    schedule = Schedule(SAC, players=2, shards=2, total_steps=20, max_failures=1)
    leg = simulate(replace(schedule, shard_deaths=(ShardDeath(0, "call", 3), ShardDeath(0, "call", 4))))
    assert leg.error is not None
    assert leg.error.reason == "shard 0 of the replay failed 2 times in 600 s (ray.max_failures=1): shard 0 died"
    assert leg.world.store.checkpoints


def test_a_rollout_that_is_lost_is_added_again() -> None:
    """A lost rollout is added to the replacement of its shard."""
    schedule = Schedule(PPO, fragment_rows=4, total_steps=20, max_failures=9)
    leg = simulate(replace(schedule, shard_deaths=(ShardDeath(0, "call", 3),)))
    assert leg.outcome == "done"
    assert leg.world.buffer.losses == 1
    assert leg.world.learner.gradient_steps == 5 * PPO.epochs * 2
    assert leg.world.run.counters.policy_steps == 20


def test_refused_fragments_are_not_counted() -> None:
    """The policy steps of refused fragments aren't counted."""
    schedule = Schedule(SAC, players=2, total_steps=20, max_failures=1, refused=(True, False, False))
    leg = simulate(schedule)
    check(leg)
    refused = sum(offer.refused for offer in leg.world.buffer.offered)
    step, line = leg.world.reporter.lines[-1]
    assert line["Buffer/refused"] == refused > 0
    assert step == len(leg.world.buffer.offered) - refused >= 20
    reported = [text for level, text in leg.world.reporter.messages if level == "warning"]
    assert reported[0].startswith("a fragment of player 0 was refused: fragment 0 of player 0 doesn't fit; check the")


@pytest.mark.parametrize("data", [SAC, PPO])
def test_repeatedly_refused_fragments_end_the_run(data: OffPolicy | OnPolicy) -> None:
    """Repeatedly refused fragments of one player end the run."""
    leg = simulate(Schedule(data, fragment_rows=4, total_steps=20, max_failures=2, refused=(True,)))
    assert leg.error is not None
    assert "fragment of player 0 was refused: fragment" in leg.error.reason
    assert len(leg.world.buffer.offered) == (3 if data is SAC else 1)


def test_waiting_for_the_first_batch_is_reported_once() -> None:
    """The run reports once that training waits for the first batch."""
    leg = simulate(Schedule(replace(SAC, batch_size=8), total_steps=20))
    check(leg)
    reported = [text for _, text in leg.world.reporter.messages if "samples" in text]
    assert reported == ["the replay holds 1 of the 8 samples of a batch; training waits for these"]
    assert leg.world.learner.gradient_steps == 20


def test_gradient_steps_that_could_not_be_taken_are_reported() -> None:
    """A run whose replay never serves a batch ends with a warning."""
    leg = simulate(Schedule(replace(SAC, batch_size=100), total_steps=20))
    (warning,) = [text for level, text in leg.world.reporter.messages if level == "warning"]
    assert warning.startswith("20 gradient steps of 20 couldn't be taken: the replay holds ")
    assert warning.endswith(" of the 100 samples of a batch")


@pytest.mark.parametrize("prefetch", [0, 1, 3])
@pytest.mark.parametrize("shards", [1, 2])
def test_chunks_are_prefetched(prefetch: int, shards: int) -> None:
    """The run requests `trainer.prefetch` chunks ahead."""
    # A round of 8 chunks, whose batches take 10 to sample, 10 to learn from.
    schedule = Schedule(replace(SAC, replay_ratio=64.0), players=2, shards=shards, fragment_rows=4, total_steps=8)
    schedule = replace(schedule, prefetch=prefetch, delays=Delays((0,), (10,), (10,)))
    world = simulate(schedule).world
    ahead = 0
    for event in world.events:
        if event.what == "requested" and event.method in ("sample", "sample_part"):
            ahead += event.actor == "shard 0"
            assert ahead <= prefetch + 1
        ahead -= event[:3] == ("requested", "learner", "update")
    last = max(event.time for event in world.events if event.method == "weights")
    updates = 8 * (20 if prefetch == 0 else 10) + (0 if prefetch == 0 else 10)
    before = 10 + 10 + 10 * (2 if shards == 1 else 1)  # status, weights; fragments
    assert last == before + updates + 10


@pytest.mark.parametrize("prefetch", [0, 1])
def test_time_that_the_learner_waits_for_batches(prefetch: int) -> None:
    """`Time/trainer_wait_batch` is the time that the learner waits for batches."""
    # One round of 8 chunks, each of which takes 10 to sample and 1 to learn from.
    schedule = Schedule(replace(SAC, replay_ratio=128.0), fragment_rows=4, total_steps=4, prefetch=prefetch)
    world = simulate(replace(schedule, delays=Delays((0,), (10,), (1,)))).world
    _, line = world.reporter.lines[-1]
    seconds = world.run.counters.wall_time
    assert line["Time/trainer_wait_batch"] * seconds == pytest.approx(10 + 7 * (10 if prefetch == 0 else 9))


def test_a_stopping_run_trains_on_the_last_rollout() -> None:
    """A stopping run trains on its last rollout before it ends."""
    for calls in range(20):
        leg = simulate(Schedule(PPO, fragment_rows=4, total_steps=8, stop_after=calls))
        check(leg)


def test_the_weights_of_a_replacement_select_its_mode() -> None:
    """The weights of a replacement select its mode: random or explore."""
    # Player 1 of round 1 begins at random, and fails once learning has started.
    data = OffPolicy(batch_size=1, replay_ratio=1.0, learning_starts=2)
    schedule = Schedule(data, players=2, total_steps=6, max_staleness=1, max_failures=1)
    leg = simulate(replace(schedule, delays=Delays((4,), (0,), (1,)), failures=(PlayerFailure(1, False, 1),)))
    check(leg)
    replacement = next(offer.fragment for offer in leg.world.buffer.offered if offer.fragment.incarnation == 1)
    assert (replacement.version, replacement.mode) == (1, "explore")


# ------------------------------------------------------------------------------------- the simulation itself


class Slow:
    """Has methods whose calls are written down."""

    def __init__(self) -> None:
        """Start without calls."""
        self.calls: list[str] = []

    def say(self, word: str) -> str:
        """Record and return a word."""
        self.calls.append(word)
        return word

    def pair(self) -> tuple[str, str]:
        """Return a pair of words."""
        return "left", "right"

    def fail(self) -> None:
        """Raise an error."""
        raise FailedError("no")


def slow(seconds: float = 1.0, target: Slow | None = None) -> SimulatedHandle:
    """Return a simulated handle whose calls take `seconds`."""
    return SimulatedHandle("slow", target or Slow(), lambda: seconds, [])


def test_time_passes_only_virtually() -> None:
    """Virtual time passes without waiting."""

    async def main() -> float:
        """Sleep for days."""
        await asyncio.gather(asyncio.sleep(86_400), asyncio.sleep(3 * 86_400))
        return asyncio.get_running_loop().time()

    assert run_virtually(main) == 3 * 86_400


def test_deadlock_raises() -> None:
    """A deadlock raises an error."""

    async def main() -> None:
        """Wait for an event that no task sets."""
        await asyncio.gather(asyncio.sleep(1), asyncio.Event().wait())

    with pytest.raises(StuckError, match="deadlock at 1"):
        run_virtually(main)


def test_endless_loop_raises() -> None:
    """An endless loop raises an error."""

    async def main() -> None:
        """Loop forever."""
        while True:
            await asyncio.sleep(0)

    with pytest.raises(StuckError, match="no end after"):
        run_virtually(main)


def test_calls_run_in_order_and_wait_for_their_arguments() -> None:
    """Calls run in order and wait for their arguments."""
    target = Slow()

    async def main() -> float:
        """Call methods and wait for their results."""
        handle, other = slow(1, target), slow(10)
        left, right = other.call_pair(Slow.pair)
        waiting, last = handle.call(Slow.say, left), handle.call(Slow.say, "last")
        assert [await last, await waiting, await right] == ["last", "left", "right"]
        return asyncio.get_running_loop().time()

    assert run_virtually(main) == 10 + 1 + 1
    assert target.calls == ["left", "last"]


def test_call_fails_with_its_argument() -> None:
    """A call fails if its argument fails."""

    async def main() -> None:
        """Pass the result of a failing call to another call."""
        failing = slow().call(Slow.fail)
        with pytest.raises(FailedError):
            await slow().call(Slow.say, failing)

    run_virtually(main)


def test_a_dead_worker_fails_all_calls() -> None:
    """A dead worker fails running, waiting and future calls."""
    target = Slow()

    async def main() -> float:
        """Kill the worker during a call."""
        handle = slow(10, target)
        under_way, waiting = handle.call(Slow.say, "a"), handle.call(Slow.say, "b")
        handle.loop.call_later(3, handle.die, DiedError("gone"))
        for call in (under_way, waiting, handle.call(Slow.say, "c")):
            with pytest.raises(DiedError, match="gone"):
                await call
        return asyncio.get_running_loop().time()

    assert run_virtually(main) == 3
    assert target.calls == []


def test_a_timeout_does_not_cancel_the_call() -> None:
    """A timeout of the caller doesn't cancel the call."""
    target = Slow()

    async def main() -> None:
        """Wait for a call with a timeout, then without one."""
        ref = slow(5, target).call(Slow.say, "a")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_value(ref), 1)
        assert await ref == "a"

    run_virtually(main)
    assert target.calls == ["a"]


async def _value(ref: SimulatedRef) -> object:
    """Return the result of a reference."""
    return await ref


def test_pretraining_is_reported_when_it_begins() -> None:
    """The run reports once how many gradient steps it takes before it needs more data."""
    said = "training begins with 12 gradient steps (algo.pretrain_steps); the time left is known after them"
    for steps, expected in ((12, [said]), (0, [])):
        leg = simulate(Schedule(replace(SAC, pretrain_steps=steps), total_steps=20))
        check(leg)
        assert [text for _, text in leg.world.reporter.messages if "pretrain" in text] == expected
