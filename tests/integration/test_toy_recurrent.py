"""Test that a recurrent on-policy algorithm fits the contract: `toy_recurrent.py` trains without changes elsewhere."""

import pytest

from sheeprl.config.defaults import has_compiler
from sheeprl.debug.replayer import replay_run
from tests.helpers.runs import run, saved
from tests.integration.test_exact_resume import check_that_nothing_differs

TOY = "tests.helpers.toy_recurrent:ToyRecurrent"
SIZES = ["players.num=2", "env.num_envs=2", "algo.rollout_steps=30", "algo.batch_size=32", "algo.epochs=3"]
STEPS_OF_A_ROUND = 3 * 4  # epochs × minibatches: 4 × 8 sequences of 4 rows, in minibatches of 8


@pytest.fixture
def name(tmp_path):
    """Return the file of a configuration of the toy."""
    file = tmp_path / "toy.yaml"
    file.write_text(f"algo: {{name: '{TOY}'}}\nenv: {{id: CartPole-v1}}\n")
    return str(file)


@pytest.mark.slow
def test_an_interrupted_recurrent_run_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    """Recurrent state, running moments and stopped rounds continue bit-identically."""
    overrides = ["run.max_staleness=0", "run.total_steps=700", "log.every=60", "checkpoint.every=150"]
    overrides += ["checkpoint.keep_last=2", "algo.max_kl=0.01", "run.mode=coupled", "trainer.compile=false", *SIZES]
    check_that_nothing_differs(tmp_path, monkeypatch, TOY, overrides)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_stopped_rounds_are_counted_and_re_executed(tmp_path, name, compiled):
    """The run counts the gradient steps that were taken, and its re-execution takes the same ones."""
    if compiled and not has_compiler():
        pytest.skip("there is no C++ compiler")
    folder = tmp_path / "run"
    overrides = ["run.total_steps=480", "algo.max_kl=0.01", "log.record=true", "run.mode=coupled"]
    overrides += [f"trainer.compile={compiled}", *SIZES]
    result = run(folder, name, *overrides)
    rounds = result.policy_steps // 120 + 1
    assert rounds < saved(folder)["gradient_steps"] < rounds * STEPS_OF_A_ROUND
    assert saved(folder)["gradient_steps"] == result.gradient_steps
    assert saved(folder)["agent"]["policy.count"] == rounds * 120
    again = replay_run(str(folder), report=lambda text: None)
    assert again.difference is None and again.gradient_steps == result.gradient_steps
