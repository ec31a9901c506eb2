"""Test that an interrupted run ends bit-identical to an uninterrupted one, for every registered algorithm."""

import signal

import pytest
import torch

from sheeprl.algos import registry
from sheeprl.algos.args import OffPolicy
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.driver.collection import Collector
from sheeprl.driver.updates import UpdateScheduler
from sheeprl.run import Run
from tests.helpers.runs import SMALL_SAC, lines, ray_session, run, saved

INTERRUPTIONS = {  # methods of the run, and the calls in which it is stopped
    "on_policy": [("_add_fragments", 1), ("updated", 1), ("publish", 1)],
    "off_policy": [("_add_fragments", 5), ("updated", 4), ("publish", 4), ("may_collect", 9)],
}


@pytest.fixture(scope="module")
def cluster():
    """Yield a Ray session."""
    with ray_session(cpus=4):
        yield


def settings(algorithm):
    """Return a short run of an algorithm with many events."""
    args = registry.args_class(algorithm)
    data = args.model_construct(name=algorithm).data()
    env = "CartPole-v1" if "discrete" in args.actions else "Pendulum-v1"
    common = ["run.max_staleness=0", "run.total_steps=700", "log.every=60", "checkpoint.every=150", "env.num_envs=2"]
    common += ["players.num=2", "checkpoint.keep_last=2"]
    if isinstance(data, OffPolicy):
        return env, "off_policy", [*common, *SMALL_SAC, "algo.replay_ratio=1", "env.max_episode_steps=37"]
    return env, "on_policy", [*common, "algo.rollout_steps=32", "algo.batch_size=32", "algo.epochs=2"]


def interrupt(monkeypatch, method, call):
    """Interrupt the run in one call of a method of the driver."""
    owner = next(owner for owner in (Run, Collector, UpdateScheduler) if hasattr(owner, method))
    original, calls = getattr(owner, method), iter(range(call + 1))

    def interrupting(self, *args, **kwargs):
        """Call the method and stop the run in the scheduled call."""
        if next(calls, None) == call:
            signal.raise_signal(signal.SIGINT)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, method, interrupting)


def history(folder):
    """Return the metrics without times."""
    metrics = [line for line in lines(folder) if "event" not in line]
    return [{key: value for key, value in line.items() if not key.lower().startswith("time")} for line in metrics]


def assert_equal(one, other, where=""):
    """Check that two values are bit-identical."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}/{number}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def rows_of(folder):
    """Return the files with rows in the newest checkpoint's replay."""
    newest = checkpoints(folder)[-1]
    return {path.relative_to(newest): path.read_bytes() for path in sorted(newest.glob("buffer/*/*.bin"))}


@pytest.mark.parametrize("mode", ["coupled", pytest.param("decoupled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("algorithm", registry.registered())
def test_an_interrupted_run_equals_an_uninterrupted_one(tmp_path, monkeypatch, request, algorithm, mode):
    """An interrupted run equals an uninterrupted one."""
    if mode == "decoupled":
        request.getfixturevalue("cluster")
    env, kind, overrides = settings(algorithm)
    check_that_nothing_differs(tmp_path, monkeypatch, algorithm, env, kind, [*overrides, f"run.mode={mode}"])


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_environments_may_draw_from_process_wide_generators(tmp_path, monkeypatch, vectorization):
    """The same holds if environments draw from process-wide generators."""
    _, kind, overrides = settings("ppo")
    overrides += ["run.mode=coupled", f"env.vectorization={vectorization}", "eval.episodes=1", "eval.every=200"]
    overrides += ["checkpoint.envs=true"]
    check_that_nothing_differs(tmp_path, monkeypatch, "ppo", "tests.helpers.run_envs:Worldly-v0", kind, overrides)


def check_that_nothing_differs(tmp_path, monkeypatch, algorithm, env, kind, overrides):
    """Run without and with interruptions; compare the results."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = run(whole, algorithm, *overrides, env=env)
    interrupted = 0
    for method, call in INTERRUPTIONS[kind]:
        with monkeypatch.context() as patch:
            interrupt(patch, method, call)
            result = run(parts, algorithm, *overrides, "run.resume=true", env=env)
        interrupted += result.interrupted_by == signal.SIGINT
    assert interrupted == len(INTERRUPTIONS[kind])
    result = run(parts, algorithm, *overrides, "run.resume=true", env=env)
    assert result.interrupted_by is None
    assert (result.policy_steps, result.gradient_steps) == (done.policy_steps, done.gradient_steps)
    assert_equal(saved(whole), saved(parts))
    assert history(whole) == history(parts)
    assert rows_of(whole) == rows_of(parts)
