"""Where a run's time went, and what would help; and what its start was spent on.

Plain values only: the driver's books add up, the reporter shows. No torch and no Ray here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

NOTABLE = 0.15  # part of the time from which on a wait is worth a word
CHECKPOINTS_NOTABLE = 0.1


@dataclass(frozen=True)
class TimeBreakdown:
    """Seconds of a run by what its trainer did; what is in none of them is book-keeping.

    Args:
        elapsed: all of them.
        updating: the trainer took gradient steps.
        compiling: it compiled them.
        waiting_for_players: it waited for a round to be played.
        waiting_for_batches: it waited for the replay to draw and to hand over.
        checkpoints: learner or replay may have waited for a checkpoint's copy.
        players_idle: players waited for newer weights, summed over the players.
        playing: players played, summed over the players.
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
        own, others = vars(self), vars(other)
        return TimeBreakdown(**{name: own[name] + others[name] for name in own})


@dataclass(frozen=True)
class Setting:
    """What the advice leans on.

    Args:
        coupled: whether every rank plays and learns in turn.
        overlaps: whether playing may overlap learning (`run.max_staleness` above 0); in coupled mode, whether it would
            in the other mode by itself.
        players: of the run.
        ranks: of the trainer.
        compiles: whether updates are compiled, or compiling wouldn't pay.
        threads_left: whether the machine has cores for more threads of the trainer.
        on_gpu: whether the trainer learns on one.
    """

    coupled: bool = False
    overlaps: bool = False
    players: int = 1
    ranks: int = 1
    compiles: bool = True
    threads_left: bool = True
    on_gpu: bool = False

    def for_players(self, breakdown: TimeBreakdown) -> float:
        """Seconds that the trainer couldn't learn for want of a round; in coupled mode it played it."""
        return breakdown.playing / self.ranks if self.coupled else breakdown.waiting_for_players


def suggest(breakdown: TimeBreakdown, setting: Setting) -> str | None:
    """What takes the most of the trainer's time without being learning, and what would help; None if nothing does."""
    if breakdown.elapsed <= 0:
        return None
    waits = {
        "waits for players": setting.for_players(breakdown) / breakdown.elapsed,
        "waits for batches": breakdown.waiting_for_batches / breakdown.elapsed,
    }
    wait = max(waits, key=lambda name: waits[name])
    part, stalled = waits[wait], breakdown.checkpoints / breakdown.elapsed
    if stalled >= CHECKPOINTS_NOTABLE and stalled > part:
        return f"checkpoints take {_percent(stalled)}: raise checkpoint.every"
    if part < NOTABLE:
        return _of_learning(breakdown, setting)
    if wait == "waits for batches":
        return (
            f"trainer {wait} {_percent(part)}: raise trainer.prefetch{'' if setting.coupled else ' or buffer.shards'}"
        )
    return f"{'playing takes' if setting.coupled else f'trainer {wait}'} {_percent(part)}: {_for_players(setting)}"


def _for_players(setting: Setting) -> str:
    """What gives more rounds a second."""
    if setting.coupled:
        mode = "run.mode=decoupled" if setting.overlaps else "run.mode=decoupled and run.max_staleness=1"
        return f"set {mode}, or env.vectorization=async if steps are slow"
    if not setting.overlaps:
        return "raise players.num or players.cpus, or set run.max_staleness=1"
    return "raise players.num or players.cpus"


def _of_learning(breakdown: TimeBreakdown, setting: Setting) -> str | None:
    """What is to be said of a trainer that hardly waits."""
    learning, idle = (
        breakdown.updating / breakdown.elapsed,
        breakdown.players_idle / (breakdown.elapsed * setting.players),
    )
    if learning < 0.5 or (not setting.coupled and idle < NOTABLE):
        return None
    ways = [] if setting.compiles else ["set trainer.compile=true"]
    if setting.on_gpu:
        ways.append("raise trainer.devices")
    elif setting.threads_left:
        ways.append("raise trainer.threads or trainer.devices")
    told = ", or ".join(ways) or "the cores are used up; more of them or a GPU would help"
    return f"trainer updates {_percent(learning)}: {told}"


def describe(breakdown: TimeBreakdown, setting: Setting) -> str:
    """All of it on one line."""
    whole = max(breakdown.elapsed, 1e-9)
    known = {
        "updating": breakdown.updating,
        "compiling": breakdown.compiling,
        "playing" if setting.coupled else "waiting for players": setting.for_players(breakdown),
        "waiting for batches": breakdown.waiting_for_batches,
        "checkpoints": breakdown.checkpoints,
    }
    parts = known | {"other": max(0.0, whole - sum(known.values()))}
    told = ", ".join(
        f"{name} {_percent(seconds / whole)}" for name, seconds in parts.items() if seconds / whole >= 0.005
    )
    if not setting.coupled:
        told += f"; players idle {_percent(breakdown.players_idle / (whole * setting.players))}"
    return told


def in_short(breakdown: TimeBreakdown, setting: Setting) -> str | None:
    """What stands out, in two words and a number, for the live line; None if nothing does."""
    found = suggest(breakdown, setting)
    return None if found is None else found.partition(":")[0]


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"


class StartupTimer:
    """What a run does before it plays, and how long that takes.

    Args:
        clock: seconds, from any zero.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()
        self.parts: dict[str, float] = {}

    def done(self, part: str) -> None:
        """What was done since the last call, or since the beginning, was this part."""
        now = self._clock()
        self.parts[part] = self.parts.get(part, 0.0) + now - self._last
        self._last = now

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self.parts.items())
        return f"start-up: {self.seconds:.1f} s ({parts})"
