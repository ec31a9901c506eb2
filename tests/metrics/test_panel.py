"""Test the panel of a run, also on pseudo-terminals of several sizes."""

import math
import os
import pty
import re
import threading
import time
from io import StringIO

import pytest
from rich.console import Console

from sheeprl.metrics.display import LiveLine, PlainLines, Progress
from sheeprl.metrics.panel import MOST_POINTS, Curve, LivePanel, View, draw, has_room, sparkline
from sheeprl.metrics.reporter import FileReporter

METRICS = {
    "Rewards/rew_avg": 20.0,
    "Loss/policy_loss": -0.01,
    "Loss/value_loss": 70.0,
    "Time/sps": 100.0,
    "Time/trainer_idle": 0.4,
    "Time/checkpoint_stall": 0.001,
    "Players/restarts": 1,
    "Trainer/restarts": 0,
}


def view(**values):
    """Return a view with ten lines of metrics."""
    made = View("ppo on CartPole-v1", 1000, 2, is_coupled=False, **values)
    for step in range(0, 500, 50):
        made.add_metrics(step, {**METRICS, "Rewards/rew_avg": float(step)})
    made.policy_steps, made.mean_return, made.speed = 450, 352.14, (9300.0, 727.0)
    return made


def drawn(made, width, unicode=True):
    """Return the lines of a panel, without colours."""
    console = Console(file=StringIO(), width=width, height=24, color_system=None)
    console.print(draw(made, width, unicode))
    return console.file.getvalue().splitlines()


def test_a_curve_keeps_its_shape_in_bounded_memory():
    """A curve has a bounded number of points, from the first to the last step."""
    curve = Curve()
    for step in range(10_000):
        curve.add(step, float(step))
    assert len(curve.values) <= MOST_POINTS and curve.values[0] == 0 and curve.values[-1] > 9900
    assert curve.values == sorted(curve.values) and curve.last == 9999


def test_a_curve_goes_back_with_the_run():
    """A run that goes back to a checkpoint loses its later points; values that aren't finite are left out."""
    curve = Curve()
    for step in (1, 2, 3, 4):
        curve.add(step, float(step))
    curve.add(2, 20.0)
    curve.add(3, math.nan)
    assert curve.steps == [1, 2, 2] and curve.values == [1.0, 2.0, 20.0] and curve.last == 20.0


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([], 8, ""),
        ([1.0], 8, "▁"),
        ([1.0, 1.0], 8, "▁▁"),
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, "▁▂▃▄▅▆▇█"),
        ([0, 0, 7, 7], 2, "▁█"),
        ([1.0, 2.0], 0, ""),
    ],
)
def test_a_sparkline_is_scaled_to_its_values(values, width, line):
    """A sparkline has the mean of neighbouring values, from the lowest to the highest block."""
    assert sparkline(values, width) == line
    assert len(sparkline(values, width, unicode=False)) == len(line)


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("unicode", [True, False])
def test_the_panel_fits_its_width(width, unicode):
    """No line is wider than the terminal, and the panel shows what it has."""
    lines = drawn(view(hint="trainer waits for players " * 9, memory="1 of 2 GiB"), width, unicode)
    assert {len(line) for line in lines} == {min(width, 120)} and len(lines) < 14
    text = "\n".join(lines)
    for part in ("45%", "450 of 1,000", "352.14", "9.3k steps/s", "players 2/2", "1 replaced", "policy", "value"):
        assert part in text
    assert text.isascii() or unicode


def test_the_time_bar_has_the_parts_of_the_window():
    """The trainer's time is split into its waits and the rest; parts below a percent are left out."""
    assert dict(view().time_parts()) == pytest.approx({"updating": 0.599, "waiting for players": 0.4})
    coupled = View("x", 10, 1, is_coupled=True)
    assert coupled.time_parts() == []
    coupled.add_metrics(1, {"Time/sps": 100.0, "Time/sps_env_interaction": 400.0})
    assert dict(coupled.time_parts()) == pytest.approx({"updating": 0.75, "playing": 0.25})


def test_an_empty_panel_can_be_drawn():
    """Before the first metrics the panel shows the progress."""
    lines = drawn(View("ppo on X-v0", 100, 1, is_coupled=True), 80)
    assert "0%  0 of 100 policy steps" in lines[1] and len(lines) == 5


class Screen:
    """Pseudo-terminal that collects what is written to it."""

    def __init__(self):
        """Open it."""
        self.master, slave = pty.openpty()
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self.data = b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        """Collect the output until the terminal is closed."""
        while True:
            try:
                part = os.read(self.master, 65536)
            except OSError:
                return
            self.data += part

    def close(self):
        """Close the terminal; return the text without control sequences."""
        self.stream.flush()
        for _ in range(200):  # the reader needs a moment
            before = len(self.data)
            time.sleep(0.01)
            if before == len(self.data):
                break
        self.stream.close()
        self.reader.join(5)
        os.close(self.master)
        return re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", self.data).decode()


@pytest.mark.parametrize(
    ("columns", "lines", "term", "display", "shows_panel"),
    [
        (80, 24, "xterm-256color", LivePanel, True),
        (120, 40, "xterm", LivePanel, True),
        (40, 10, "xterm", LivePanel, False),
        (80, 10, "xterm", LivePanel, False),
        (80, 24, "dumb", PlainLines, False),
    ],
)
def test_a_run_draws_the_panel_where_a_terminal_has_room(
    monkeypatch, tmp_path, columns, lines, term, display, shows_panel
):
    """A run on a terminal draws the panel; small terminals get the line, dumb ones plain lines."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(lines))
    monkeypatch.setenv("TERM", term)
    assert has_room(columns, lines) == (columns >= 80 and lines >= 20)
    screen = Screen()
    reporter = FileReporter(tmp_path, "info", screen.stream, panel=View("ppo on X-v0", 1000, 1, is_coupled=True))
    assert type(reporter._display) is display
    reporter.metrics(100, {"Rewards/rew_avg": 12.5, "Time/sps": 10.0})
    reporter.progress(Progress(100, 1000, 7, 12.5, 1, 1))
    reporter.message("a message")
    reporter.progress(Progress(200, 1000, 9, 13.5, 1, 1))
    reporter.close()
    text = screen.close()
    assert "a message" in text and ("ppo on X-v0" in text) == shows_panel
    widest = max(len(line) for part in text.split("\n") for line in part.split("\r"))
    assert widest <= columns or term == "dumb"
    assert ("200 of 1,000" if shows_panel else "200/1") in text


def test_a_run_has_the_line_by_default(tmp_path):
    """Without a panel, a terminal has the line."""
    screen = Screen()
    reporter = FileReporter(tmp_path, "info", screen.stream)
    assert type(reporter._display) is (PlainLines if os.environ.get("TERM") in ("dumb", "unknown") else LiveLine)
    reporter.close()
    screen.close()
