"""Panel of a run on a terminal: progress, curves of returns and losses, the time breakdown, players and memory.

A running process draws it from its own metrics, `sheeprl watch` from the files of a run. The lines are composed without
`rich.layout`, which takes several times as long to draw.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from sheeprl.metrics.display import (
    SPEED_WINDOW,
    LiveLine,
    Progress,
    Speedometer,
    short_number,
    short_return,
    time_left,
)
from sheeprl.utils.text import byte_size

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

PANEL_INTERVAL = 2.0  # seconds between updates, since drawing takes longer than the line
LEAST_WIDTH, LEAST_HEIGHT = 80, 20  # columns and rows of a terminal that has room for the panel
MOST_WIDTH = 120
MOST_POINTS = 256  # of a curve; beyond, every second point is dropped
RETURN, EVALUATION = "Rewards/rew_avg", "Test/cumulative_reward"
BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
CURVES = ("Loss/", "Params/alpha", "Policy/", "Values/")
"""Beginnings of the metrics that the panel shows below the returns."""

MOST_CURVES = 6


@dataclass
class Curve:
    """Values of a metric over policy steps, with at most `MOST_POINTS` points."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    every: int = 1
    seen: int = 0
    last: float = math.nan

    def add(self, step: int, value: float) -> None:
        """Add a value; a run that went back to a checkpoint loses its later points."""
        if not math.isfinite(value):
            return
        while self.steps and self.steps[-1] > step:
            self.steps.pop()
            self.values.pop()
        self.last = value
        if self.seen % self.every == 0:
            self.steps.append(step)
            self.values.append(value)
        self.seen += 1
        if len(self.values) > MOST_POINTS:
            self.steps, self.values, self.every = self.steps[::2], self.values[::2], 2 * self.every


@dataclass
class View:
    """Content of the panel.

    Args:
        title: algorithm and environment.
        total_steps: policy steps of the whole run.
        players: number of players.
        is_coupled: True if one process plays and trains.
        status: `running`, or how the run ended.
    """

    title: str
    total_steps: int
    players: int
    is_coupled: bool
    status: str = "running"
    policy_steps: int = 0
    gradient_steps: int = 0
    mean_return: float | None = None
    speed: tuple[float, float] | None = None
    time_left: str = "-"
    players_alive: int | None = None
    checkpoint_age: float | None = None
    hint: str | None = None
    memory: str | None = None
    latest: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)

    def add_metrics(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add a line of metrics."""
        for name, value in values.items():
            if value is None:
                continue
            self.latest[name] = value
            if name in (RETURN, EVALUATION) or name.startswith(CURVES):
                self.curves.setdefault(name, Curve()).add(step, value)

    @property
    def restarts(self) -> int:
        """Return the number of replaced workers."""
        names = ("Players/restarts", "Trainer/restarts", "Buffer/restarts")
        return int(sum(self.latest.get(name, 0) for name in names))

    def time_parts(self) -> list[tuple[str, float]]:
        """Return the fractions of the trainer's time in the last window of metrics; empty before the first one."""
        if "Time/sps" not in self.latest:
            return []
        value = self.latest.get
        parts = {
            "waiting for players": value("Time/trainer_idle", 0.0),
            "waiting for batches": value("Time/trainer_wait_batch", 0.0),
            "checkpoints": value("Time/checkpoint_stall", 0.0),
            "compiling": value("Time/compiling", 0.0),
        }
        if self.is_coupled and (pace := value("Time/sps_env_interaction", 0.0)):
            parts["playing"] = min(1.0, value("Time/sps", 0.0) / pace * self.players)
        rest = max(0.0, 1 - sum(parts.values()))
        shown = sorted(((name, part) for name, part in parts.items() if part >= 0.01), key=lambda pair: -pair[1])
        return [("updating", rest), *shown]


class LivePanel(LiveLine):
    """Panel at the bottom of a terminal; the live line where the terminal has no room for it.

    Args:
        stream: the terminal.
        view: content of the panel.
    """

    interval = PANEL_INTERVAL

    def __init__(self, stream: TextIO, view: View) -> None:
        """Store the view."""
        super().__init__(stream)
        self._view = view

    def add_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line of metrics to the curves."""
        self._view.add_metrics(step, values)

    def _drawn(self, progress: Progress, speed: Speedometer) -> RenderableType:
        """Return the panel, or the line if the terminal is too small."""
        size, view = self._console.size, self._view
        if not has_room(size.width, size.height):
            return super()._drawn(progress, speed)
        view.policy_steps, view.gradient_steps = progress.policy_steps, progress.gradient_steps
        view.mean_return, view.hint = progress.mean_return, progress.hint
        view.players_alive, view.checkpoint_age = progress.players_alive, progress.checkpoint_age
        view.speed, view.time_left = speed.rates(SPEED_WINDOW), time_left(progress, speed)
        view.memory = memory_of_machine()
        return draw(view, size.width, self._console.encoding.startswith("utf"))


def has_room(width: int, height: int) -> bool:
    """Return whether a terminal of this size has room for the panel."""
    return width >= LEAST_WIDTH and height >= LEAST_HEIGHT


def memory_of_machine() -> str:
    """Return the used and the total memory of this machine."""
    import psutil

    memory = psutil.virtual_memory()
    return f"{byte_size(memory.total - memory.available)} of {byte_size(memory.total)}"


def draw(view: View, width: int, unicode: bool = True) -> RenderableType:
    """Return the panel.

    Args:
        view: its content.
        width: columns of the terminal.
        unicode: draw with block characters; False for ASCII.
    """
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    width = min(width, MOST_WIDTH)
    lines = [Text(" ").join(parts) for parts in _lines(view, width - 4, unicode)]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis" if unicode else "crop"
    colour = {"running": "cyan", "finished": "green", "failed": "red"}.get(view.status, "yellow")
    return Panel(
        Group(*lines),
        title=Text(f" {view.title} ", "bold"),
        subtitle=Text(f" {view.status} ", colour),
        box=box.ROUNDED if unicode else box.ASCII,
        border_style="dim",
        width=width,
    )


def _lines(view: View, width: int, unicode: bool) -> Iterator[list[Text]]:
    """Yield the parts of each line."""
    from rich.text import Text

    yield _progress(view, width, unicode)
    for label, name, value in (
        ("return", RETURN, view.mean_return),
        ("evaluation", EVALUATION, view.latest.get(EVALUATION)),
    ):
        curve = view.curves.get(name, Curve())
        if name == RETURN or curve.values:
            drawn = sparkline(curve.values, max(0, width - 22), unicode)
            yield [Text(label.ljust(10), "bold"), Text(f"{short_return(value):>9}"), Text(drawn, "green")]
    policy, gradient = (short_number(rate) for rate in view.speed) if view.speed else ("-", "-")
    alive = view.players if view.players_alive is None else view.players_alive
    facts = [f"{policy} steps/s", f"{gradient} gradient steps/s", f"players {alive}/{view.players}"]
    facts += [f"{view.restarts} replaced"] if view.restarts else []
    facts += [] if view.checkpoint_age is None else [f"saved {view.checkpoint_age:.0f} s ago"]
    yield [Text("speed".ljust(10), "bold"), Text((" · " if unicode else " | ").join(facts))]
    if parts := view.time_parts():
        yield _time_bar(parts, width, unicode)
    yield from _curves(view, width, unicode)
    if view.memory:
        yield [Text("memory".ljust(10), "bold"), Text(view.memory)]
    if view.hint:
        yield [Text("hint".ljust(10), "bold"), Text(view.hint, "yellow")]


def _progress(view: View, width: int, unicode: bool) -> list[Text]:
    """Return the line with the bar of the progress."""
    from rich.text import Text

    part = min(1.0, view.policy_steps / max(1, view.total_steps))
    text = f"{int(100 * part)}%  {view.policy_steps:,} of {view.total_steps:,} policy steps"
    left = f"{view.time_left} left" if view.status == "running" else ""
    room = max(4, min(40, width - len(text) - len(left) - 4))
    done = int(room * part)
    full, rest = ("█", "░") if unicode else ("#", ".")
    return [Text(full * done, "cyan") + Text(rest * (room - done), "dim"), Text(text), Text(left, "bold")]


def _time_bar(parts: Sequence[tuple[str, float]], width: int, unicode: bool) -> list[Text]:
    """Return the line with the bar of the time breakdown and its legend."""
    from rich.text import Text

    colours = ("green", "yellow", "magenta", "blue", "cyan", "red")
    room, bar, legend, used = min(24, width // 4), Text(), Text(), 0
    for number, (name, part) in enumerate(parts):
        colour = colours[number % len(colours)]
        end = min(room, round(room * sum(share for _, share in parts[: number + 1])))
        bar.append(("█" if unicode else name[0]) * (end - used), colour)
        legend.append(f"{' ' if number else ''}{name} {100 * part:.0f}%", colour)
        used = end
    bar.append(" " * (room - used))
    return [Text("time".ljust(10), "bold"), bar, legend]


def _curves(view: View, width: int, unicode: bool) -> Iterator[list[Text]]:
    """Yield lines with two metrics each, with their newest values and curves."""
    from rich.text import Text

    names = [name for start in CURVES for name in view.curves if name.startswith(start)][:MOST_CURVES]
    cell = width // 2 - 1
    for first in range(0, len(names), 2):
        line = []
        for name in names[first : first + 2]:
            curve = view.curves[name]
            label = name.partition("/")[2].replace("_loss", "")[:14].ljust(14)
            value = f"{curve.last:>10.4g}"
            drawn = sparkline(curve.values, max(0, cell - len(label) - len(value) - 3), unicode)
            line.append(Text(f"{label} {value} ") + Text(drawn.ljust(max(0, cell - 27)), "blue"))
        yield line


def sparkline(values: Sequence[float], width: int, unicode: bool = True) -> str:
    """Return a curve as one line of at most `width` characters, scaled to the lowest and the highest value."""
    if not values or width < 1:
        return ""
    count = min(width, len(values))
    edges = [len(values) * place // count for place in range(count + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]
    blocks = BLOCKS if unicode else PLAIN_BLOCKS
    low, high = min(means), max(means)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[round((value - low) * scale)] for value in means)
