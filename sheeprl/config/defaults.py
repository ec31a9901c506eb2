"""Fill in the defaults that depend on other settings or on the machine."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sheeprl.algos.args import OffPolicy, OnPolicy
from sheeprl.config.schema import Config
from sheeprl.utils.rank_variables import world_size_of_fabric

DEFAULT_REPLAY = 1_000_000
PARALLEL_FROM = 8e6  # floating point operations of the largest layer; below, a second thread gains nothing
COMPILE_FROM = 3000  # gradient steps; compiling costs 15 to 30 s once, a compiled step saves 1 to 5 ms


def fill_in(config: Config) -> Config:
    """Replace all open settings by their defaults, so that `config.yaml` records the actual values."""
    data = config.algo.data()
    coupled = config.is_coupled
    if coupled and (launched := world_size_of_fabric()):
        trainer = config.trainer.model_copy(update={"devices": launched})
        config = config.model_copy(update={"trainer": trainer})
    total = config.run.total_steps
    players = config.players.num or (config.trainer.ranks if coupled else 1)
    rows = config.players.fragment_rows or data.fragment_rows
    rollout = rows * config.env.num_envs * config.players.fragments_of(players)
    staleness = config.run.max_staleness
    if staleness is None:
        staleness = 1 if data.tolerates_staleness and not coupled else 0
    values = {
        "players": {"num": players, "fragment_rows": rows},
        "buffer": {"size": config.buffer.size or (rollout if isinstance(data, OnPolicy) else DEFAULT_REPLAY)},
        "run": {"max_staleness": staleness},
        "trainer": {
            "threads": config.trainer.threads or default_threads(config, rollout),
            "compile": pays_to_compile(config, rollout) if config.trainer.compile == "auto" else config.trainer.compile,
        },
        "checkpoint": {"every": config.checkpoint.every or default_checkpoint_steps(total)},
        "log": {"every": config.log.every or max(1, min(total // 100, 10_000))},
    }
    sections = {name: getattr(config, name).model_copy(update=update) for name, update in values.items()}
    return config.model_copy(update=sections)


@dataclass(frozen=True)
class Machine:
    """Properties of a machine that determine defaults of its trainers.

    Args:
        cores: cores that a process may use.
        has_compiler: True if a C++ compiler is installed.
    """

    cores: int
    has_compiler: bool


def this_machine() -> Machine:
    """Return the properties of this machine."""
    return Machine(available_cores(), has_compiler())


def fit_to(config: Config, machine: Machine, open_settings: Collection[str]) -> Config:
    """Return a resolved configuration with the defaults of the machine where the trainers run.

    Args:
        config: the run's configuration, with the defaults of the driver's machine.
        machine: the trainers' machine.
        open_settings: the settings among `trainer.threads` and `trainer.compile` that the user left open.
    """
    rollout, update = config.round_rows, dict[str, Any]()
    if "trainer.threads" in open_settings and pays_to_parallelize(config, rollout):
        update["threads"] = max(1, (machine.cores - 1) // config.trainer.devices)
    if "trainer.compile" in open_settings:
        update["compile"] = pays_to_compile(config, rollout, machine.has_compiler)
    return config.model_copy(update={"trainer": config.trainer.model_copy(update=update)})


def open_settings(config: Config) -> frozenset[str]:
    """Return the settings of an unresolved configuration that depend on the trainers' machine and aren't set."""
    trainer = config.trainer
    is_open = {"trainer.threads": trainer.threads is None, "trainer.compile": trainer.compile == "auto"}
    return frozenset(name for name, value in is_open.items() if value)


def default_checkpoint_steps(total_steps: int) -> int:
    """Return the default of `checkpoint.every` for a run of `total_steps`."""
    return max(1, min(total_steps // 10, 50_000))


def pays_to_compile(config: Config, rollout: int, can_compile: bool | None = None) -> bool:
    """Return True if the run has enough gradient steps to recover the time for compiling them.

    Args:
        config: the run's configuration.
        rollout: rows per round.
        can_compile: True if the trainers' machine has a compiler; None to look on this one.
    """
    trainer, data, total = config.trainer, config.algo.data(), config.run.total_steps
    if trainer.accelerator == "mps" or not (has_compiler() if can_compile is None else can_compile):
        return False
    steps = (
        data.total_gradient_steps(total)
        if isinstance(data, OffPolicy)
        else math.ceil(total / rollout) * data.due_gradient_steps(0, 0, rollout)
    )
    return steps >= COMPILE_FROM


def has_compiler() -> bool:
    """Return True if a C++ compiler is installed; CPU graphs and the launchers of CUDA kernels need one."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))


def default_threads(config: Config, rollout: int) -> int:
    """Return the CPU threads per rank: one for small networks, else the rank's part of all cores but one.

    Args:
        config: the run's configuration.
        rollout: rows per round.
    """
    return spare_threads(config.trainer.devices) if pays_to_parallelize(config, rollout) else 1


def pays_to_parallelize(config: Config, rollout: int) -> bool:
    """Return whether the networks are large enough for more than one CPU thread, or their size is unknown.

    Args:
        config: the run's configuration.
        rollout: rows per round.
    """
    width, batch = config.algo.widest_layer, config.algo.data().batch_size or rollout
    return width is None or 2 * width * width * batch / config.trainer.ranks >= PARALLEL_FROM


def spare_threads(ranks: int) -> int:
    """Return the number of threads per rank that leaves one core for all other work.

    The threads of an operation spin while they wait for each other. If another process takes one of two cores, an
    operation on two threads is a hundred times slower, not twice.
    """
    return max(1, (available_cores() - 1) // ranks)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cluster_address(config: Config) -> str | None:
    """Return the address of the Ray cluster to join, None to start one."""
    return config.ray.address or os.environ.get("RAY_ADDRESS")
