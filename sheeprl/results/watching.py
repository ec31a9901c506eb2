"""Follow a run by its files alone: `metrics.jsonl`, `episodes.jsonl` and `config.yaml`.

The run doesn't notice, and may run on another machine that shares the folder.
"""

from __future__ import annotations

import json
import platform
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sheeprl.checkpoint.run_dir import checkpoints, read_config
from sheeprl.checkpoint.run_info import read_run_info
from sheeprl.checkpoint.runs import FoundRun
from sheeprl.config.loading import get_value
from sheeprl.metrics.display import Progress, Speedometer, time_left
from sheeprl.metrics.panel import View, memory_of_machine

EPISODES = 100  # newest episodes, whose mean return is shown


class GrowingFile:
    """Reads the lines that a file of JSON lines gains.

    Args:
        path: the file, which may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        """Start before the first line."""
        self.path = path
        self._position = 0
        self._rest = b""

    def new_lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines since the last call. A file that became shorter, as by a resume, is read again."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._position:
                    self._position, self._rest = 0, b""
                file.seek(self._position)
                text = self._rest + file.read()
                self._position = file.tell()
        except OSError:
            return
        *lines, self._rest = text.split(b"\n")
        for line in lines:
            try:
                found = json.loads(line)
            except ValueError:  # a damaged line must not hide the others
                continue
            if isinstance(found, dict):
                yield found


class Follower:
    """Follows one run.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        """Read the configuration."""
        self.folder = folder
        self.run = FoundRun(folder, 0.0)
        tree = read_config(folder)
        self.players = get_value(tree, "players.num") or 1
        is_coupled = get_value(tree, "run.mode") == "coupled"
        title = f"{get_value(tree, 'algo.name')} on {get_value(tree, 'env.id')}"
        self.view = View(title, get_value(tree, "run.total_steps") or 1, self.players, is_coupled)
        self.speed = Speedometer()
        self._metrics = GrowingFile(folder / "metrics.jsonl")
        self._episodes = GrowingFile(folder / "episodes.jsonl")
        self._returns: deque[float] = deque(maxlen=EPISODES)
        self._is_here = self._runs_here()

    def _runs_here(self) -> bool:
        """Return whether the run was started on this machine, whose memory is shown then."""
        starts = read_run_info(self.folder).get("starts") or [{}]
        return bool(starts[-1].get("host") == platform.node())

    def update(self) -> None:
        """Read what the run has written since the last call."""
        view = self.view
        for line in self._metrics.new_lines():
            self._add(line)
        for episode in self._episodes.new_lines():
            if isinstance(value := episode.get("return"), int | float):
                self._returns.append(float(value))
                # Metrics are written less often, and the steps of a resumed run go back.
                view.policy_steps = max(int(episode.get("step", 0)), view.policy_steps)
        if self._returns:
            view.mean_return = sum(self._returns) / len(self._returns)
        view.status = self.run.status
        rates = self.speed.rates(60.0)
        view.speed = (rates.policy, rates.gradient) if rates else None
        view.time_left = time_left(self.progress, self.speed)
        view.checkpoint_age = self._checkpoint_age() if view.status == "running" else None
        view.memory = memory_of_machine() if self._is_here and view.status == "running" else None

    def _add(self, line: dict[str, Any]) -> None:
        """Add a line of metrics, or an event."""
        view, step = self.view, line.get("step")
        if not isinstance(step, int):
            return
        values = {name: value for name, value in line.items() if isinstance(value, int | float) and "/" in name}
        view.add_metrics(step, values)
        view.policy_steps = step
        view.gradient_steps = int(view.latest.get("Params/gradient_steps", 0))
        if "Players/alive" in values:
            view.players_alive = int(values["Players/alive"])
        if "Time/sps" in values:
            self.speed.add(float(line.get("time", 0.0)), step, view.gradient_steps)

    def _checkpoint_age(self) -> float | None:
        """Return the seconds since the newest checkpoint, None without one."""
        found = checkpoints(self.folder)
        try:
            return max(0.0, time.time() - found[-1].stat().st_mtime) if found else None
        except OSError:  # removed in the meantime
            return None

    @property
    def progress(self) -> Progress:
        """Return the progress, for the line of a small terminal."""
        view = self.view
        alive = self.players if view.players_alive is None else view.players_alive
        steps = view.policy_steps, view.total_steps, view.gradient_steps
        return Progress(*steps, view.mean_return, alive, self.players)
