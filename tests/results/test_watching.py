"""Test following a run by its files."""

import json
import os
import pty
import re
import subprocess
import sys

import pytest

from sheeprl.results.watching import Follower, GrowingFile
from tests.cli.conftest import sheeprl  # noqa: F401 - a fixture


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a run with one line of metrics."""
    run = tmp_path / "logs" / "ppo" / "X-v0" / "1_0"
    run.mkdir(parents=True)
    config = "algo: {name: ppo}\nenv: {id: X-v0}\nrun: {total_steps: 1000, mode: coupled}\nplayers: {num: 2}\n"
    (run / "config.yaml").write_text(config)
    append(run, step=100, time=1.0, **{"Rewards/rew_avg": 5.0, "Params/gradient_steps": 7, "Time/sps": 90.0})
    return run


def append(run, name="metrics.jsonl", **line):
    """Append a line to a file of a run."""
    with (run / name).open("a") as file:
        file.write(json.dumps(line) + "\n")


def test_a_growing_file_is_read_once(tmp_path):
    """Only new and complete lines are read; damaged ones are left out."""
    path = tmp_path / "x.jsonl"
    growing = GrowingFile(path)
    assert list(growing.new_lines()) == []
    path.write_text('{"a": 1}\nnonsense\n[1]\n{"a": 2}\n{"a"')
    assert list(growing.new_lines()) == [{"a": 1}, {"a": 2}]
    with path.open("a") as file:
        file.write(": 3}\n")
    assert list(growing.new_lines()) == [{"a": 3}]
    path.write_text('{"a": 4}\n')  # shorter: a resumed run goes back
    assert list(growing.new_lines()) == [{"a": 4}]


def test_a_follower_shows_what_the_files_have(folder):
    """A follower shows progress, returns, speed and status from the files."""
    follower = Follower(folder)
    follower.update()
    view = follower.view
    assert (view.title, view.total_steps, view.policy_steps, view.gradient_steps) == ("ppo on X-v0", 1000, 100, 7)
    assert view.mean_return is None and view.speed is None and view.status == "failed"  # no end, and not locked
    append(folder, "episodes.jsonl", step=150, **{"return": 10.0})
    append(folder, "episodes.jsonl", step=180, **{"return": 20.0})
    append(folder, step=200, time=2.0, **{"Time/sps": 100.0, "Players/alive": 1, "Loss/value_loss": 3.0})
    append(folder, event="end", status="done", policy_steps=200)
    follower.update()
    assert (view.policy_steps, view.mean_return, view.players_alive, view.status) == (200, 15.0, 1, "finished")
    assert view.speed == (100.0, 0.0) and view.curves["Loss/value_loss"].last == 3.0
    assert follower.progress.players_alive == 1


def test_watch_prints_a_line_without_a_terminal(sheeprl, folder, monkeypatch):  # noqa: F811
    """Without a terminal, the command prints lines until the run has ended."""
    monkeypatch.chdir(folder.parents[3])
    append(folder, event="end", status="done")
    for words in (["@last"], [str(folder), "--once"], ["ppo/X"]):
        done = sheeprl("watch", *words)
        assert (done.code, done.err) == (0, "")
        assert done.out.count("\n") == 1 and done.out.startswith("policy steps 100/1,000 (10%)")
        assert done.out.endswith("| finished\n")
    done = sheeprl("watch", "nothing")
    assert done.code == 2 and done.errors[0].startswith("nothing: no such folder or run")


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "lines", "has_panel"), [(80, 24, True), (40, 10, False)])
def test_watch_draws_the_panel_on_a_terminal(folder, columns, lines, has_panel):
    """On a terminal with room, the command draws the panel, and ends with the run."""
    append(folder, event="end", status="done")
    master, slave = pty.openpty()
    env = {**os.environ, "COLUMNS": str(columns), "LINES": str(lines), "TERM": "xterm"}
    words = [sys.executable, "-m", "sheeprl", "watch", str(folder)]
    subprocess.run(words, stdin=slave, stdout=slave, stderr=slave, env=env, timeout=60, check=True)
    text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", os.read(master, 65536)).decode()
    assert ("ppo on X-v0" in text) == has_panel and "100" in text
    assert max(len(line) for part in text.split("\n") for line in part.split("\r")) <= columns
