"""Episodes and evaluations of a run as lines of JSON, exact after a resume.

`episodes.jsonl` has one line per training episode, `evaluations.jsonl` one per evaluation. A resumed run repeats what
follows its checkpoint, so these lines move to `episodes_undone.jsonl` and `evaluations_undone.jsonl`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sheeprl.actors.evaluation import Evaluation
from sheeprl.callbacks.base import Callback, RunView
from sheeprl.metrics.counters import Episode
from sheeprl.metrics.files import JsonLines, complete_lines, keep_lines

EPISODES, EVALUATIONS = "episodes.jsonl", "evaluations.jsonl"


class RecordFiles(Callback):
    """Write the episodes and evaluations of a run.

    Args:
        run_dir: folder of the run.
    """

    writes_run_files = True

    def __init__(self, run_dir: Path) -> None:
        """Open the files."""
        self._episodes, self._evaluations = JsonLines(run_dir / EPISODES), JsonLines(run_dir / EVALUATIONS)

    def on_episode(self, run: RunView, episode: Episode) -> None:
        """Append an episode."""
        self._episodes.append(
            {
                "step": episode.step,
                "time": round(run.time(), 3),
                "return": episode.total,
                "length": episode.length,
            }
        )
        run.stats.episodes_written += 1

    def on_evaluation(self, run: RunView, result: Evaluation) -> None:
        """Append an evaluation."""
        line = {"step": result.policy_steps, "time": round(run.time(), 3)} | _line_of(result)
        if result.named:
            line["envs"] = {name: _line_of(part) for name, part in result.named.items()}
        self._evaluations.append(line)

    def on_end(self, run: RunView, status: str) -> None:
        """Close the files."""
        self._episodes.close()
        self._evaluations.close()


def mean_returns(run_dir: Path) -> dict[int, float]:
    """Return the mean return of each evaluation of a run, by policy step."""
    lines = [json.loads(line) for line in complete_lines(run_dir / EVALUATIONS)]
    return {line["step"]: line["mean"] for line in lines if line["mean"] is not None}


def _line_of(result: Evaluation) -> dict[str, Any]:
    """Return the part of a line with the result on one environment."""
    return {
        "mean": result.mean_return,
        "std": result.std_return,
        "returns": result.returns,
        "lengths": result.lengths,
        "cut": result.cut,
    }


def rewind_records(run_dir: Path, stats: Mapping[str, Any]) -> None:
    """Move the episodes and evaluations that a resumed run repeats to the files of undone lines.

    An evaluation that began before the checkpoint stays, also if it ended later. An unfinished one is due again.

    Args:
        run_dir: folder of the run.
        stats: statistics of the checkpoint, from `RunStats.state_dict`; `evaluating` loses the evaluations on file.
    """
    # A checkpoint without the count belongs to a run without the file.
    episodes = complete_lines(run_dir / EPISODES)
    written = stats.get("episodes_written", 0)
    keep_lines(run_dir / EPISODES, episodes, [number < written for number in range(len(episodes))])
    evaluations = complete_lines(run_dir / EVALUATIONS)
    steps = [json.loads(line)["step"] for line in evaluations]
    keep_lines(run_dir / EVALUATIONS, evaluations, [step <= stats["counters"]["policy_steps"] for step in steps])
    if "evaluating" in stats:
        stats["evaluating"][:] = [step for step in stats["evaluating"] if step not in steps]
