"""Time breakdown of a run, a suggestion against its bottleneck, and a timer of its start-up.

This module imports neither torch nor Ray.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from sheeprl.config.defaults import available_cores, cluster_address, pays_to_compile, pays_to_parallelize
from sheeprl.config.schema import Config

NOTABLE = 0.15  # fraction of the time from which a wait is reported
CHECKPOINTS_NOTABLE = 0.1  # the same for checkpoints
SHORT = 10.0  # seconds below which a run needs no advice
LONG = 60.0  # seconds from which the longer start-up of decoupled mode can pay
MUCH_SOONER = 0.8  # fraction of the time below which coupled mode is suggested


@dataclass(frozen=True)
class TimeBreakdown:
    """Seconds of a run by activity of the trainer; the rest is overhead.

    Args:
        elapsed: total time.
        updating: gradient steps.
        compiling: compilation of gradient steps.
        waiting_for_players: waits for the fragments of a round.
        waiting_for_batches: waits for batches from the replay.
        checkpoints: possible waits of the learner or the replay for a checkpoint.
        players_idle: waits of players for newer weights, summed over the players.
        playing: collection, summed over the players.
    """

    elapsed: float = 0.0
    updating: float = 0.0
    compiling: float = 0.0
    waiting_for_players: float = 0.0
    waiting_for_batches: float = 0.0
    checkpoints: float = 0.0
    players_idle: float = 0.0
    playing: float = 0.0

    def __add__(self, other: TimeBreakdown) -> TimeBreakdown:
        """Return the sum of two breakdowns, activity by activity."""
        own, others = vars(self), vars(other)
        return TimeBreakdown(**{name: own[name] + others[name] for name in own})


def suggest(breakdown: TimeBreakdown, config: Config) -> str | None:
    """Return the trainer's bottleneck and a change that would help, None without a notable bottleneck."""
    if breakdown.elapsed < SHORT:
        return None
    if not config.is_coupled and (coupled := _coupled_seconds(breakdown, config)) < MUCH_SOONER * breakdown.elapsed:
        return f"run.mode=coupled would take about {_percent(1 - coupled / breakdown.elapsed)} less time"
    waits = {
        "waits for players": _player_seconds(breakdown, config) / breakdown.elapsed,
        "waits for batches": breakdown.waiting_for_batches / breakdown.elapsed,
    }
    wait = max(waits, key=lambda name: waits[name])
    part, stalled = waits[wait], breakdown.checkpoints / breakdown.elapsed
    if stalled >= CHECKPOINTS_NOTABLE and stalled > part:
        return f"checkpoints take {_percent(stalled)}: raise checkpoint.every"
    if part < NOTABLE:
        return _suggest_for_updates(breakdown, config)
    if wait == "waits for batches":
        or_shards = "" if config.is_coupled else " or buffer.shards"
        return f"trainer {wait} {_percent(part)}: raise trainer.prefetch{or_shards}"
    bottleneck = "playing takes" if config.is_coupled else f"trainer {wait}"
    return f"{bottleneck} {_percent(part)}: {_suggest_for_players(breakdown, config)}"


def _suggest_for_players(breakdown: TimeBreakdown, config: Config) -> str:
    """Return a change that speeds up collection."""
    if config.is_coupled:
        overlap = min(breakdown.updating, breakdown.playing)  # decoupled mode saves at most this
        if breakdown.elapsed < LONG or breakdown.elapsed - overlap > MUCH_SOONER * breakdown.elapsed:
            return "set env.vectorization=async if steps are slow"
        mode = "run.mode=decoupled" if _can_overlap(config) else "run.mode=decoupled and run.max_staleness=1"
        return f"set {mode}, or env.vectorization=async if steps are slow"
    if not _can_overlap(config):
        return "raise players.num or players.cpus, or set run.max_staleness=1"
    return "raise players.num or players.cpus"


def _suggest_for_updates(breakdown: TimeBreakdown, config: Config) -> str | None:
    """Return a suggestion for a trainer that hardly waits."""
    learning, idle = (
        breakdown.updating / breakdown.elapsed,
        breakdown.players_idle / (breakdown.elapsed * config.num_players),
    )
    if learning < 0.5 or (not config.is_coupled and idle < NOTABLE):
        return None
    ways = [] if _is_compiled(config) else ["set trainer.compile=true"]
    if config.trainer.accelerator != "cpu":
        ways.append("raise trainer.devices")
    elif pays_to_parallelize(config, config.round_rows):
        spare = _has_spare_cores(config)
        ways.append("raise trainer.threads or trainer.devices" if spare else "add cores or a GPU, since all are in use")
    return f"trainer updates {_percent(learning)}: {', or '.join(ways)}" if ways else None


def describe(breakdown: TimeBreakdown, config: Config) -> str:
    """Format a breakdown as one line."""
    whole = max(breakdown.elapsed, 1e-9)
    known = {
        "updating": breakdown.updating,
        "compiling": breakdown.compiling,
        "playing" if config.is_coupled else "waiting for players": _player_seconds(breakdown, config),
        "waiting for batches": breakdown.waiting_for_batches,
        "checkpoints": breakdown.checkpoints,
    }
    parts = known | {"other": max(0.0, whole - sum(known.values()))}
    text = ", ".join(
        f"{name} {_percent(seconds / whole)}" for name, seconds in parts.items() if seconds / whole >= 0.005
    )
    if not config.is_coupled:
        text += f"; players idle {_percent(breakdown.players_idle / (whole * config.num_players))}"
    return text


def in_short(breakdown: TimeBreakdown, config: Config) -> str | None:
    """Return the bottleneck without its remedy, for the live line; None if there is none."""
    found = suggest(breakdown, config)
    return None if found is None else found.partition(":")[0]


def _player_seconds(breakdown: TimeBreakdown, config: Config) -> float:
    """Return the seconds that the trainer waited for rounds, or collected them in coupled mode."""
    if config.is_coupled:
        return breakdown.playing / config.trainer.ranks
    return breakdown.waiting_for_players


def _coupled_seconds(breakdown: TimeBreakdown, config: Config) -> float:
    """Estimate the time of the same run in coupled mode, where one process collects and trains in turn."""
    if cluster_address(config) or config.trainer.ranks > 1 or not breakdown.playing:
        return math.inf
    return breakdown.updating + breakdown.compiling + breakdown.playing + breakdown.checkpoints


def _can_overlap(config: Config) -> bool:
    """Return whether collection overlaps training; for coupled mode, whether it would in decoupled mode."""
    return config.algo.data().is_off_policy if config.is_coupled else config.max_staleness > 0


def _is_compiled(config: Config) -> bool:
    """Return whether gradient steps are compiled, or compiling them isn't worthwhile."""
    return bool(config.trainer.compile) or not pays_to_compile(config, config.round_rows)


def _has_spare_cores(config: Config) -> bool:
    """Return whether this machine has cores for more trainer threads; Ray and the players need one too."""
    reserved = 0 if config.is_coupled else 1
    return config.trainer.threads_per_node < available_cores() - reserved


def _percent(part: float) -> str:
    """Format a fraction in percent."""
    return f"{100 * part:.0f} %"


class StartupTimer:
    """Timer of the phases between the start of a run and its first collection.

    Args:
        clock: returns seconds, from any zero.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the first phase."""
        self._clock = clock
        self._last = clock()
        self.parts: dict[str, float] = {}

    def done(self, part: str) -> None:
        """Add the time since the last call, or since the creation, to a phase."""
        now = self._clock()
        self.parts[part] = self.parts.get(part, 0.0) + now - self._last
        self._last = now

    @property
    def seconds(self) -> float:
        """Return the total of all phases."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        """Return the total and all phases on one line."""
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self.parts.items())
        return f"start-up: {self.seconds:.1f} s ({parts})"
