"""Test the reporter: files, progress lines and messages."""

import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sheeprl.envs.wrappers.video import write_gif
from sheeprl.metrics.display import Progress, Speedometer, describe
from sheeprl.metrics.files import JsonLines
from sheeprl.metrics.reporter import FileReporter, Reporter


class Clock:
    """Clock that a test sets."""

    def __init__(self, now: float = 1000.0) -> None:
        """Set the time."""
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Terminal(StringIO):
    """Stream that is a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


@pytest.fixture(autouse=True)
def columns(monkeypatch):
    """Set the width of the terminal."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def clock():
    """Return a clock."""
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    """Yield a function that makes reporters, and close them."""
    made = []

    def make(stream=None, level="info", run_dir=tmp_path, **kwargs):
        """Make a reporter."""
        reporter: Reporter = FileReporter(run_dir, level, StringIO() if stream is None else stream, clock, **kwargs)
        made.append(reporter)
        return reporter

    yield make
    for reporter in made:
        reporter.close()


def at(steps: int, gradient_steps: int = 0, mean_return: float | None = None, total: int = 10_000) -> Progress:
    """Return the progress at some steps."""
    return Progress(steps, total, gradient_steps, mean_return, 3, 4)


def read_lines(run_dir: Path) -> list[dict]:
    """Return the lines of metrics.jsonl, which must be valid JSON."""

    def refuse(name: str):
        """Fail for NaN and Infinity."""
        raise AssertionError(f"{name} isn't JSON")

    text = (run_dir / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def read_scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the TensorBoard scalars."""
    events = EventAccumulator(str(run_dir))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


class TestMetrics:
    """Tests of the metrics files."""

    def test_line_has_step_time_and_values(self, make, clock, tmp_path):
        """A line has the step, the time and the values."""
        reporter = make()
        clock.now += 2.5
        reporter.metrics(128, {"Rewards/rew_avg": 21.5, "Players/alive": 3})
        assert read_lines(tmp_path) == [{"step": 128, "time": 2.5, "Rewards/rew_avg": 21.5, "Players/alive": 3}]

    def test_tensorboard_holds_the_same(self, make, tmp_path):
        """TensorBoard events contain the same values."""
        reporter = make()
        for step in (100, 200):
            reporter.metrics(step, {"Loss/value_loss": step / 1000, "Rewards/rew_avg": float(step)})
        scalars = {
            key: [(line["step"], pytest.approx(line[key])) for line in read_lines(tmp_path)]
            for key in ("Loss/value_loss", "Rewards/rew_avg")
        }
        assert read_scalars(tmp_path) == scalars  # before close: a killed run loses nothing

    def test_killed_process_loses_no_line(self, tmp_path):
        """A killed process loses no line."""
        program = (
            "import os, sys; from pathlib import Path; from sheeprl.metrics.reporter import FileReporter\n"
            "reporter = FileReporter(Path(sys.argv[1]), 'info')\n"
            "reporter.metrics(1, {'Loss/a': 0.5}); reporter.event('resume', policy_steps=1); os._exit(9)"
        )
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
        assert [line.get("event", line.get("step")) for line in read_lines(tmp_path)] == [1, "resume"]
        assert read_scalars(tmp_path) == {"Loss/a": [(1, 0.5)]}

    def test_lost_output_is_an_event(self, make, tmp_path, monkeypatch):
        """Output whose reader has ended is noted once; the reports go on."""
        monkeypatch.setattr("sheeprl.metrics.reporter.lost_streams", lambda: ["stdout"])
        reporter = make()
        reporter.message("one")
        reporter.message("two")
        reporter.progress(at(0))
        assert read_lines(tmp_path) == [{"event": "output_lost", "stream": "stdout"}]

    def test_numpy_numbers(self, make, tmp_path):
        """NumPy numbers are written as numbers."""
        import numpy as np

        make().metrics(1, {"a": np.float32(0.5), "b": np.float64(0.25), "c": np.int64(3)})
        assert read_lines(tmp_path) == [{"step": 1, "time": 0.0, "a": 0.5, "b": 0.25, "c": 3}]

    def test_folder_is_made(self, make, tmp_path):
        """The reporter makes the folder."""
        make(run_dir=tmp_path / "logs" / "ppo").event("end")
        assert read_lines(tmp_path / "logs" / "ppo") == [{"event": "end"}]

    def test_nonfinite_is_null_with_one_warning(self, make, tmp_path, capsys):
        """A non-finite value is null, with one warning."""
        reporter = make()
        reporter.metrics(1, {"a": math.nan, "b": math.inf, "c": 1.0})
        reporter.metrics(2, {"a": -math.inf, "c": 2.0})
        lines = read_lines(tmp_path)
        assert [lines[0][key] for key in "abc"] == [None, None, 1.0]
        assert lines[1]["a"] is None
        warning = "warning: a is nan, b is inf at step 1: null in metrics.jsonl (no further warnings)\n"
        assert capsys.readouterr().err == warning
        scalars = read_scalars(tmp_path)
        assert math.isnan(scalars["a"][0][1])
        assert scalars["b"] == [(1, math.inf)]

    def test_event(self, make, tmp_path):
        """An event is written as a line."""
        reporter = make()
        reporter.event("end", policy_steps=10, wall_time=1.5, mean=math.nan, name="x", why=None)
        assert read_lines(tmp_path) == [
            {"event": "end", "policy_steps": 10, "wall_time": 1.5, "mean": None, "name": "x", "why": None}
        ]


class TestResume:
    """Tests of reporters that continue a file."""

    def test_appends_and_continues_the_time(self, make, clock, tmp_path):
        """A resumed reporter appends lines and continues the time."""
        first = make()
        clock.now += 10
        first.metrics(1, {"a": 1.0})
        first.close()
        clock.now += 500
        second = make(start_time=10.0)
        second.event("resume", policy_steps=1)
        clock.now += 2
        second.metrics(2, {"a": 2.0})
        assert [line.get("time") for line in read_lines(tmp_path)] == [10.0, None, 12.0]
        second.close()
        assert sorted(read_scalars(tmp_path)["a"]) == [(1, 1.0), (2, 2.0)]

    @pytest.mark.parametrize(
        ("left", "complete"),
        [
            (b"", []),
            (b'{"step": 1}\n', [1]),
            (b'{"step": 1}\n{"step": 2, "Loss/val', [1]),
            (b'{"step": 1}\n{"step": 2}', [1, 2]),  # complete except for the line break
            (b'{"st', []),
            ('{"step": 1}\n{"naïve'.encode()[:-3], [1]),  # cut inside a character
        ],
    )
    def test_starts_on_a_new_line(self, make, tmp_path, left, complete):
        """A resumed reporter starts on a new line."""
        (tmp_path / "metrics.jsonl").write_bytes(left)
        make().metrics(3, {})
        assert [line["step"] for line in read_lines(tmp_path)] == [*complete, 3]

    def test_tensorboard_drops_what_a_resumed_run_repeats(self, make, tmp_path):
        """TensorBoard drops the scalars that a resumed run repeats."""
        killed = make()
        for step in (100, 200, 300, 400):
            killed.metrics(step, {"Rewards/rew_avg": float(step)})
        resumed = make(resumed_at=200)
        for step in (300, 400):
            resumed.metrics(step, {"Rewards/rew_avg": step + 0.5})
        rewards = [(100, 100.0), (200, 200.0), (300, 300.5), (400, 400.5)]
        assert read_scalars(tmp_path) == {"Rewards/rew_avg": rewards}

    def test_rates_leave_old_steps_out(self, make, clock):
        """Rates don't include the steps before a resume."""
        stream = StringIO()
        reporter = make(stream)
        reporter.progress(at(5000, 500))
        clock.now += 5
        reporter.progress(at(5050, 510))
        first, second = stream.getvalue().splitlines()
        assert "| - steps/s | - gradient steps/s |" in first
        assert "| 10 steps/s | 2 gradient steps/s |" in second


class TestDiskErrors:
    """Tests of failed writes."""

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
    def test_full_disk_names_the_file(self, make, tmp_path):
        """The error of a full disk names the file."""
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(OSError, match=r"No space left on device: '.*metrics\.jsonl'") as raised:
            make().metrics(1, {"a": 1.0})
        assert raised.value.errno == errno.ENOSPC

    def test_full_disk_leaves_no_half_line(self, tmp_path):
        """A full disk leaves no incomplete line."""
        resource = pytest.importorskip("resource")
        program = (
            "import resource, signal, sys; from pathlib import Path; from sheeprl.metrics.files import JsonLines\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "lines = JsonLines(Path(sys.argv[1])); lines.append({'step': 1})\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"
            "try: lines.append({'step': 2, 'Loss/value_loss': 1.0})\n"
            "except OSError as error: print(error)\n"
            "lines.close()"
        )
        assert resource.RLIMIT_FSIZE is not None
        path = tmp_path / "metrics.jsonl"
        output = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
        assert "metrics.jsonl" in output.stdout
        assert path.read_text() == '{"step": 1}\n'

    def test_unwritable_events_name_the_file(self, make, tmp_path):
        """The error of the event file names it."""
        reporter = make()
        error = OSError(errno.ENOSPC, "No space left on device")

        def fail(*args):
            """Raise an OSError."""
            raise error

        reporter._scalars._writer.add_event = fail
        with pytest.raises(OSError, match=r"No space left on device: '.*events\.out\.tfevents"):
            reporter.metrics(1, {"a": 1.0})
        assert read_lines(tmp_path) == [{"step": 1, "time": 0.0, "a": 1.0}]

    def test_folder_in_the_way(self, tmp_path):
        """The error names a folder in place of the file."""
        (tmp_path / "metrics.jsonl").mkdir()
        with pytest.raises(OSError, match=r"metrics\.jsonl"):
            JsonLines(tmp_path / "metrics.jsonl")


class TestPlainLines:
    """Tests of progress without a terminal."""

    def test_content(self, make, clock):
        """A progress line has the expected text."""
        stream = StringIO()
        reporter = make(stream)
        reporter.progress(at(0))
        clock.now += 10
        reporter.progress(at(2500, 1000, 21.456))
        assert stream.getvalue().splitlines() == [
            "policy steps 0/10,000 (0%) | - steps/s | - gradient steps/s | return - | players 3/4 | - left",
            "policy steps 2,500/10,000 (25%) | 250 steps/s | 100 gradient steps/s | return 21.46 | players 3/4"
            " | 30s left",
        ]

    def test_one_line_per_interval(self, make, clock):
        """There is one line per interval."""
        stream = StringIO()
        reporter = make(stream, interval=2.0)
        for step in range(101):  # ten seconds
            reporter.progress(at(step))
            clock.now += 0.1
        assert len(stream.getvalue().splitlines()) == 6  # five, and the first

    def test_last_progress_is_shown_on_close(self, make, clock):
        """`close` shows the last progress."""
        stream = StringIO()
        reporter = make(stream)
        reporter.progress(at(0))
        clock.now += 1
        reporter.progress(at(10_000))
        assert len(stream.getvalue().splitlines()) == 1
        reporter.close()
        reporter.close()
        assert len(stream.getvalue().splitlines()) == 2
        assert "10,000/10,000 (100%)" in stream.getvalue()
        assert stream.getvalue().endswith("| 0s left\n")

    def test_lines_are_flushed(self, make):
        """Every line is flushed."""

        class Flushed(StringIO):
            """Stream that records its flushed text."""

            unflushed = 0

            def write(self, text):
                """Buffer the text."""
                self.unflushed += len(text)
                return super().write(text)

            def flush(self):
                """Record the flush."""
                self.unflushed = 0

        stream = Flushed()
        reporter = make(stream)
        reporter.progress(at(0))
        assert stream.getvalue() and not stream.unflushed
        reporter.message("hello")
        assert stream.getvalue().endswith("hello\n") and not stream.unflushed

    def test_forced_colours_make_no_terminal(self, make, monkeypatch):
        """FORCE_COLOR doesn't make a stream a terminal."""
        monkeypatch.setenv("FORCE_COLOR", "1")
        stream = StringIO()
        make(stream).progress(at(0))
        assert "\x1b" not in stream.getvalue()

    def test_dumb_terminal_gets_plain_lines(self, make, monkeypatch):
        """A dumb terminal gets plain lines."""
        monkeypatch.setenv("TERM", "dumb")
        stream = Terminal()
        make(stream).progress(at(0))
        assert "\x1b" not in stream.getvalue()

    def test_default_stream_is_stdout(self, tmp_path, capsys):
        """The default stream is stdout."""
        FileReporter(tmp_path, "info").message("hello")
        assert capsys.readouterr().out == "hello\n"


class TestMessages:
    """Tests of messages and levels."""

    @pytest.mark.parametrize(
        ("level", "out", "err"),
        [
            ("debug", "debug: d\ni\n", "warning: w\nerror: e\n"),
            ("info", "i\n", "warning: w\nerror: e\n"),
            ("warning", "", "warning: w\nerror: e\n"),
            ("error", "", "error: e\n"),
        ],
    )
    @pytest.mark.parametrize("kind", [StringIO, Terminal])
    def test_levels(self, make, capsys, level, out, err, kind):
        """Each level goes to its stream."""
        stream = kind()
        reporter = make(stream, level)
        for message in ("debug", "info", "warning", "error"):
            reporter.message(message[0], message)
        assert stream.getvalue() == out
        assert capsys.readouterr().err == err

    @pytest.mark.parametrize("level", ["warning", "error"])
    @pytest.mark.parametrize("kind", [StringIO, Terminal])
    def test_no_progress_at_warning_and_error(self, make, clock, level, kind):
        """No progress is shown at levels warning and error."""
        stream = kind()
        reporter = make(stream, level)
        for step in range(5):
            reporter.progress(at(step))
            clock.now += 10
        reporter.close()
        assert stream.getvalue() == ""


class TestLiveLine:
    """Tests of progress on a terminal."""

    def test_redrawn_at_most_every_quarter_second(self, make, clock):
        """The live line is redrawn at most every quarter of a second."""
        stream = Terminal()
        reporter = make(stream)
        for step in range(160):  # ten seconds, a sixteenth each
            reporter.progress(at(step))
            clock.now += 0.0625
        assert stream.getvalue().count("policy steps") in (40, 41)  # starting draws the first one twice

    def test_one_line_remains_at_the_end(self, make, clock):
        """One line remains at the end."""
        stream = Terminal()
        reporter = make(stream)
        for step in (0, 5000, 10_000):
            reporter.progress(at(step))
            clock.now += 1
        assert "\n" not in stream.getvalue()
        reporter.close()
        assert stream.getvalue().count("\n") == 1
        assert "10,000/10,000 (100%)" in stream.getvalue().rpartition("\r")[0]
        assert "\x1b[?25h" in stream.getvalue()  # the cursor is visible again

    def test_message_goes_above_and_is_not_wrapped(self, make, monkeypatch):
        """A message is printed above the live line, unwrapped."""
        monkeypatch.setenv("COLUMNS", "80")
        stream = Terminal()
        reporter = make(stream)
        reporter.progress(at(0))
        shown = len(stream.getvalue())
        text = "[bold]a path[/bold] /" + "x" * 200
        reporter.message(text)
        after = stream.getvalue()[shown:]
        assert f"{text}\n" in after
        assert after.rpartition("\n")[2].startswith("0/10k  ")

    @pytest.mark.parametrize("kind", [StringIO, Terminal])
    def test_warning_goes_to_a_redirected_stderr(self, make, monkeypatch, kind):
        """A warning goes to a redirected stderr."""
        stream, stderr = Terminal(), kind()
        monkeypatch.setattr(sys, "stderr", stderr)
        reporter = make(stream)
        reporter.progress(at(0))
        reporter.message("careful", "warning")
        on_terminal = kind is Terminal  # it then appears above the live line
        assert ("warning: careful\n" in stream.getvalue()) == on_terminal
        assert ("warning: careful\n" in stderr.getvalue()) != on_terminal

    def test_other_output_goes_above(self, make, monkeypatch):
        """Other output is printed above the live line."""
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        reporter = make(stream)
        reporter.progress(at(0))
        print("a library speaks")
        assert stream.getvalue().rpartition("a library speaks\n")[2].startswith("policy steps")
        reporter.close()
        assert sys.stdout is stream


class TestDescribe:
    """Tests of the progress line's text."""

    @pytest.mark.parametrize("width", [20, 80, 120])
    @pytest.mark.parametrize("scale", [1, 1000, 1_000_000])
    def test_fits(self, width, scale):
        """The text fits the width."""
        speed = Speedometer()
        speed.add(0.0, 0, 0)
        speed.add(1.0, 123 * scale, 45 * scale)
        progress = Progress(123 * scale, 999_999_999 * scale, 45 * scale, -1234.56, 128, 128)
        assert len(describe(progress, speed, width)) <= width

    def test_short_form_fits_80_columns(self):
        """The short form fits in 80 columns."""
        speed = Speedometer()
        speed.add(0.0, 0, 0)
        speed.add(100.0, 1_234_567, 123_456)
        line = describe(Progress(1_234_567, 100_000_000, 123_456, -1234.56, 64, 64), speed, 80)
        assert line == "1.23M/100M  12.3k steps/s  1.23k grad/s  return -1235  players 64/64  2h13m left"

    def test_a_hint_is_shown_if_it_fits(self):
        """The hint is shown if it fits."""
        progress = replace(at(100), hint="trainer waits for players 40 %")
        whole = describe(progress, Speedometer())
        assert whole == describe(at(100), Speedometer()) + " | trainer waits for players 40 %"
        assert describe(progress, Speedometer(), len(whole)) == whole
        assert describe(progress, Speedometer(), len(whole) - 1) == describe(at(100), Speedometer())

    def test_a_short_form_that_does_not_fit_is_cut(self):
        """A short form that doesn't fit is cut."""
        assert describe(at(0), Speedometer(), 10) == "0/10k  - s"

    @pytest.mark.parametrize(
        ("total", "left"),
        [(159, "59s left"), (3699, "59m59s left"), (3700, "1h0m left"), (100 + 86400 * 2 + 7200, "2d2h left")],
    )
    def test_time_left(self, total, left):
        """The time left has the expected format."""
        speed = Speedometer()
        speed.add(0.0, 0, 0)
        speed.add(100.0, 100, 0)
        assert describe(at(100, total=total), speed).endswith(f"| {left}")

    def test_time_left_is_unknown_without_progress(self):
        """The time left is unknown without progress."""
        speed = Speedometer()
        speed.add(0.0, 5, 0)
        speed.add(100.0, 5, 10)
        assert describe(at(5), speed).endswith("| - left")

    def test_almost_done_is_not_done(self):
        """An unfinished run is below 100 %."""
        assert "(99%)" in describe(at(9_999), Speedometer())

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (None, "-"),
            (0.8125, "0.81"),
            (-999.99, "-999.99"),
            (12345.6, "12346"),
            (-1.5e6, "-1.5M"),
            (math.nan, "nan"),
        ],
    )
    def test_return(self, value, shown):
        """Returns have the expected format."""
        assert f"| return {shown} |" in describe(at(0, mean_return=value), Speedometer())


class TestSpeedometer:
    """Tests of the rates."""

    def test_rates_are_none_at_first(self):
        """Rates are None at first."""
        speed = Speedometer()
        assert speed.rates(10) is None
        speed.add(1.0, 100, 10)
        assert speed.rates(10) is None

    def test_only_the_last_seconds_count(self):
        """Only the window counts."""
        speed = Speedometer()
        for second in range(101):
            speed.add(float(second), 10 * second if second <= 50 else 500 + 100 * (second - 50), second)
        assert speed.rates(10) == (100.0, 1.0)
        assert speed.rates(60) == pytest.approx(((10 * 10 + 50 * 100) / 60, 1.0))

    def test_rounds_longer_than_the_window(self):
        """A round may be longer than the window."""
        speed = Speedometer()
        for round_ in range(10):
            speed.add(100.0 * round_, 1000 * round_, 0)
        assert speed.rates(10) == (10.0, 0.0)

    def test_frequent_counts_take_little_memory(self):
        """Frequent counts are thinned out."""
        speed = Speedometer()
        for call in range(100_000):
            speed.add(call / 1000, call, 0)
        assert len(speed._counts) < 300
        assert speed.rates(10) == pytest.approx((1000.0, 0.0))

    def test_counts_restart_after_a_checkpoint(self):
        """Counts restart after a return to a checkpoint."""
        speed = Speedometer()
        speed.add(0.0, 0, 0)
        speed.add(10.0, 1000, 100)
        speed.add(20.0, 500, 50)
        assert speed.rates(10) is None
        speed.add(30.0, 600, 60)
        assert speed.rates(10) == (10.0, 1.0)


def test_imports_neither_torch_nor_ray(tmp_path):
    """The reporter imports neither Torch nor Ray."""
    program = (
        "import sys; from pathlib import Path; from sheeprl.metrics.reporter import FileReporter\n"
        "FileReporter(Path(sys.argv[1]), 'info').metrics(1, {'a': 1.0})\n"
        "print({'torch', 'ray', 'tensorflow'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert output.stdout == "set()\n"


def test_new_videos_become_images(tmp_path, make):
    """New videos become TensorBoard images."""
    pytest.importorskip("PIL")
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "old.gif").write_bytes(b"GIF89a" + bytes(8))
    reporter = make()
    reporter.metrics(5, {"a": 1.0})
    frames = [np.full((4, 300, 3), 40 * number, np.uint8) for number in range(5)]
    write_gif(str(videos / "new.gif"), frames, fps=10)
    for step in (10, 20):
        reporter.metrics(step, {"a": 1.0})
    reporter.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    (image,) = events.Images("Videos/episode")
    assert (image.step, image.width, image.height) == (10, 150, 2)
    assert image.encoded_image_string == (videos / "new.gif").read_bytes()


def test_dreams_become_images_of_their_checkpoint(tmp_path, make):
    """A dream has a tag of its own; that of the last checkpoint appears, too, though no metrics follow."""
    pytest.importorskip("PIL")
    videos, frames = tmp_path / "videos", [np.zeros((4, 4, 3), np.uint8)] * 2
    videos.mkdir()
    reporter = make()
    for metrics, dreamed in ((5, 4), (10, 8)):
        reporter.metrics(metrics, {"a": 1.0})
        write_gif(str(videos / f"dream_step_{dreamed}.gif"), frames, fps=10)
    reporter.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    assert events.Tags()["images"] == ["Videos/dream"]
    assert [image.step for image in events.Images("Videos/dream")] == [4, 8]


def test_the_last_progress_is_shown_once(make, clock):
    """The end of a run doesn't repeat the progress that its last update showed."""
    stream = StringIO()
    reporter = make(stream)
    reporter.progress(at(10_000, 20))
    clock.now += 1
    reporter.progress(replace(at(10_000, 20), hint="trainer waits for players 9 %"))
    reporter.close()
    assert stream.getvalue().count("10,000/10,000") == 1
