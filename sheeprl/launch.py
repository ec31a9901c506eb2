"""Train a configuration: check it, start its workers in this process or on Ray, and run the driver.

This module is light to import. Torch, Ray and Lightning are imported by the functions that need them.
"""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sheeprl.algos.args import OffPolicy
from sheeprl.callbacks.base import Callback
from sheeprl.callbacks.loading import check_callbacks, load_callbacks
from sheeprl.checkpoint.files import MARKER
from sheeprl.checkpoint.initial import read_initial
from sheeprl.checkpoint.initial_rows import find_rows
from sheeprl.checkpoint.resume import (
    ORIGINS,
    RunDir,
    claim_storage,
    clear_other_layout,
    length_mistakes,
    open_run_dir,
    set_damaged_aside,
)
from sheeprl.checkpoint.run_dir import (
    folder_mistakes,
    in_use,
    is_locked,
    is_locked_still,
    lock_run_dir,
    named_folder,
    read_config,
    replay_folder,
    video_folder,
)
from sheeprl.config.loading import get_value
from sheeprl.config.schema import Config
from sheeprl.driver.control import Control
from sheeprl.driver.workers import Workers
from sheeprl.metrics.summary import core_warning
from sheeprl.metrics.time_breakdown import StartupTimer
from sheeprl.session import PATIENCE, Result, finished, patience, run_driver, say, start_over
from sheeprl.utils import rank_variables
from sheeprl.utils.errors import ConfigError, RunFailedError, collecting, one_line
from sheeprl.utils.gc_control import importing
from sheeprl.utils.output import lasting_output
from sheeprl.utils.process import StopSignals, ending_with_parent, exclusive, run_in_loop
from sheeprl.utils.text import counted

if TYPE_CHECKING:
    from sheeprl.actors.handle import Handle
    from sheeprl.actors.ray import nodes
    from sheeprl.driver.replay import ReplayClient
    from sheeprl.envs.transforms import Spaces


def train(config: Config, callbacks: Sequence[Callback] = ()) -> Result:
    """Train a configuration.

    Args:
        config: the configuration.
        callbacks: callbacks besides those of `run.callbacks`.

    Raises:
        ConfigError: the configuration doesn't fit the environment or the machine.
        RunFailedError: the run failed.
    """
    if not isinstance(config, Config):
        raise ConfigError([f"train() needs a Config, not {type(config).__name__}; use train(load_config({config!r}))"])
    return train_tree(config.model_dump(), callbacks)


def train_tree(tree: Mapping[str, Any], callbacks: Sequence[Callback] = ()) -> Result:
    """Train a nested mapping of settings.

    Args:
        tree: the settings.
        callbacks: callbacks besides those of `run.callbacks`.

    Raises:
        ConfigError: the settings have mistakes, all of which it lists. Nothing was started.
        RunFailedError: the run failed.
    """
    check_callbacks(callbacks)
    startup = StartupTimer()
    signals = StopSignals()
    # Rank 0 handles the signals.
    handling = signals if rank_variables.local_rank() == 0 else nullcontext()
    with exclusive("the run"), handling, lasting_output(), rank_variables.only_own():
        from sheeprl.config.checks import check

        resolved = check(tree)
        startup.done("configuration and a look at the environment")
        if resolved.config.log.level != "error" and rank_variables.local_rank() == 0:
            for warning in resolved.warnings:
                say(f"warning: {warning}")
        control = Control(signals)
        control.open_settings = resolved.open_settings
        control.callbacks = [*callbacks, *load_callbacks(resolved.config)]
        train = _train_coupled if resolved.config.is_coupled else _train_decoupled
        return train(resolved.config, resolved.spaces, startup, control)


def check_tree(tree: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """Check a nested mapping of settings, the folders and the devices of this machine, and start nothing.

    Returns:
        The resolved configuration, and one warning a line.

    Raises:
        ConfigError: the settings have mistakes, all of which it lists.
    """
    from sheeprl.actors.ray import environment
    from sheeprl.config.checks import check

    resolved = check(tree)
    config = resolved.config
    load_callbacks(config)
    mistakes = [*folder_mistakes(config), *length_mistakes(config)]
    mistakes += [] if config.is_coupled else environment.mistakes(config)
    initial = rows = None
    if not config.run.resume:
        with collecting(mistakes):
            initial = read_initial(config, resolved.spaces)
        with collecting(mistakes):
            rows = find_rows(config, resolved.spaces)
    if mistakes:
        raise ConfigError(mistakes)
    warnings = [*resolved.warnings, *filter(None, [core_warning(config)])]
    warnings += [initial.summary] if initial is not None and initial.is_partial else []
    if rows is not None and rows.other_env:
        warnings.append(f"buffer.init_from={rows.origin}: its rows are of another environment: {rows.other_env}")
    return config, warnings


def _train_decoupled(config: Config, spaces: Spaces, startup: StartupTimer, control: Control) -> Result:
    """Train with a Ray actor for each worker."""
    is_repeated = config.run.resume == "auto"
    with _opened(config, spaces, startup, config.buffer.shards, control) as (config, opened):
        return finished(config, opened, is_repeated) or _train_on_ray(config, spaces, opened, control)


@contextmanager
def _opened(
    config: Config, spaces: Spaces, startup: StartupTimer, shards: int, control: Control
) -> Iterator[tuple[Config, RunDir]]:
    """Open and lock the run's folder within the block; return the configuration to train with, and the folder."""
    if config.run.resume == "auto":
        _wait_for_predecessor(config)
    opened = open_run_dir(config, spaces, startup, shards, say)
    config = _with_origin(_with_resume(config, opened), opened)
    if config.log.profile:  # the workers write their traces there
        config = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(opened.run_dir)})})
    with lock_run_dir(opened.run_dir), control.watched(opened.run_dir, start_over(config)):
        claim_storage(config, opened)
        clear_other_layout(config, opened)
        set_damaged_aside(opened)
        yield config, opened


def _wait_for_predecessor(config: Config) -> None:
    """Wait until an earlier process of a resubmitted run has saved its last checkpoint and ended.

    Raises:
        RunFailedError: it goes on, so the command may be repeated later.
    """
    folder = named_folder(config)
    if is_locked(folder):
        say(f"{folder}: waiting for the process that uses it to end")
        if is_locked_still(folder):
            raise RunFailedError(in_use(folder))


def _train_on_ray(config: Config, spaces: Spaces, opened: RunDir, control: Control) -> Result:
    """Join or start Ray, start the workers and run the driver."""
    from sheeprl.actors.ray import environment

    if mistakes := list(environment.mistakes(config)):
        raise ConfigError(mistakes)
    environment.configure(config)
    control.report = say  # until the reporter is open: actors that wait for room are reported before
    with importing():
        from sheeprl.actors.ray import cluster  # slow to import, so only after all checks
        from sheeprl.actors.ray.fleet import Fleet
        from sheeprl.metrics.publisher import RunPublisher

    opened.startup.done("imports")
    with _connected_to_ray(config, opened, control) as connected:
        if config.trainer.accelerator == "auto":
            config = _with_accelerator(config, cluster.choose_accelerator(config))
        fleet = Fleet(
            config,
            spaces,
            video_folder(config, opened.run_dir),
            replay_folder(config, opened.run_dir),
            run=opened.run_dir.name,
            marker=_marker(config, opened),
            report=lambda text: control.report(text),  # the reporter's later
            open_settings=control.open_settings,
        )
        publisher = RunPublisher(config, opened.run_dir)
        workers = Workers(
            fleet.make_player,
            _shards(config, fleet.shards, fleet.make_shard),
            fleet.learner,
            fleet.make_trainers,
            fleet.find_moves,
            fleet.make_evaluator,
            publisher.observe,
        )

        async def main() -> Result:
            """Start the actors and run the driver."""
            starting = asyncio.ensure_future(fleet.start())
            await control.wait_unless_services_die(starting)
            starting.result()
            opened.startup.done("actors")
            return await run_driver(fleet.config, workers, opened, control)

        try:
            publisher.start()
            return run_in_loop(main)
        finally:
            publisher.close()
            if not connected:  # on disconnecting, Ray ends the run's actors
                fleet.close()
            fleet.forget()


@contextmanager
def _connected_to_ray(config: Config, opened: RunDir, control: Control) -> Iterator[bool]:
    """Join or start Ray, and watch its processes within the block.

    Yields:
        True if the connection ends with the block, False if the program had connected before.
    """
    from sheeprl.actors.ray import cluster
    from sheeprl.actors.ray.waiting import ClusterError

    if config.log.level in ("debug", "info"):
        say("starting Ray and its actors for players, replay and trainers, which takes some seconds")
    connected = False
    try:
        connected = cluster.connect(config)
        opened.startup.done("Ray")
        if connected:
            control.watchdog.end_with_run(cluster.service_pids())
        control.services = cluster.vital_services()
        control.watchdog.watch(control.services)
        yield connected
    except ClusterError as error:
        raise RunFailedError(str(error)) from error
    finally:
        if connected:
            cluster.disconnect()


def _marker(config: Config, opened: RunDir) -> nodes.Marker | None:
    """Return a file that the nodes of replay shards must be able to read; None if shards save no rows."""
    from sheeprl.actors.ray.nodes import Marker

    if not (config.buffer.checkpoint and isinstance(config.algo.data(), OffPolicy)):
        return None
    if opened.storage is not None:
        return Marker(f"{opened.storage.url}/{opened.storage.lease_name}", opened.storage.lease)
    content = uuid.uuid4().hex
    (opened.run_dir / MARKER).write_text(content, encoding="utf-8")
    return Marker(str(opened.run_dir / MARKER), content)


def _train_coupled(config: Config, spaces: Spaces, startup: StartupTimer, control: Control) -> Result:
    """Train with all workers in this process, or in the ranks that Fabric starts."""
    ranks = config.trainer.devices
    # The other ranks execute the commands of rank 0, which owns the folder and ends them. A signal only interrupts
    # their environments.
    if rank_variables.local_rank() != 0:
        for number in PATIENCE:
            signal.signal(number, lambda number, frame: control.environments.make(patience(number)))
        with ending_with_parent():
            return _train_in_process(config, spaces, RunDir(Path(), None, ranks), control)
    is_repeated = config.run.resume == "auto"
    with _opened(config, spaces, startup, ranks, control) as (config, opened):
        return finished(config, opened, is_repeated) or _train_in_process(config, spaces, opened, control)


def _train_in_process(config: Config, spaces: Spaces, opened: RunDir, control: Control) -> Result:
    """Make the workers of this process and run the driver."""
    with importing():
        from sheeprl.actors.fabric import build_learner, local_fabric, signal_ranks
        from sheeprl.actors.handle import LocalHandle
        from sheeprl.actors.player import Player
        from sheeprl.actors.replay import build_replay

    ranks = config.trainer.devices
    if config.trainer.accelerator == "auto":
        import torch

        found = torch.cuda.device_count()
        if 0 < found < ranks:
            say(f"warning: trainer.devices={ranks}, but this machine has {counted(found, 'GPU')}; training on the CPU")
        config = _with_accelerator(config, "cuda" if found >= ranks else "cpu")
    opened.startup.done("imports")
    fabric = local_fabric(config)
    control.signals.on_received = lambda number: signal_ranks(fabric, number)
    learner = build_learner(config, spaces, fabric, has_shard=ranks > 1)
    for compiler in (learner.compiled, learner.hot):
        if compiler is not None:
            compiler.while_compiling = control.signals.raising  # compiling takes too long to wait for
            compiler.on_compile = lambda text: control.report(text)
    run_dir = Path(fabric.broadcast(str(opened.run_dir))) if ranks > 1 else opened.run_dir
    try:
        folder = replay_folder(config, run_dir)
        replay = build_replay(config, fabric.global_rank, ranks, folder=folder, frame_stack=spaces.frame_stack)
    except (OSError, ValueError) as error:
        raise RunFailedError(f"the replay can't be opened: {one_line(error)}") from error
    opened.startup.done("learner and replay")

    def make_player(number: int, incarnation: int) -> Player:
        """Make a player."""
        folder = video_folder(config, opened.run_dir) if number == 0 else None
        return Player(config, spaces, number, incarnation, folder, stop=control.environments)

    if ranks == 1:
        shards = _shards(config, [LocalHandle(replay)])
        workers = Workers(lambda *player: LocalHandle(make_player(*player)), shards, LocalHandle(learner))
        return run_in_loop(lambda: run_driver(config, workers, opened, control))
    return _train_ranks(config, opened, control, fabric, {"buffer": replay, "learner": learner}, make_player)


def _train_ranks(
    config: Config,
    opened: RunDir,
    control: Control,
    fabric: Any,
    objects: dict[str, Any],
    make_player: Callable[[int, int], Any],
) -> Result:
    """Run the driver on rank 0, and serve its commands on the other ranks."""
    from sheeprl.actors.multi_rank import RankDispatcher, RankHandle

    link = RankDispatcher(fabric, objects, {"player": make_player})
    if fabric.global_rank != 0:
        link.serve()
        return Result(opened.run_dir, 0, 0)

    def player(number: int, incarnation: int) -> Handle:
        """Make a player on its rank."""
        name, rank = f"player {number}.{incarnation}", number % fabric.world_size
        link.make("player", name, rank, (number, incarnation))
        return RankHandle(link, name, rank)

    parts = [RankHandle(link, "buffer", rank) for rank in range(fabric.world_size)]
    replay = _shards(config, parts, together=RankHandle(link, "buffer"))
    workers = Workers(player, replay, RankHandle(link, "learner"))
    try:
        return run_in_loop(lambda: run_driver(config, workers, opened, control))
    finally:
        link.end()


def _shards(
    config: Config,
    handles: Sequence[Handle],
    make_shard: Callable[[int, int], Handle] | None = None,
    together: Handle | None = None,
) -> ReplayClient:
    """Return the driver's client of the replay shards."""
    from sheeprl.driver.replay import ReplayClient

    data = config.algo.data()
    needed = data.batch_size if isinstance(data, OffPolicy) else 1
    return ReplayClient(handles, needed, config.run.seed, make_shard, together)


def _with_accelerator(config: Config, accelerator: str) -> Config:
    """Return the configuration with the accelerator that was found."""
    update = {"accelerator": accelerator, "compile": bool(config.trainer.compile) and accelerator != "mps"}
    return config.model_copy(update={"trainer": config.trainer.model_copy(update=update)})


def _with_origin(config: Config, opened: RunDir) -> Config:
    """Return the configuration with what `algo.init_from` and `buffer.init_from` have led to, such as for `@last`.

    A resumed run has what they led to at its start.
    """
    if opened.start is not None:
        before = read_config(opened.start.checkpoint)
        origins = {key: get_value(before, key) for key in ORIGINS}
    else:
        found = {"algo.init_from": opened.initial, "buffer.init_from": opened.rows}
        origins = {key: initial.origin for key, initial in found.items() if initial is not None}
    for key, origin in origins.items():
        section = key.partition(".")[0]
        changed = getattr(config, section).model_copy(update={"init_from": origin})
        config = config.model_copy(update={section: changed})
    return config


def _with_resume(config: Config, opened: RunDir) -> Config:
    """Return the configuration with `run.resume=auto` decided, and the folder of the run as `run.dir`."""
    if config.run.resume != "auto":
        return config
    update = {"resume": True, "dir": str(opened.run_dir)} if opened.start else {"dir": str(opened.run_dir)}
    return config.model_copy(update={"run": config.run.model_copy(update=update)})
