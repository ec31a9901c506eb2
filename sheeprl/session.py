"""Run the driver with callbacks, reporter and signals, and report the end of the run."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.callbacks.base import Callback, Callbacks
from sheeprl.checkpoint.files import INITIAL
from sheeprl.checkpoint.initial_rows import keep_rows
from sheeprl.checkpoint.resume import RunDir
from sheeprl.checkpoint.run_dir import (
    checkpoints,
    clear_run_dir,
    write_config,
)
from sheeprl.checkpoint.run_info import write_run_info
from sheeprl.checkpoint.runs import is_done, last_event
from sheeprl.checkpoint.spaces_file import write_spaces
from sheeprl.config.schema import Config
from sheeprl.driver.control import Control
from sheeprl.driver.workers import Workers
from sheeprl.metrics.summary import closing_lines, core_warning, opening_line
from sheeprl.utils.errors import RunFailedError, one_line, shell_command
from sheeprl.utils.files import write_atomically
from sheeprl.utils.installation import environment_warnings
from sheeprl.utils.process import Interrupted
from sheeprl.utils.profiling import profile_lines
from sheeprl.utils.text import counted

if TYPE_CHECKING:
    from sheeprl.checkpoint.initial import InitialNetworks
    from sheeprl.checkpoint.initial_rows import InitialRows
    from sheeprl.checkpoint.start import Start
    from sheeprl.checkpoint.writer import CheckpointWriter
    from sheeprl.driver.replay import ReplayClient
    from sheeprl.driver.trainers import LearnerGroup
    from sheeprl.metrics.panel import View
    from sheeprl.metrics.reporter import FileReporter, Reporter
    from sheeprl.run import Run

PATIENCE: dict[int, float] = {signal.SIGINT: 10.0, signal.SIGTERM: 2.0, signal.SIGHUP: 2.0}
"""Seconds to wait for the rounds in progress after a signal, so that a resumed run is bit-identical."""
JOB_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"  # seconds between a Ray job's SIGTERM and its end


def stop_notice(number: int) -> str:
    """Return the line that a run prints at the first signal."""
    again = "press Ctrl-C again to stop" if number == signal.SIGINT else "another signal stops the run"
    return f"stopping after this round and saving a checkpoint; {again} now without saving\n"


def patience(number: int) -> float:
    """Return the seconds to wait for the rounds in progress after a signal.

    A Ray job is killed a set time after its SIGTERM. A third of it remains for the checkpoint.
    """
    try:
        wait = float(os.environ[JOB_WAIT])
    except (KeyError, ValueError):
        return PATIENCE[number]
    return wait * 2 / 3 if number == signal.SIGTERM else PATIENCE[number]


@dataclass(frozen=True)
class Result:
    """Result of a run.

    Args:
        run_dir: folder of the run.
        policy_steps: policy steps, including those before a resume.
        gradient_steps: gradient steps, including those before a resume.
        mean_return: mean return of the last 100 training episodes, which explore; None if no episode ended. The
            returns of evaluations are in `evaluations.jsonl`.
        interrupted_by: number of the signal that ended the run early, after a checkpoint.
    """

    run_dir: Path
    policy_steps: int
    gradient_steps: int
    mean_return: float | None = None
    interrupted_by: int | None = None


def finished(config: Config, opened: RunDir, is_repeated: bool) -> Result | None:
    """Return the result of a run that is finished, and say how to train it further; None if something is left to do.

    Args:
        config: configuration of the run.
        opened: its folder.
        is_repeated: True if the command that began the run is repeated. A run that a condition has ended is finished
            then, and goes on if it is resumed.
    """
    from sheeprl.metrics.counters import RunStats

    if opened.start is None:
        return None
    stats, end = RunStats.from_state_dict(opened.start.stats, 0.0), last_event(opened.run_dir)
    steps, total = stats.counters.policy_steps, config.run.total_steps
    if not is_done(end, total) or end.get("policy_steps") != steps or (steps < total and not is_repeated):
        return None
    if config.log.level != "error":
        if steps >= total:
            reason = f"run.total_steps={total} is already reached by {counted(steps, 'policy step')}"
            command = shell_command("resume", opened.run_dir, f"run.total_steps={steps + total}")
        else:
            reason, command = f"the run is finished: {end['stopped_by']}", shell_command("resume", opened.run_dir)
        print(f"warning: {reason}; to continue training: {command}", file=sys.stderr, flush=True)
    return Result(opened.run_dir, steps, stats.counters.gradient_steps, stats.mean_return)


async def run_driver(config: Config, workers: Workers, opened: RunDir, control: Control) -> Result:
    """Run the driver, and record all calls if `log.record` is set."""
    from sheeprl.debug.recorder import recorded

    checkpoint = opened.start.checkpoint.name if opened.start else None
    with recorded(config, workers, opened.run_dir, checkpoint, say) as workers:
        return await _run_driver_to_end(config, workers, opened, control)


async def _run_driver_to_end(config: Config, workers: Workers, opened: RunDir, control: Control) -> Result:
    """Run the driver until the run is done, interrupted or failed, and report the end in the run's folder."""
    from sheeprl.checkpoint.writer import CheckpointWriter

    start = opened.start
    took = start.stats["counters"]["wall_time"] if start else 0.0
    began = time.monotonic() - took  # one zero for the times of metrics and of checkpoints
    reporter = workers.observe(_open_reporter(config, opened, took))
    control.report = reporter.message
    store = CheckpointWriter(
        opened.run_dir,
        config,
        opened.shards,
        on_problem=lambda text: reporter.message(text, "error"),
        storage=opened.storage,
    )
    try:
        run = await _prepare(config, workers, opened, reporter, store, control)
    except BaseException:
        reporter.close()
        raise
    run.checkpointing.began = began
    opened.startup.done("checkpoint and folder")
    reporter.message(str(opened.startup), "debug")
    status, caught, cause, is_empty = "failed", None, None, False
    try:
        await _train_unless_ended(run, control)
        caught = control.signals.caught[0] if control.signals.caught else None
        status = "interrupted" if caught else "done"
    except RunFailedError as error:
        cause = error.reason
        raise RunFailedError(_write_error_log(opened.run_dir, config, error)) from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        status = "interrupted"
        is_empty = start is None and run.counters.policy_steps == 0 and not checkpoints(opened.run_dir)
        advice = "its folder is removed; start it again" if is_empty else _advice(opened.run_dir, config)
        reporter.message(f"stopped without saving a checkpoint; {advice}", "warning")
        raise
    finally:
        _end_callbacks(run, status)
        wall_time = _report_end(run, reporter, status, cause)
        control.watchdog.has_end_event(cause)
        reporter.close()
        run.players.close()
        run.evaluator.close()
        if is_empty:
            clear_run_dir(opened.run_dir)
    if config.log.level in ("debug", "info"):
        lines = closing_lines(
            config, opened.run_dir, status, run.counters, run.breakdown, opened.startup.seconds, wall_time
        )
        lines += profile_lines(opened.run_dir) if config.log.profile else []
        say("\n".join(lines))
    counters = run.counters
    return Result(opened.run_dir, counters.policy_steps, counters.gradient_steps, run.stats.mean_return, caught)


async def _prepare(
    config: Config, workers: Workers, opened: RunDir, reporter: Reporter, store: CheckpointWriter, control: Control
) -> Run:
    """Make the driver, restore trainers and replay, and write the files that describe the run."""
    start = opened.start
    run = _make_run(config, workers, opened, reporter, store, _make_callbacks(config, opened, control))
    if start is not None:
        await _load(workers.replay, run.trainers, start)
    if opened.rows is not None:
        await _begin_with(workers.replay, opened.rows, opened.run_dir, reporter)
    if opened.initial is not None:
        await _initialize(run.trainers, opened.initial, opened.run_dir if config.log.record else None)
    write_config(config, opened.run_dir)
    if opened.spaces is not None:
        write_spaces(opened.spaces, opened.run_dir)
    write_run_info(config, opened.run_dir, run.counters.policy_steps if start else None)
    return run


def _report_end(run: Run, reporter: Reporter, status: str, cause: str | None) -> float:
    """Write the event of the run's end, and return the run's wall time in seconds."""
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
        **({"stopped_by": run.callbacks.stopped_by} if run.callbacks.stopped_by else {}),
    )
    return wall_time


def _make_callbacks(config: Config, opened: RunDir, control: Control) -> Callbacks:
    """Return the callbacks of a run: its files, its conditions to stop early, and those of the user."""
    from sheeprl.callbacks.records import RecordFiles, rewind_records
    from sheeprl.callbacks.tensorboard import TensorBoardConfig
    from sheeprl.callbacks.trackers import TRACKERS, TrackerProcess
    from sheeprl.callbacks.until import Until

    if opened.start is not None:
        rewind_records(opened.run_dir, opened.start.stats)
    own: list[Callback] = [RecordFiles(opened.run_dir)]
    own += [TensorBoardConfig(opened.run_dir)] if "tensorboard" in config.log.to else []
    own += [TrackerProcess(name, opened.run_dir) for name in config.log.to if name in TRACKERS]
    own += [Until(config.run.until)] if config.run.until else []
    return Callbacks([*own, *control.callbacks], opened.run_dir)


def _end_callbacks(run: Run, status: str) -> None:
    """Call the callbacks with the end of the run; report an exception, since the run is over."""
    try:
        run.end_callbacks(status)
    except (RunFailedError, OSError) as error:
        run.reporter.message(str(error), "error")


def _make_run(
    config: Config,
    workers: Workers,
    opened: RunDir,
    reporter: Reporter,
    store: CheckpointWriter,
    callbacks: Callbacks,
) -> Run:
    """Make the driver, with the counters and player states of the checkpoint if there is one."""
    from sheeprl.driver.clock import WallClock
    from sheeprl.driver.players import PlayerGroup
    from sheeprl.driver.trainers import LearnerGroup
    from sheeprl.metrics.counters import Counters, RunStats
    from sheeprl.run import Run

    start, clock = opened.start, WallClock()
    stats = RunStats.from_state_dict(start.stats, clock.time()) if start else RunStats(Counters(), clock.time())
    player_states = start.players(config) if start else {}
    players = PlayerGroup(config.num_players, workers.make_player, stats.counters.incarnations, player_states)
    trainers = LearnerGroup(
        workers.learner,
        workers.make_learner,
        keeps_updates=not config.algo.data().is_off_policy,
        warms_up=bool(config.trainer.compile) and not config.is_coupled,
    )
    workers.replay.newest_save = lambda: store.newest_buffer
    parts = config, players, workers.replay, trainers, reporter, store, stats, clock
    return Run(*parts, workers.find_moves, workers.make_evaluator, callbacks)


async def _load(replay: ReplayClient, trainers: LearnerGroup, start: Start) -> None:
    """Restore trainers and replay from a checkpoint."""
    import numpy as np

    try:
        await trainers.restore(np.frombuffer(start.agent(), np.uint8))
        if start.buffer is not None:
            await replay.load(start.buffer)
    except Exception as error:
        raise RunFailedError(
            f"{start.checkpoint} can't be loaded: {one_line(error)}; undo changes of the run's config.yaml, or move "
            "the checkpoint away to resume from the one before"
        ) from error


async def _begin_with(replay: ReplayClient, rows: InitialRows, run_dir: Path, reporter: Reporter) -> None:
    """Fill the replay with the saved rows of another run, whose files are kept in the folder of this one."""
    try:
        rows = keep_rows(rows, run_dir)
        await replay.add_initial(rows.folder)
    except Exception as error:
        reason = f"{rows.folder} can't be loaded: {one_line(error)}; every shard's node needs it"
        raise RunFailedError(f"buffer.init_from={rows.origin}: {reason}") from error
    other = f"; they are of another environment: {rows.other_env}" if rows.other_env else ""
    level = "warning" if other else "info"
    reporter.message(f"the replay begins with {counted(replay.size, 'row')} of {rows.origin}{other}", level)


async def _initialize(trainers: LearnerGroup, initial: InitialNetworks, record_dir: Path | None) -> None:
    """Put networks of another run into the trainers; store the resulting state in a folder for re-execution."""
    state = initial.put_into((await trainers.take_snapshot()).data)
    if record_dir is not None:
        write_atomically(record_dir / INITIAL, state.tobytes())
    await trainers.restore(state)


async def _train_unless_ended(run: Run, control: Control) -> None:
    """Train. The first SIGINT, SIGTERM or SIGHUP stops the run after a checkpoint, the second one ends it at once.

    Raises:
        Interrupted: the run is stopped where it has nothing to save.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def stop(number: int) -> None:
        """Stop the run; end it at once if there is nothing to save."""
        run.stop(patience(number))
        if not ended.done() and (not run.has_begun or run.trainers.is_warming_up):
            ended.set_exception(Interrupted(number))

    def on_signal(number: int) -> None:
        """Report the signal, interrupt the environments and stop the run."""
        with suppress(OSError):  # without a stderr
            os.write(2, stop_notice(number).encode())  # a system call, since the signal may interrupt a print
        control.environments.make(patience(number))
        loop.call_soon_threadsafe(stop, number)

    control.signals.is_stuck = lambda: control.environments.is_ignored
    with control.signals.calling(on_signal):
        training = asyncio.ensure_future(run.train())
        await control.wait_unless_services_die(training, ended)
        if ended.done():
            ended.result()
        training.result()


def _panel(config: Config) -> View:
    """Return the empty panel of a run."""
    from sheeprl.metrics.panel import View

    title = f"{config.algo.name} on {config.env.id}"
    return View(title, config.run.total_steps, config.num_players, config.is_coupled)


def _open_reporter(config: Config, opened: RunDir, took: float) -> FileReporter:
    """Open the run's reporter and write its first messages.

    Args:
        config: configuration of the run.
        opened: its folder.
        took: seconds that a resumed run took before.
    """
    from sheeprl.metrics.display import Progress
    from sheeprl.metrics.files import rewind
    from sheeprl.metrics.reporter import FileReporter

    start = opened.start
    counters: dict[str, Any] = start.stats["counters"] if start else {}
    if start is not None:
        rewind(opened.run_dir, start.metrics_size)
    reporter = FileReporter(
        opened.run_dir,
        config.log.level,
        start_time=took,
        resumed_at=counters["policy_steps"] if start else None,
        tensorboard="tensorboard" in config.log.to,
        panel=_panel(config) if config.log.ui == "panel" else None,
    )
    reporter.message(opening_line(config))
    if warning := core_warning(config):
        reporter.message(warning, "warning")
    for warning in environment_warnings():
        reporter.message(warning, "warning")
    reporter.message(f"folder: {opened.run_dir}")
    policy_steps, gradient_steps = counters.get("policy_steps", 0), counters.get("gradient_steps", 0)
    if start is not None:
        reporter.message(f"resuming from {start.checkpoint.name}")
        reporter.event("resume", step=policy_steps)
    if opened.initial is not None:
        reporter.message(opened.initial.summary, "warning" if opened.initial.is_partial else "info")
    total, players = config.run.total_steps, config.num_players
    reporter.progress(Progress(policy_steps, total, gradient_steps, None, players, players))
    return reporter


def _write_error_log(run_dir: Path, config: Config, error: Any) -> str:
    """Write the traceback of a failure to the run's folder. Return the error message with the next command."""
    path = run_dir / "error.log"
    own = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    path.write_text(f"{error.trace}\n{own}" if error.trace else own, encoding="utf-8")
    return f"{error.reason}; {_advice(run_dir, config)}; the full traceback is in {path}"


def _advice(run_dir: Path, config: Config) -> str:
    """Return the command that resumes a run, or what to do without a checkpoint."""
    return shell_command("resume", run_dir) if checkpoints(run_dir) else start_over(config)


def start_over(config: Config) -> str:
    """Return the advice for a run without a checkpoint. A folder that `run.dir` names is used now."""
    named = ", with another run.dir" if config.run.dir is not None else ""
    return f"no checkpoint was written yet: start it again{named}"


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)
