"""Seeds of all random generators of a run, derived from `run.seed` by role, number and incarnation."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Role(IntEnum):
    """User of a random generator. Seeds depend on the numbers: never change or reuse one."""

    AGENT = 0  # initial parameters
    LEARNER = 1  # minibatches and noise of the losses, equal on all ranks
    RANK = 2  # random modules of one rank, such as dropout
    BUFFER = 3
    PLAYER = 4  # actions
    ENV = 5
    EVAL = 6
    SHARDS = 7  # assignment of samples to replay shards
    PROCESS = 8  # the global generators of a player's process


def sequence(seed: int, role: Role, *key: int) -> np.random.SeedSequence:
    """Return the seed sequence of a role; `key` contains its number, its incarnation and so on."""
    return np.random.SeedSequence(seed, spawn_key=(int(role), *key))


def seeds(seed: int, role: Role, *key: int, count: int = 1) -> list[int]:
    """Return `count` seeds below 2**31, which every library accepts."""
    return [int(word) >> 1 for word in sequence(seed, role, *key).generate_state(count, np.uint32)]
