"""A run that is interrupted again and again ends with the very bits of one that isn't: every registered algorithm."""

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

INTERRUPTIONS = {  # methods of the run, and in which of their calls it is asked to stop
    "on_policy": [("_add_round", 1), ("updated", 1), ("publish", 1)],
    "off_policy": [("_add_round", 5), ("updated", 4), ("publish", 4), ("may_collect", 9)],
}


@pytest.fixture(scope="module")
def cluster():
    with ray_session(cpus=4):
        yield


def settings(algorithm):
    """A short run of any algorithm, in which much happens."""
    args = registry.args_class(algorithm)
    data = args.model_construct(name=algorithm).data()
    env = "CartPole-v1" if "discrete" in args.actions else "Pendulum-v1"
    common = ["run.max_staleness=0", "run.total_steps=700", "log.every=60", "checkpoint.every=150", "env.num_envs=2"]
    common += ["players.num=2", "checkpoint.keep_last=2"]
    if isinstance(data, OffPolicy):
        return env, "off_policy", [*common, *SMALL_SAC, "env.max_episode_steps=37"]
    return env, "on_policy", [*common, "algo.rollout_steps=32", "algo.batch_size=32", "algo.epochs=2"]


def interrupt(monkeypatch, method, call):
    """Have the run interrupted in one call of a method of the driver's."""
    owner = next(owner for owner in (Run, Collector, UpdateScheduler) if hasattr(owner, method))
    original, calls = getattr(owner, method), iter(range(call + 1))

    def interrupting(self, *args, **kwargs):
        if next(calls, None) == call:
            signal.raise_signal(signal.SIGINT)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, method, interrupting)


def history(folder):
    """What was logged, but for times."""
    kept = [line for line in lines(folder) if "event" not in line]
    return [{key: value for key, value in line.items() if not key.lower().startswith("time")} for line in kept]


def assert_equal(one, other, where=""):
    """Bit by bit."""
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
    """The files of the newest checkpoint's replay that hold rows."""
    newest = checkpoints(folder)[-1]
    return {path.relative_to(newest): path.read_bytes() for path in sorted(newest.glob("buffer/*/*.bin"))}


@pytest.mark.parametrize("mode", ["coupled", pytest.param("decoupled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("algorithm", registry.registered())
def test_interrupted_and_resumed_is_uninterrupted(tmp_path, monkeypatch, request, algorithm, mode):
    if mode == "decoupled":
        request.getfixturevalue("cluster")
    env, kind, overrides = settings(algorithm)
    check_that_nothing_differs(tmp_path, monkeypatch, algorithm, env, kind, [*overrides, f"run.mode={mode}"])


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_so_it_is_where_environments_draw_from_the_generators_of_their_process(tmp_path, monkeypatch, vectorization):
    _, kind, overrides = settings("ppo")
    overrides += ["run.mode=coupled", f"env.vectorization={vectorization}", "eval.episodes=1", "eval.every=200"]
    check_that_nothing_differs(tmp_path, monkeypatch, "ppo", "tests.helpers.run_envs:Worldly-v0", kind, overrides)


def check_that_nothing_differs(tmp_path, monkeypatch, algorithm, env, kind, overrides):
    """Run in one go, and interrupted again and again."""
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
