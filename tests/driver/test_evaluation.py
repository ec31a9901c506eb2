"""Test evaluations on a worker that only evaluates."""

from collections.abc import Callable

from sheeprl.algos.args import OffPolicy
from tests.helpers.simulation import (
    Delays,
    DiedError,
    FakePlayer,
    Schedule,
    SimulatedHandle,
    World,
    run_virtually,
)

SCHEDULE = Schedule(
    OffPolicy(batch_size=1, replay_ratio=1.0),
    total_steps=12,
    eval_every=4,
    eval_episodes=2,
    delays=Delays(player=(1,), buffer=(0,), learner=(1,)),
)


def train(seconds: float, on_call: Callable[[SimulatedHandle, str], None] = lambda handle, method: None) -> World:
    """Return a run whose evaluations take `seconds` on workers that only evaluate."""

    async def run() -> World:
        """Run the simulated driver."""
        world = World(SCHEDULE)

        def make(incarnation: int) -> SimulatedHandle:
            """Make a worker."""
            player = FakePlayer(SCHEDULE, SCHEDULE.players, incarnation)
            return SimulatedHandle(f"evaluator {incarnation}", player, lambda: seconds, world.events, on_call)

        world.run.evaluator.make = make
        await world.run.train()
        return world

    return run_virtually(run)


def end_of_training(world: World) -> float:
    """Return the time at which the last weights were published."""
    return max(event.time for event in world.events if event.method == "weights")


def evaluated_by(world: World) -> list[str]:
    """Return the workers that were called to evaluate, in order."""
    return [event.actor for event in world.events if (event.what, event.method) == ("requested", "evaluate")]


def test_evaluations_do_not_delay_training() -> None:
    """A slow evaluation delays neither players nor the learner, and its result is logged for the step it began at."""
    quick, slow = train(seconds=0), train(seconds=1000)
    assert end_of_training(quick) == end_of_training(slow) < 1000
    steps = [step for step, line in slow.reporter.lines if "Test/cumulative_reward" in line]
    assert steps == [step for step, line in quick.reporter.lines if "Test/cumulative_reward" in line] == [4, 8, 12]
    assert set(evaluated_by(slow)) == {"evaluator 0"}


def test_evaluations_that_take_too_long_are_skipped(monkeypatch) -> None:
    """No more than some evaluations are in progress; the others are skipped with a warning."""
    monkeypatch.setattr("sheeprl.driver.evaluation.MOST_PENDING", 1)
    world = train(seconds=1000)
    assert len(evaluated_by(world)) == 2  # the first one, and the last one after training
    warnings = [text for level, text in world.reporter.messages if level == "warning"]
    reason = "since the ones before take too long; use a larger eval.every or fewer eval.episodes"
    assert warnings == [f"the evaluation at step {step} is skipped, {reason}" for step in (8, 12)]


def test_a_lost_worker_is_replaced_at_the_next_evaluation() -> None:
    """The death of the worker costs one evaluation and doesn't count as a player's failure."""

    def die_once(handle: SimulatedHandle, method: str) -> None:
        """End the first worker in its first call."""
        if handle.name == "evaluator 0":
            handle.die(DiedError("the machine is gone"))

    world = train(seconds=0, on_call=die_once)
    assert evaluated_by(world) == ["evaluator 0", "evaluator 1", "evaluator 1"]
    errors = [text for level, text in world.reporter.messages if level == "error"]
    assert errors == ["the evaluation at step 4 failed: the machine is gone"]
    assert world.run.counters.restarts == 0
