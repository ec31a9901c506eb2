"""Every generator of a run, derived from `run.seed` by role, number and incarnation."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Role(IntEnum):
    """Who draws. The numbers are part of what makes a run repeatable: never reuse one."""

    AGENT = 0  # initial parameters
    LEARNER = 1  # minibatches and noise of the losses, the same on every rank
    RANK = 2  # what a module draws by itself on one rank, such as dropout
    BUFFER = 3
    PLAYER = 4  # actions
    ENV = 5
    EVAL = 6
    SHARDS = 7  # which shard of the replay serves which sample
    PROCESS = 8  # the generators that a process has for all its code, while a player plays


def sequence(seed: int, role: Role, *key: int) -> np.random.SeedSequence:
    """The seed sequence of one role; `key` is its number, its incarnation and so on."""
    return np.random.SeedSequence(seed, spawn_key=(int(role), *key))


def seeds(seed: int, role: Role, *key: int, count: int = 1) -> list[int]:
    """`count` seeds below 2**31, which every library accepts."""
    return [int(word) >> 1 for word in sequence(seed, role, *key).generate_state(count, np.uint32)]
