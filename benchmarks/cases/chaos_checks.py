"""Checks of a disturbed run: its counters against the rows in its replay buffer."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases.stamped import read_stamps
from benchmarks.harness.record import Json, read_metrics
from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.samplers import Transitions
from sheeprl.checkpoint.run_dir import checkpoints, read_config


@dataclass
class Rows:
    """Statistics of the rows in a replay buffer.

    Args:
        rows: number of rows.
        decisions: rows with an action, so all but end rows.
        doubles: rows with a duplicate stamp.
        gaps: rows missing before the newest one of their environment.
        torn: rows whose successor isn't the environment's next observation.
    """

    rows: int = 0
    decisions: int = 0
    doubles: int = 0
    gaps: int = 0
    torn: int = 0


@dataclass
class Verdict:
    """Measured values, and a message for each wrong one."""

    figures: Json = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def expect(self, what: str, found: Any, wanted: Any) -> None:
        """Record a value and add a message if it differs from the expected one."""
        self.figures[what] = found
        if found != wanted:
            self.wrong.append(f"{what}: {found}, should be {wanted}")


def examine(run_dir: Path) -> Verdict:
    """Compare the counters of a finished run with its rows."""
    tree, verdict = read_config(run_dir), Verdict()
    lines = read_metrics(run_dir)
    end = lines[-1]
    verdict.expect("status", end.get("status"), "done")
    verdict.expect("policy steps reached", end["policy_steps"] >= tree["run"]["total_steps"], True)
    state = json.loads((checkpoints(run_dir)[-1] / "state.json").read_text())
    counters = state["books"]["counters"]
    verdict.expect("policy steps", counters["policy_steps"], end["policy_steps"])
    verdict.expect("refused fragments", counters["refused"], 0)
    verdict.expect("gradient steps", end["gradient_steps"], _due_gradient_steps(tree, counters))
    verdict.expect("gradient steps of the checkpoint", counters["gradient_steps"], end["gradient_steps"])
    _examine_rows(run_dir, tree, counters, _newest(lines, "Buffer/lost_rows"), verdict)
    return verdict


def _round_rows(tree: Json) -> int:
    """Return the rows that all players collect in one round."""
    rows: int = tree["players"]["fragment_rows"] or tree["algo"]["rollout_steps"]
    return rows * int(tree["players"]["num"]) * int(tree["env"]["num_envs"])


def _due_gradient_steps(tree: Json, counters: Json) -> int:
    """Return the gradient steps that are due after the counted policy steps or rounds."""
    algo = tree["algo"]
    if "replay_ratio" in algo:
        steps = counters["policy_steps"] - algo["learning_starts"]
        first = algo.get("pretrain_steps", 0)
        return first + math.floor(Fraction(str(algo["replay_ratio"])) * steps) if steps > 0 else 0
    minibatches = math.ceil(_round_rows(tree) / algo["batch_size"]) if "batch_size" in algo else 1
    return int(counters["version"]) * int(algo.get("epochs", 1)) * minibatches


def _examine_rows(run_dir: Path, tree: Json, counters: Json, lost: int, verdict: Verdict) -> None:
    """Check that every acknowledged row is stored once or counted as lost."""
    if "replay_ratio" not in tree["algo"]:
        return  # rollouts aren't stored
    found, mapped = read_rows(run_dir, tree), tree["buffer"]["memmap"]
    played = counters["version"] * _round_rows(tree)
    verdict.expect("duplicate rows", found.doubles, 0)
    verdict.expect("rows with a wrong successor", found.torn, 0)
    if mapped:
        verdict.expect("rows", found.rows, played)
        verdict.expect("decisions", found.decisions, counters["policy_steps"])
        verdict.expect("missing rows", found.gaps, 0)
    else:
        verdict.expect("rows and lost rows", found.rows + lost, played)
    verdict.figures |= {"rows": found.rows, "rows played": played, "rows counted as lost": lost}


def read_rows(run_dir: Path, tree: Json) -> Rows:
    """Count the rows in all shards of a finished run; without memory maps, those of the last checkpoint."""
    folder = run_dir / "buffer" if tree["buffer"]["memmap"] else checkpoints(run_dir)[-1] / "buffer"
    capacity = tree["buffer"]["size"] // tree["buffer"]["shards"]
    found, nonces, counts = Rows(), [], []
    for path in sorted(folder.glob("shard_*")):
        if tree["buffer"]["memmap"]:
            buffer = ReplayBuffer.attach(path, capacity, Transitions())
        else:
            buffer = ReplayBuffer(capacity, Transitions())
            buffer.load(path)
        nonce, count = _read_shard(buffer, found)
        nonces.append(nonce)
        counts.append(count)
    _compare(np.concatenate(nonces), np.concatenate(counts), found)
    return found


def _read_shard(buffer: ReplayBuffer, found: Rows) -> tuple[Any, Any]:
    """Return nonces and counts of a shard's rows, and add the rows to `found`."""
    storage = buffer.storage
    slots = np.arange(storage.size)
    slots = slots[storage.is_real(slots)]
    nonce, count = read_stamps(storage.get("obs", slots))
    is_last = storage.get("terminated", slots) | storage.get("truncated", slots)
    found.rows += len(slots)
    found.decisions += int(np.count_nonzero(~is_last))
    output = storage.is_transition(slots)
    next_nonce, next_count = read_stamps(storage.get("obs", storage.follow(slots[output])))
    found.torn += int(np.count_nonzero((next_nonce != nonce[output]) | (next_count != count[output] + 1)))
    found.torn += int(np.count_nonzero(output != ~is_last))
    return nonce, count


def _compare(nonce: Any, count: Any, found: Rows) -> None:
    """Count duplicate stamps, and missing ones before the newest of each environment."""
    stamps = np.unique(np.stack([nonce, count], 1), axis=0)
    found.doubles = len(nonce) - len(stamps)
    for each in np.unique(stamps[:, 0]):
        own = stamps[stamps[:, 0] == each, 1]
        found.gaps += int(own.max()) + 1 - len(own)


def _newest(lines: list[Json], key: str) -> int:
    """Return the newest value of a metric that is logged only if it isn't 0."""
    values = [line[key] for line in lines if key in line]
    return int(values[-1]) if values else 0


def mean_return(lines: list[Json]) -> float | None:
    """Return the mean return over the last quarter of a run, None if no episode ended in it."""
    steps = [line["step"] for line in lines if "Rewards/rew_avg" in line]
    if not steps:
        return None
    late = [line["Rewards/rew_avg"] for line in lines if line.get("step", 0) > 0.75 * steps[-1] and RETURN in line]
    return sum(late) / len(late)


RETURN = "Rewards/rew_avg"
