"""Short complete runs for tests, and their results."""

import json
import logging
import os
from contextlib import contextmanager

import torch

from sheeprl import load_config, train
from sheeprl.checkpoint.run_dir import checkpoints

SMALL_SAC = [
    "algo.hidden_sizes=[32,32]",
    "algo.batch_size=32",
    "algo.learning_starts=50",
    "buffer.size=20000",
    "players.fragment_rows=8",
]
QUIET = ["eval.episodes=0", "log.level=error", "trainer.threads=1"]
ATTEMPTS = 4  # starts of a local Ray


def patiently(start):
    """Return `start()`, which starts a local Ray; call it again if Ray gave up after 30 seconds on a busy machine."""
    import ray  # slow, and not needed by every test

    for attempt in range(ATTEMPTS):
        try:
            started = start()
            break
        except Exception as error:  # Ray has no class for it
            ray.shutdown()
            if "timed out during startup" not in str(error) or attempt == ATTEMPTS - 1:
                raise
    return started


@contextmanager
def ray_session(cpus, **options):
    """Start a local Ray within the block.

    Its authentication matches Ray's default, because a process can't change the choice of its first session.
    """
    import ray  # slow, and not needed by every test

    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    options |= {"num_cpus": cpus, "include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
    patiently(lambda: ray.init("local", **options))
    try:
        yield
    finally:
        ray.shutdown()


def run(folder, algorithm, *overrides, env=None):
    """Train in `folder` and return the result."""
    small = SMALL_SAC if algorithm == "sac" else []
    chosen = [f"env.id={env}"] if env else []
    return train(load_config(algorithm, [f"run.dir={folder}", *QUIET, *small, *chosen, *overrides]))


def saved(folder):
    """Return the agent.pt of the newest checkpoint."""
    return torch.load(checkpoints(folder)[-1] / "agent.pt", weights_only=True)


def lines(folder):
    """Return all lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def largest_difference(one, other):
    """Return the largest difference between the parameters of two agents."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)
