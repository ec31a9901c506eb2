"""Names of the files in a run folder."""

from __future__ import annotations

from pathlib import Path

STATE = "state.json"
AGENT = "agent.pt"
WEIGHTS = "agent.safetensors"  # instead of agent.pt in a checkpoint of `sheeprl push`, without optimizers
CONFIG = "config.yaml"
INITIAL_ROWS = "initial_buffer"  # the rows of another run that a run begins with, as hard links
INITIAL = "initial.pt"  # the first state of a recorded run that begins with networks of another one
LOCK = ".lock"
URL_FILE = ".storage"  # the URL of the run at checkpoint.storage
MARKER = ".marker"  # read by other nodes, to check that they share the folder
METRICS = "metrics.jsonl"
METRICS_SIZE = ".metrics_size"  # only while a checkpoint is being written


def step_of(checkpoint: Path) -> int:
    """Return the policy step in the name of a checkpoint folder."""
    return int(checkpoint.name[5:])


def file_size(path: Path) -> int:
    """Return the size of a file in bytes, 0 if the file doesn't exist."""
    return path.stat().st_size if path.exists() else 0
