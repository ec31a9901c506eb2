"""Puts a run together: checks it, starts its pieces where `run.mode` says, drives it, and leaves its folder behind.

Light to import: torch, Ray and Lightning are loaded by the pieces that need them.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.algos.args import OffPolicy
from sheeprl.checkpoint.resume import RunDir, clear_other_layout, first_incarnations, open_run_dir
from sheeprl.checkpoint.run_dir import checkpoints, lock_run_dir, replay_folder, video_folder, write_config
from sheeprl.config.schema import Config
from sheeprl.driver.workers import Workers
from sheeprl.envs.timeout import StopRequest
from sheeprl.metrics.time_breakdown import StartupTimer, describe, suggest
from sheeprl.metrics.watchdog import Watchdog, is_alive, watched
from sheeprl.utils import rank_variables
from sheeprl.utils.errors import ConfigError, RunFailedError, one_line, shell_command
from sheeprl.utils.gc_control import importing
from sheeprl.utils.installation import environment_warnings
from sheeprl.utils.process import Interrupted, StopSignals, ending_with_parent, exclusive, run_in_loop

if TYPE_CHECKING:
    from sheeprl.actors.handle import Handle
    from sheeprl.checkpoint.resume import Start
    from sheeprl.checkpoint.writer import CheckpointWriter
    from sheeprl.driver.replay import ReplayClient
    from sheeprl.driver.trainers import LearnerGroup
    from sheeprl.envs.transforms import Spaces
    from sheeprl.metrics.reporter import FileReporter
    from sheeprl.run import Run

PATIENCE: dict[int, float] = {signal.SIGINT: 10.0, signal.SIGTERM: 2.0}
"""Seconds that an interrupted run waits for the rounds that are being played, so that it goes on with them exactly."""

START_OVER = "no checkpoint was written yet: start it again, with another run.dir"
SERVICE_CHECK_SECONDS = 1.0
STOPPING = "stopping after this round and saving a checkpoint; press Ctrl-C again to stop now without saving\n"


@dataclass
class Control:
    """Ways to stop a run from outside.

    Args:
        signals: SIGINT and SIGTERM of this process.
        environments: request that interrupts the environments of this process.
        services: ids of processes without which the run can't go on, by description.
    """

    signals: StopSignals
    watchdog: Watchdog = field(init=False)
    environments: StopRequest = field(default_factory=StopRequest)
    services: dict[str, int] = field(default_factory=dict)

    def check_services(self) -> None:
        """Check that all services run.

        Raises:
            RunFailedError: a service died.
        """
        for name, pid in self.services.items():
            if not is_alive(pid):
                raise RunFailedError(f"{name} on this machine died")

    @contextmanager
    def watched(self, run_dir: Path) -> Iterator[None]:
        """Let another process report a hard end of this one within the block."""
        resume = f"sheeprl resume {shlex.quote(str(run_dir))}"
        with watched(run_dir, resume, START_OVER) as self.watchdog:
            self.signals.before_exit = lambda number: self.watchdog.announce(
                f"it did not stop on {signal.Signals(number).name}", "interrupted"
            )
            yield


@dataclass(frozen=True)
class Result:
    """What came of a run.

    Args:
        run_dir: its folder.
        policy_steps: decisions played, those before a resume included.
        gradient_steps: gradient steps taken.
        mean_return: mean over the last 100 episodes, None if none ended.
        interrupted_by: number of the signal that ended it early, after a checkpoint.
    """

    run_dir: Path
    policy_steps: int
    gradient_steps: int
    mean_return: float | None = None
    interrupted_by: int | None = None


def train(config: Config) -> Result:
    """Train as configured.

    Raises:
        ConfigError: the configuration doesn't fit the environment or the machine.
        RunFailedError: the run could not go on.
    """
    return train_tree(config.model_dump())


def train_tree(tree: Mapping[str, Any]) -> Result:
    """Train as a raw tree of settings says.

    Raises:
        ConfigError: with every mistake in it; nothing was started and no folder made.
        RunFailedError: the run could not go on.
    """
    startup = StartupTimer()
    signals = StopSignals()
    # Rank 0 handles the signals.
    handling = signals if rank_variables.local_rank() == 0 else nullcontext()
    with exclusive("the run"), handling, rank_variables.only_own():
        from sheeprl.config.checks import check

        resolved = check(tree)
        startup.done("configuration and a look at the environment")
        if resolved.config.log.level != "error" and rank_variables.local_rank() == 0:
            for warning in resolved.warnings:
                _say(f"warning: {warning}")
        train = _train_coupled if resolved.config.is_coupled else _train_decoupled
        return train(resolved.config, resolved.spaces, startup, Control(signals))


def _train_decoupled(config: Config, spaces: Spaces, startup: StartupTimer, control: Control) -> Result:
    """Every piece a Ray actor."""
    place = open_run_dir(config, startup, config.buffer.shards, _say)
    with lock_run_dir(place.run_dir), control.watched(place.run_dir):
        clear_other_layout(config, place)
        return _train_on_ray(config, spaces, place, control)


def _train_on_ray(config: Config, spaces: Spaces, place: RunDir, control: Control) -> Result:
    from sheeprl.actors.ray import environment

    if mistakes := list(environment.mistakes(config)):
        raise ConfigError(mistakes)
    environment.configure(config)
    with importing():
        from sheeprl.actors.ray import cluster  # Ray takes its time to import: only once all mistakes are out

    place.startup.done("imports")
    if config.log.level in ("debug", "info"):
        _say("starting the run's players, replay and trainers as actors of Ray, which takes some seconds")
    try:
        connected = cluster.connect(config)
    except cluster.ClusterError as error:
        raise RunFailedError(str(error)) from error
    place.startup.done("Ray")
    control.signals.install()  # Ray has its own handler of SIGTERM
    if connected:
        control.watchdog.end_with_run(cluster.service_pids())
    control.services = cluster.vital_services()
    control.watchdog.watch(control.services)
    try:
        if config.trainer.accelerator == "auto":
            config = _with_accelerator(config, "cuda" if cluster.cuda_available(config) else "cpu")
        fleet = cluster.Fleet(config, spaces, video_folder(config, place.run_dir), replay_folder(config, place.run_dir))
        workers = Workers(
            fleet.make_player,
            _shards(config, fleet.shards, fleet.make_shard),
            fleet.learner,
            fleet.make_trainers,
            fleet.players_leaving,
        )

        async def main() -> Result:
            starting = asyncio.ensure_future(fleet.start(first_incarnations(config, place), _say))
            await _unless_services_die(control, starting)
            starting.result()
            place.startup.done("actors")
            return await _run_driver(config, workers, place, control)

        try:
            return run_in_loop(main)
        except cluster.ClusterError as error:
            raise RunFailedError(str(error)) from error
        finally:
            if not connected:  # a cluster lets go of a run's actors when the run disconnects
                fleet.close()
    finally:
        if connected:
            cluster.disconnect()


def _train_coupled(config: Config, spaces: Spaces, startup: StartupTimer, control: Control) -> Result:
    """Every piece an object of this process, or of the ranks that Fabric starts."""
    ranks = config.trainer.devices
    # The other ranks carry out rank 0's commands and leave the folder to it. Rank 0 also ends them; a signal only
    # interrupts their environments.
    if rank_variables.local_rank() != 0:
        for number in PATIENCE:
            signal.signal(number, lambda number, frame: control.environments.make(PATIENCE[number]))
        with ending_with_parent():
            return _train_in_process(config, spaces, RunDir(Path(), None, ranks), control)
    place = open_run_dir(config, startup, ranks, _say)
    with lock_run_dir(place.run_dir), control.watched(place.run_dir):
        clear_other_layout(config, place)
        return _train_in_process(config, spaces, place, control)


def _train_in_process(config: Config, spaces: Spaces, place: RunDir, control: Control) -> Result:
    with importing():
        from sheeprl.actors.fabric import build_learner, local_fabric, signal_ranks
        from sheeprl.actors.handle import LocalHandle
        from sheeprl.actors.player import Player
        from sheeprl.actors.replay import build_replay

    ranks = config.trainer.devices
    if config.trainer.accelerator == "auto":
        import torch

        config = _with_accelerator(config, "cuda" if torch.cuda.device_count() >= ranks else "cpu")
    place.startup.done("imports")
    fabric = local_fabric(config)
    control.signals.on_received = lambda number: signal_ranks(fabric, number)
    learner = build_learner(config, spaces, fabric, has_shard=ranks > 1)
    if learner.compiled is not None:
        learner.compiled.while_compiling = control.signals.raising  # it takes too long to wait for
    run_dir = Path(fabric.broadcast(str(place.run_dir))) if ranks > 1 else place.run_dir
    try:
        replay = build_replay(config, fabric.global_rank, ranks, folder=replay_folder(config, run_dir))
    except (OSError, ValueError) as error:
        raise RunFailedError(f"the replay can't be opened: {one_line(error)}") from error
    place.startup.done("learner and replay")

    def make_player(number: int, incarnation: int) -> Player:
        folder = video_folder(config, place.run_dir) if number == 0 else None
        return Player(config, spaces, number, incarnation, folder, stop=control.environments)

    if ranks == 1:
        shards = _shards(config, [LocalHandle(replay)])
        workers = Workers(lambda *who: LocalHandle(make_player(*who)), shards, LocalHandle(learner))
        return run_in_loop(lambda: _run_driver(config, workers, place, control))
    return _train_ranks(config, place, control, fabric, {"buffer": replay, "learner": learner}, make_player)


def _train_ranks(
    config: Config,
    place: RunDir,
    control: Control,
    fabric: Any,
    objects: dict[str, Any],
    make_player: Callable[[int, int], Any],
) -> Result:
    """Drive from rank 0; serve on the others."""
    from sheeprl.actors.multi_rank import RankDispatcher, RankHandle

    link = RankDispatcher(fabric, objects, {"player": make_player})
    if fabric.global_rank != 0:
        link.serve()
        return Result(place.run_dir, 0, 0)

    def player(number: int, incarnation: int) -> Handle:
        name, rank = f"player {number}.{incarnation}", number % fabric.world_size
        link.make("player", name, rank, (number, incarnation))
        return RankHandle(link, name, rank)

    parts = [RankHandle(link, "buffer", rank) for rank in range(fabric.world_size)]
    replay = _shards(config, parts, together=RankHandle(link, "buffer"))
    workers = Workers(player, replay, RankHandle(link, "learner"))
    try:
        return run_in_loop(lambda: _run_driver(config, workers, place, control))
    finally:
        link.end()


def _shards(
    config: Config,
    handles: Sequence[Handle],
    make_shard: Callable[[int, int], Handle] | None = None,
    together: Handle | None = None,
) -> ReplayClient:
    """The replay as the run speaks to it."""
    from sheeprl.driver.replay import ReplayClient

    data = config.algo.data()
    needed = data.batch_size if isinstance(data, OffPolicy) else 1
    return ReplayClient(handles, needed, config.run.seed, make_shard, together)


async def _run_driver(config: Config, workers: Workers, place: RunDir, control: Control) -> Result:
    """Run to the end, and write down what was asked of whom if that is wanted."""
    from sheeprl.debug.recorder import recorded

    checkpoint = place.start.checkpoint.name if place.start else None
    with recorded(config, workers, place.run_dir, checkpoint, _say) as workers:
        return await _run_driver_to_end(config, workers, place, control)


async def _run_driver_to_end(config: Config, workers: Workers, place: RunDir, control: Control) -> Result:
    """Run to the end, an interruption or a failure; whatever it is stands in the run's folder."""
    from sheeprl.checkpoint.writer import CheckpointWriter

    start = place.start
    reporter = _open_reporter(config, place)
    store = CheckpointWriter(
        place.run_dir, config, place.shards, on_problem=lambda text: reporter.message(text, "error")
    )
    try:
        run = _make_run(config, workers, place, reporter, store)
        if start is not None:
            await _load(workers.replay, run.trainers, start)
        write_config(config, place.run_dir)
    except BaseException:
        reporter.close()
        raise
    place.startup.done("checkpoint and folder")
    reporter.message(str(place.startup), "debug")
    status, caught, cause = "failed", None, None
    try:
        await _train_unless_ended(run, control)
        caught = control.signals.caught[0] if control.signals.caught else None
        status = "interrupted" if caught else "done"
    except RunFailedError as error:
        cause = error.reason
        raise RunFailedError(_tell_failure(place.run_dir, error)) from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        status = "interrupted"
        reporter.message(f"stopped without saving a checkpoint; {_advice(place.run_dir)}", "warning")
        raise
    finally:
        counters = run.counters
        wall_time = round(time.monotonic() - run.checkpointing.began, 3)
        reporter.event(
            "end",
            policy_steps=counters.policy_steps,
            gradient_steps=counters.gradient_steps,
            wall_time=wall_time,
            restarts=counters.restarts,
            trainer_restarts=counters.trainer_restarts,
            buffer_restarts=counters.buffer_restarts,
            status=status,
            **({"cause": cause} if cause else {}),
        )
        control.watchdog.has_end_event(cause)
        reporter.close()
        run.players.close()
    _print_summary(config, place, run, status, wall_time)
    return Result(place.run_dir, counters.policy_steps, counters.gradient_steps, run.stats.mean_return, caught)


def _make_run(config: Config, workers: Workers, place: RunDir, reporter: FileReporter, store: CheckpointWriter) -> Run:
    """The driver, which goes on from the checkpoint if there is one."""
    from sheeprl.driver.clock import WallClock
    from sheeprl.driver.players import PlayerGroup
    from sheeprl.driver.trainers import LearnerGroup
    from sheeprl.metrics.counters import Counters, RunStats
    from sheeprl.run import Run

    start, clock = place.start, WallClock()
    stats = RunStats.from_state_dict(start.stats, clock.time()) if start else RunStats(Counters(), clock.time())
    kept = start.players(config) if start else {}
    players = PlayerGroup(config.players.num or 1, workers.make_player, stats.counters.incarnations, kept)
    trainers = LearnerGroup(
        workers.learner,
        workers.make_learner,
        keeps_updates=not config.algo.data().is_off_policy,
        warms_up=bool(config.trainer.compile) and not config.is_coupled,
    )
    workers.replay.newest_save = lambda: store.newest_buffer
    return Run(config, players, workers.replay, trainers, reporter, store, stats, clock, leaving=workers.leaving)


async def _load(replay: ReplayClient, trainers: LearnerGroup, start: Start) -> None:
    """Let the pieces take over the checkpoint."""
    import numpy as np

    try:
        await trainers.restore(np.frombuffer(start.agent(), np.uint8))
        if start.buffer is not None:
            await replay.load(start.buffer)
    except Exception as error:
        raise RunFailedError(
            f"{start.checkpoint} can't be loaded: {one_line(error)}; move it away to go on from the one before"
        ) from error


async def _train_unless_ended(run: Run, control: Control) -> None:
    """Train. A first SIGINT or SIGTERM stops the run after a checkpoint, a second one ends it at once.

    Raises:
        Interrupted: the run is stopped where it has nothing to save.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def stop(number: int) -> None:
        run.stop(PATIENCE[number])
        if not ended.done() and (not run.has_begun or run.trainers.is_warming_up):
            ended.set_exception(Interrupted(number))

    def on_signal(number: int) -> None:
        # At once, even if the loop is busy for long; by the system's own call, since it may interrupt a print, and
        # without a word where there is no stderr.
        with suppress(OSError):
            os.write(2, STOPPING.encode())
        # Who sends SIGTERM, as `ray job stop` does, kills soon after.
        control.environments.make(PATIENCE[number])
        loop.call_soon_threadsafe(stop, number)

    control.signals.is_stuck = lambda: control.environments.is_ignored
    with control.signals.calling(on_signal):
        training = asyncio.ensure_future(run.train())
        await _unless_services_die(control, training, ended)
        if ended.done():
            ended.result()
        training.result()


async def _unless_services_die(control: Control, *futures: asyncio.Future[Any]) -> None:
    """Wait for the first of some futures, and cancel the first of them if it isn't done.

    Raises:
        RunFailedError: a service of the run died.
    """
    try:
        while not any(future.done() for future in futures):
            await asyncio.wait(futures, timeout=SERVICE_CHECK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not futures[0].done():
                control.check_services()
        if futures[0].done() and not futures[0].cancelled() and futures[0].exception() is not None:
            control.check_services()  # which explains the other failure
    finally:
        if not futures[0].done():
            futures[0].cancel()
            await asyncio.wait({futures[0]})


def _advice(run_dir: Path) -> str:
    """Return the command that resumes a run, or what to do without a checkpoint."""
    return f"sheeprl resume {shlex.quote(str(run_dir))}" if checkpoints(run_dir) else START_OVER


def _open_reporter(config: Config, place: RunDir) -> FileReporter:
    from sheeprl.metrics.reporter import FileReporter, Progress, rewind

    start = place.start
    counters: dict[str, Any] = start.stats["counters"] if start else {}
    if start is not None:
        rewind(place.run_dir, start.metrics_size)
    reporter = FileReporter(
        place.run_dir,
        config.log.level,
        start_time=counters.get("wall_time", 0.0),
        resumed_at=counters["policy_steps"] if start else None,
    )
    reporter.message(
        f"{config.algo.name} on {config.env.id}, {config.run.mode}: {_count(config.players.num or 1, 'player')} with "
        f"{_count(config.env.num_envs, 'environment')}{_eval_envs(config)}, "
        f"{_count(config.trainer.devices, 'rank')} on {config.trainer.accelerator} with "
        f"{_count(config.trainer.threads or 1, 'thread')}"
        + ("; compiling gradient steps (about 20 s the first time, then cached)" if config.trainer.compile else "")
        + (
            "; gradient steps are not compiled, since mps does not support it"
            if config.trainer.accelerator == "mps"
            else ""
        )
    )
    if told := _told_of_cores(config):
        reporter.message(told, "warning")
    for warning in environment_warnings():
        reporter.message(warning, "warning")
    reporter.message(f"folder: {place.run_dir}")
    policy_steps, gradient_steps = counters.get("policy_steps", 0), counters.get("gradient_steps", 0)
    if start is not None:
        reporter.message(f"going on from {start.checkpoint.name}")
        reporter.event("resume", step=policy_steps)
    total, players = config.run.total_steps, config.players.num or 1
    if policy_steps >= total:
        more = shell_command("resume", place.run_dir, f"run.total_steps={policy_steps + total}")
        reporter.message(
            f"run.total_steps={total} is reached already, by {policy_steps} policy steps; to train on: {more}",
            "warning",
        )
    reporter.progress(Progress(policy_steps, total, gradient_steps, None, players, players))
    return reporter


def _eval_envs(config: Config) -> str:
    """Return how many environments an evaluation makes besides those of training, "" if there is no evaluation."""
    from sheeprl.actors.evaluation import LANES

    most = min(config.eval.episodes, LANES)
    return f" and {most} more in evaluations" if most else ""


def _told_of_cores(config: Config) -> str | None:
    """What is to be said if more is to run at once than this machine has cores for; a cluster has others."""
    from sheeprl.config.defaults import available_cores, cluster_address

    players, cores, threads = config.players.num or 1, available_cores(), config.trainer.threads_per_node
    if config.is_coupled:
        shared, lower = "", "trainer.threads"
        needed: float = threads
    else:
        shared, lower = f"{_count(players, 'player')} and ", "players.num or trainer.threads"
        lower += ", or players.cpus if the environments wait rather than compute"
        needed = 0 if cluster_address(config) else players * config.players.cpus + threads
    if needed <= cores or players * threads == 1:
        return None
    return f"{shared}{_count(threads, 'thread')} of the trainer share {_count(cores, 'core')}: lower {lower}"


def _tell_failure(run_dir: Path, error: Any) -> str:
    """Keep the trace of a failure; the line that says both."""
    path = run_dir / "error.log"
    own = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    path.write_text(f"{error.trace}\n{own}" if error.trace else own, encoding="utf-8")
    return f"{error.reason}; {_advice(run_dir)}; the whole trace is in {path}"


def _print_summary(config: Config, place: RunDir, run: Run, status: str, wall_time: float) -> None:
    """Where the time went, and what was done; the last line says what to type next."""
    if config.log.level in ("warning", "error"):
        return
    counters, breakdown = run.counters, run.breakdown
    helps = suggest(breakdown, config)
    _say(
        f"time: {describe(breakdown, config)}; start-up {place.startup.seconds:.1f} s" + (f"; {helps}" if helps else "")
    )
    _say(
        f"{status}: {counters.policy_steps:,} policy steps and {counters.gradient_steps:,} gradient steps in "
        f"{wall_time:.0f} s; {shell_command('eval' if status == 'done' else 'resume', place.run_dir)}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _say(text: str) -> None:
    print(text, flush=True)


def _with_accelerator(config: Config, accelerator: str) -> Config:
    """The same with the accelerator that was found."""
    update = {"accelerator": accelerator, "compile": bool(config.trainer.compile) and accelerator != "mps"}
    return config.model_copy(update={"trainer": config.trainer.model_copy(update=update)})
