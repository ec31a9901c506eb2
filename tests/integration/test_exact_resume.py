"""Test that an interrupted run ends bit-identical to an uninterrupted one, for every registered algorithm."""

import signal

import pytest
import torch

from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.driver.adding import FragmentAdder
from sheeprl.driver.collection import Collector
from sheeprl.driver.updates import UpdateScheduler
from tests.helpers.algorithms import MORE, Small, every_algorithm, is_off_policy
from tests.helpers.runs import lines, ray_session, saved

INTERRUPTIONS = {  # methods of the driver, and the calls in which the run is stopped
    "on_policy": [(FragmentAdder, "add", 1), (UpdateScheduler, "updated", 1), (Collector, "publish", 1)],
    "off_policy": [
        *((FragmentAdder, "add", 5), (UpdateScheduler, "updated", 4)),
        *((Collector, "publish", 4), (Collector, "may_collect", 9)),
    ],
}


@pytest.fixture(scope="module")
def cluster():
    """Yield a Ray session."""
    with ray_session(cpus=4):
        yield


def settings(algorithm):
    """Return the settings of a short run with many events."""
    common = ["run.max_staleness=0", "run.total_steps=700", "log.every=60", "checkpoint.every=150", "players.num=2"]
    common += ["checkpoint.keep_last=2"]
    return [*common, "env.max_episode_steps=37"] if is_off_policy(algorithm) else common


def interrupt(monkeypatch, owner, method, call):
    """Interrupt the run in one call of a method."""
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


@pytest.mark.parametrize("algorithm", every_algorithm(MORE))
def test_an_interrupted_run_equals_an_uninterrupted_one(tmp_path, monkeypatch, algorithm):
    """An interrupted run equals an uninterrupted one."""
    check_that_nothing_differs(tmp_path, monkeypatch, algorithm, [*settings(algorithm), "run.mode=coupled"])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", every_algorithm(slow=("sac",), quick=()))
def test_an_interrupted_decoupled_run_equals_an_uninterrupted_one(tmp_path, monkeypatch, cluster, algorithm):
    """The same holds for a run of Ray actors."""
    check_that_nothing_differs(tmp_path, monkeypatch, algorithm, [*settings(algorithm), "run.mode=decoupled"])


@pytest.mark.slow
def test_running_statistics_and_adaptive_rates_are_resumed(tmp_path, monkeypatch):
    """The same holds for PPO with running statistics, an adaptive learning rate and stopped rounds."""
    overrides = [*settings("ppo"), "run.mode=coupled", "algo.normalize_obs=true", "algo.normalize_reward=true"]
    overrides += ["algo.desired_kl=0.001", "algo.target_kl=0.01", "algo.learning_rate=1e-3"]
    check_that_nothing_differs(tmp_path, monkeypatch, "ppo", overrides)


@pytest.mark.slow
def test_noise_and_priorities_are_resumed(tmp_path, monkeypatch):
    """The same holds for DQN with noisy layers, prioritized replay and a distributional head."""
    overrides = [*settings("dqn"), "run.mode=coupled", "algo.noisy=true", "algo.prioritized=true", "algo.head=c51"]
    overrides += ["algo.dueling=true", "algo.n_step=3", "algo.target_every=20"]
    check_that_nothing_differs(tmp_path, monkeypatch, "dqn", overrides)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_environments_may_draw_from_process_wide_generators(tmp_path, monkeypatch, vectorization):
    """The same holds if environments draw from process-wide generators."""
    overrides = ["run.mode=coupled", f"env.vectorization={vectorization}", "eval.episodes=1", "eval.every=200"]
    overrides += ["checkpoint.envs=true", "env.id=tests.helpers.run_envs:Worldly-v0"]
    check_that_nothing_differs(tmp_path, monkeypatch, "ppo", [*settings("ppo"), *overrides])


def check_that_nothing_differs(tmp_path, monkeypatch, algorithm, overrides):
    """Run without and with interruptions; compare the results."""
    whole, parts, small = tmp_path / "whole", tmp_path / "parts", Small(algorithm)
    interruptions = INTERRUPTIONS["off_policy" if is_off_policy(algorithm) else "on_policy"]
    done = small.run(whole, *overrides)
    interrupted = 0
    for owner, method, call in interruptions:
        with monkeypatch.context() as patch:
            interrupt(patch, owner, method, call)
            result = small.run(parts, *overrides, "run.resume=true")
        interrupted += result.interrupted_by == signal.SIGINT
    assert interrupted == len(interruptions)
    result = small.run(parts, *overrides, "run.resume=true")
    assert result.interrupted_by is None
    assert (result.policy_steps, result.gradient_steps) == (done.policy_steps, done.gradient_steps)
    assert_equal(saved(whole), saved(parts))
    assert history(whole) == history(parts)
    assert rows_of(whole) == rows_of(parts)
