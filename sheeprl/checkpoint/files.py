"""Names of the files in a run folder, and atomic writes."""

from __future__ import annotations

import os
from pathlib import Path

STATE = "state.json"
AGENT = "agent.pt"
CONFIG = "config.yaml"
LOCK = ".lock"
METRICS = "metrics.jsonl"
METRICS_SIZE = ".metrics_size"  # while a checkpoint is being written


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by one that is whole at every moment."""
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def step_of(checkpoint: Path) -> int:
    """Return the policy step in the name of a checkpoint folder."""
    return int(checkpoint.name[5:])


def file_size(path: Path) -> int:
    """Return the size of a file in bytes, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
