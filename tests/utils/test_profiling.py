"""Test the traces of a few calls."""

import gzip
import json

import torch

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


def test_nothing_is_profiled_by_default(tmp_path):
    """Without rounds or a folder nothing is profiled, and a short run says so."""
    call_often(make_profiler(str(tmp_path), 0, "player 0"), 4)
    call_often(make_profiler(None, 2, "player 0"), 4)
    call_often(make_profiler(str(tmp_path), 2, "player 0"), 3)
    assert not (tmp_path / "profile").exists()
    assert profile_lines(tmp_path) == ["profile: no trace, since the run ended before its round 3 was profiled"]
