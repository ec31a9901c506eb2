"""Test the traces of a few calls."""

import gzip
import json

import numpy as np
import pytest
import torch

from sheeprl import load_config, train
from sheeprl.actors.messages import Fragment
from sheeprl.actors.replay import Replay
from sheeprl.buffer.replay_buffer import ReplayBuffer
from sheeprl.buffer.samplers import Transitions
from sheeprl.utils.profiling import make_profiler, profile_lines, traces


def call_often(profiler, count):
    """Call a small function several times."""
    for _ in range(count):
        with profiler.call("work"):
            torch.ones(3).sum()


def test_a_bounded_number_of_calls_is_profiled(tmp_path):
    """The calls after the first ones are in one trace, in their order, and later calls aren't."""
    profiler = make_profiler(str(tmp_path), 2, "player 0", with_stack=True)
    call_often(profiler, 3)
    assert traces(tmp_path) == []
    call_often(profiler, 3)
    (path,) = traces(tmp_path)
    assert path.name == "player_0.json.gz"
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    calls = [event for event in events if event.get("name") == "player 0: work" and event.get("ph") == "X"]
    assert len(calls) == 2 and calls[0]["ts"] + calls[0]["dur"] <= calls[1]["ts"]
    assert any(event.get("name") == "aten::sum" for event in events)
    assert any(event.get("cat") == "python_function" for event in events)
    assert profile_lines(tmp_path)[0].startswith(f"profile: {tmp_path}/profile (player_0); open")


def test_the_profiler_says_nothing(tmp_path, capfd):
    """PyTorch's profiler logs that it starts and stops; a run doesn't show it."""
    profiler = make_profiler(str(tmp_path), 1, "trainer")
    call_often(profiler, 5)
    assert capfd.readouterr().err == "" and traces(tmp_path)


def test_each_method_is_profiled(tmp_path):
    """A replay shard has a trace of its adds, and of its samples that begin later."""
    profiler = make_profiler(str(tmp_path), 1, "replay 0", with_stack=True)
    replay = Replay(ReplayBuffer(64, Transitions(), 0), 4, profiler=profiler)
    flags = np.zeros((9, 1), np.bool_)
    rows = {"obs": np.zeros((9, 1, 2)), "action": np.zeros((9, 1)), "reward": np.zeros((9, 1), np.float32)}
    rows |= {name: flags for name in ("terminated", "truncated", "is_first")}
    for number in range(6):
        replay.add(Fragment(0, 0, number, rows))
        if number >= 2:
            replay.sample(2, 0.5)
    (path,) = traces(tmp_path)
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    names = [event["name"] for event in events if event.get("ph") == "X"]
    assert [names.count(f"replay 0: {name}") for name in ("add", "sample")] == [1, 1]
    assert any("replay_buffer.py" in name for name in names)


def test_nothing_is_profiled_by_default(tmp_path):
    """Without rounds or a folder nothing is profiled, and a short run says so."""
    call_often(make_profiler(str(tmp_path), 0, "player 0"), 4)
    call_often(make_profiler(None, 2, "player 0"), 4)
    call_often(make_profiler(str(tmp_path), 2, "player 0"), 3)
    assert not (tmp_path / "profile").exists()
    assert profile_lines(tmp_path) == ["profile: no trace, since the run ended before its round 3 was profiled"]


@pytest.mark.slow
def test_a_run_writes_a_trace_for_each_worker(tmp_path):
    """A run with log.profile writes the traces into its folder, and its configuration runs again elsewhere."""
    words = ["run.mode=coupled", "run.total_steps=2200", "trainer.compile=false", "eval.episodes=0"]
    config = load_config("ppo", [*words, "log.profile=1", "log.level=error", f"run.dir={tmp_path / 'run'}"])
    result = train(config)
    assert [path.name for path in traces(result.run_dir)] == [
        f"{role}_0.json.gz" for role in ("player", "replay", "trainer")
    ]
    assert load_config(result.run_dir / "config.yaml").run.dir is None
