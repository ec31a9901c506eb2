"""Evaluations of the newest policy: on a worker that only evaluates, or on the first player."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from sheeprl.actors.evaluation import Evaluation, describe_cut
from sheeprl.actors.handle import Handle, LostError, awaited, later
from sheeprl.actors.interfaces import PlayerInterface
from sheeprl.callbacks.base import Callbacks
from sheeprl.config.schema import Config
from sheeprl.driver.collection import Collector
from sheeprl.driver.players import PlayerGroup
from sheeprl.envs.timeout import StoppedError
from sheeprl.metrics.counters import RunStats
from sheeprl.metrics.reporter import Reporter
from sheeprl.utils.errors import one_line

MOST_PENDING = 8  # evaluations; each holds its weights in the object store


class Evaluator:
    """Evaluates the policy during and after training.

    Args:
        config: configuration of the run.
        stats: counters of the run.
        players: the group of all players.
        collector: knows the newest weights and whether the run stops.
        reporter: receives metrics and messages.
        make: makes a worker for evaluations, which then don't delay the players; gets the number of earlier workers.
            None if the first player evaluates between two fragments.
        callbacks: callbacks of the run, which get the results.
    """

    def __init__(
        self,
        config: Config,
        stats: RunStats,
        players: PlayerGroup,
        collector: Collector,
        reporter: Reporter,
        make: Callable[[int], Handle] | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        """Store the arguments; the first evaluation during training makes the worker."""
        self.config, self.stats, self.players = config, stats, players
        self.collector, self.reporter, self.make = collector, reporter, make
        self.callbacks = callbacks or Callbacks()
        self.handle: Handle | None = None
        self.incarnations = 0
        self.is_player_busy = False  # the first player is in an evaluation that was given up
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Start an evaluation beside training, unless too many are in progress."""
        self._tasks = {task for task in self._tasks if not task.done() or task.exception()}
        if len(self._tasks) >= MOST_PENDING:
            step = self.stats.counters.policy_steps
            self.reporter.message(
                f"the evaluation at step {step} is skipped, since the ones before take too long; use a larger "
                "eval.every or fewer eval.episodes",
                "warning",
            )
            return
        if self.handle is None and self.make is not None:
            self.handle = self.make(self.incarnations)
            self.incarnations += 1
        self._tasks.add(asyncio.ensure_future(self.evaluate()))

    async def finish(self) -> None:
        """Wait for all evaluations that `begin` started."""
        await asyncio.gather(*self._tasks)

    async def evaluate(self) -> None:
        """Play episodes with the newest weights and log their returns.

        Without a worker for evaluations, such as at the end of a run, the first player plays them.
        """
        published, step, handle = self.collector.published, self.stats.counters.policy_steps, self.handle
        assert published is not None
        env_values = self.stats.env_changes.newest
        before, self.stats.evaluated_at = self.stats.evaluated_at, step
        self.stats.evaluating.append(step)  # until the next border, so that no result is lost
        try:
            player = handle or await self.players.get(0)
            playing = player.call(
                PlayerInterface.evaluate, later(published.weights), self.config.eval.episodes, env_values or None
            )
            result: Evaluation | None = await self.collector.stopping.wait_unless_interrupted(awaited(playing))
            if result is None:
                self.is_player_busy |= handle is None
                raise StoppedError
        except StoppedError:
            self.stats.evaluated_at = before
            self.reporter.message(f"the evaluation at step {step} is given up, since the run stops", "warning")
            return
        except Exception as error:
            if isinstance(error, LostError):
                self._drop(handle)
            self.reporter.message(f"the evaluation at step {step} failed: {one_line(error)}", "error")
            self.stats.evaluating.remove(step)
            return
        self._report(result, step)

    def _drop(self, handle: Handle | None) -> None:
        """Release a lost worker; the next evaluation makes another one."""
        if handle is not None and handle is self.handle:
            handle.close()
            self.handle = None

    def _report(self, result: Evaluation, step: int) -> None:
        """Log the result of an evaluation."""
        metrics = {}
        for name, part in {"": result, **result.named}.items():
            prefix, of = (f"Test/{name}", f" of {name}") if name else ("Test", "")
            metrics[f"{prefix}/cumulative_reward"] = part.mean_return
            metrics[f"{prefix}/cumulative_reward_std"] = part.std_return
            self.reporter.message(f"evaluation{of} at step {step}: {part}")
            if cut := describe_cut(part):
                self.reporter.message(cut, "warning")
        self.reporter.metrics(step, metrics)
        self.callbacks.post("on_evaluation", replace(result, policy_steps=step))

    def close(self) -> None:
        """Release the worker."""
        if self.handle is not None:
            self.handle.close()
