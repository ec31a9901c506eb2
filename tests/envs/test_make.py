"""Test environments of all kinds: they train, or a message says what would work."""

import os
from contextlib import closing

import numpy as np
import pytest

from sheeprl import ConfigError, train
from sheeprl.checkpoint.resume import resume_tree
from sheeprl.config.checks import check
from sheeprl.config.loading import load_config, validate
from sheeprl.debug.replayer import replay_run
from sheeprl.envs.config import EnvConfig
from sheeprl.envs.make import EnvSettingsError, make_vector_env
from sheeprl.evaluate import evaluate_checkpoint
from sheeprl.utils.errors import RunFailedError
from tests.helpers.odd_envs import Recorded
from tests.helpers.runs import QUIET, lines

TINY = ["run.mode=coupled", "algo.rollout_steps=8", "algo.batch_size=8", "algo.epochs=1", "env.num_envs=2"]


def tree_of(folder, env, *overrides, **settings):
    """Return the tree of a tiny PPO run in an environment of `tests.helpers.odd_envs`."""
    end = ["run.total_steps=32", f"run.dir={folder}", f"env.id=tests.helpers.odd_envs:{env}-v0"]
    tree = load_config("ppo", [*QUIET, *TINY, *end, *overrides]).model_dump()
    tree["env"] |= settings
    return tree


def mistakes_of(folder, env, *overrides, **settings):
    """Return the mistakes for which a run doesn't start."""
    with pytest.raises(ConfigError) as caught:
        train(validate(tree_of(folder, env, *overrides, **settings)))
    assert not folder.exists()
    return caught.value.mistakes


def test_arguments_are_the_same_in_every_command(tmp_path):
    """A run, its resume, its evaluation and its re-execution pass the same arguments."""
    value = {1: [float("inf"), (1, float("nan"))], "b": b"\xff", None: {3}}
    folder, text = tmp_path / "run", repr(value)
    Recorded.received.clear()
    train(validate(tree_of(folder, "Recorded", "log.record=true", "eval.episodes=1", kwargs={"value": value})))
    train(validate(resume_tree(str(folder), ["run.total_steps=64", f"env.kwargs={YAML}"])))
    evaluate_checkpoint(str(folder), episodes=2)
    assert replay_run(str(folder), report=lambda text: None).difference is None
    assert len(Recorded.received) > 9 and set(Recorded.received) == {text}


YAML = '{value: {1: [.inf, !!python/tuple [1, .nan]], b: !!binary "/w==", null: !!set {3}}}'


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_observation_keys_may_be_whole_numbers(tmp_path, vectorization):
    """Observation keys may be integers."""
    train(validate(tree_of(tmp_path, "WholeKeys", f"env.vectorization={vectorization}", "eval.episodes=2")))
    assert lines(tmp_path)[-1]["status"] == "done"


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("quits", [False, True])
def test_an_environment_whose_close_raises_trains(tmp_path, vectorization, quits):
    """A run ignores the error of an environment's `close`."""
    overrides = [f"env.vectorization={vectorization}", "eval.episodes=2", f"env.kwargs={{quits: {quits}}}"]
    train(validate(tree_of(tmp_path, "CloseFails", *overrides)))
    assert lines(tmp_path)[-1]["status"] == "done"
    assert 3.0 in [line.get("Test/cumulative_reward") for line in lines(tmp_path)]
    assert evaluate_checkpoint(str(tmp_path), episodes=2).returns == [3.0, 3.0]


def test_observation_keys_with_the_same_text(tmp_path):
    """Observation keys with the same text are refused."""
    (mistake,) = mistakes_of(tmp_path / "run", "EqualKeys")
    assert "two observation keys have the same text (0, '0'); rename them in a wrapper" in mistake


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_instances_may_have_other_bounds(vectorization):
    """Instances may differ in their bounds."""
    kwargs = {"vary": "bounds"}
    config = EnvConfig(id="tests.helpers.odd_envs:Varying-v0", kwargs=kwargs, num_envs=3, vectorization=vectorization)
    with closing(make_vector_env(config)) as envs:
        obs, _ = envs.reset(seed=0)
        assert {name: (part.shape, part.dtype) for name, part in obs.items()} == {
            "image": ((3, 4), np.uint8),
            "speed": ((3,), np.float64),
        }


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("vary", "detail"), [("shape", "Box(-inf, inf, (3,), float32)"), ("actions", "Discrete(3) and Discrete(2)")]
)
def test_instances_with_other_spaces_are_named(vectorization, vary, detail):
    """The error names instances with different spaces."""
    kwargs = {"vary": vary}
    config = EnvConfig(id="tests.helpers.odd_envs:Varying-v0", kwargs=kwargs, num_envs=2, vectorization=vectorization)
    with pytest.raises(EnvSettingsError) as caught:
        make_vector_env(config)
    text = str(caught.value)
    assert text.startswith(
        "env.id=tests.helpers.odd_envs:Varying-v0: its instances have different observation or action"
    )
    assert "which a wrapper in env.wrappers can give them" in text and "observation_mode" not in text
    assert vectorization == "async" or detail in text


@pytest.mark.parametrize("vary", ["shape", "actions"])
def test_an_instance_with_other_spaces_than_the_first_is_named(tmp_path, vary):
    """The error names an instance whose spaces differ from those of the first."""
    tree = tree_of(tmp_path, "Varying", "env.num_envs=1", kwargs={"vary": vary})
    with pytest.raises(RunFailedError, match=r"^player 0 failed: .* its instances have different observation or act"):
        train(validate(tree))


def test_a_wrong_result_ends_the_run_at_once(tmp_path, capsys):
    """A wrong result ends the run without a retry."""
    tree = tree_of(tmp_path, "Results", "log.level=warning", kwargs={"method": "step", "count": 4})
    with pytest.raises(RunFailedError, match=r"^player 0 failed: .* raised in step 1: .* it must return \(observation"):
        train(validate(tree))
    assert "is replaced" not in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["env.id=quitting_envs:Quits-v0", "env.wrappers=[quitting_envs:Quits]"])
def test_a_module_that_quits(tmp_path, monkeypatch, setting):
    """A module that exits during its import is a mistake."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "quitting_envs.py").write_text("raise SystemExit(3)")
    with pytest.raises(ConfigError, match=r"quitting_envs.*SystemExit: 3"):
        check(load_config("ppo", [setting]).model_dump())


def test_one_instance_suffices_for_an_evaluation(tmp_path, capsys):
    """Without free instances, an evaluation uses one."""
    tree = tree_of(tmp_path, "OneInstance", "env.num_envs=1", "eval.episodes=3", "log.level=info")
    train(validate(tree))
    output = capsys.readouterr()
    assert "1 player with 1 environment (and 3 for evaluation), " in output.out
    assert "the port is in use; evaluation needs an environment besides those of training" in output.out + output.err
    assert evaluate_checkpoint(str(tmp_path), episodes=3).returns == [3.0] * 3


def test_the_size_of_a_large_state_is_reported(tmp_path, capsys):
    """The run reports the size of a large environment state once."""
    train(validate(tree_of(tmp_path, "Large", "checkpoint.envs=true", "log.level=info", "run.total_steps=16")))
    output = capsys.readouterr().out
    assert output.count("the state of the environments takes 24.0 MiB in every checkpoint; checkpoint.envs=false") == 1


@pytest.mark.parametrize(
    ("wrapper", "name"),
    [
        ("gymnasium.wrappers:NormalizeObservation", "gymnasium.wrappers.stateful_observation:NormalizeObservation"),
        ("gymnasium.wrappers:NormalizeReward", "gymnasium.wrappers.stateful_reward:NormalizeReward"),
        ("tests.helpers.odd_envs:OwnStatistics", "tests.helpers.odd_envs:OwnStatistics"),
        ("tests.helpers.odd_envs:Constants", ""),
        ("gymnasium.wrappers:RecordEpisodeStatistics", ""),
    ],
)
def test_wrappers_with_running_statistics_are_named(wrapper, name):
    """A warning names wrappers with running statistics."""
    overrides = ["env.id=tests.helpers.odd_envs:Simple-v0", f"env.wrappers=[{wrapper}]"]
    warnings = check(load_config("ppo", overrides).model_dump()).warnings
    assert [text.partition(" normalizes")[0] for text in warnings] == ([f"env.wrappers: {name}"] if name else [])


def test_an_evaluation_warns_of_running_statistics(tmp_path, capsys):
    """A run with evaluations warns of running statistics."""
    wrappers = "env.wrappers=[gymnasium.wrappers:NormalizeObservation]"
    train(validate(tree_of(tmp_path, "Simple", wrappers, "run.total_steps=16", "log.level=warning")))
    warning = "warning: env.wrappers: gymnasium.wrappers.stateful_observation:NormalizeObservation normalizes by"
    assert warning in capsys.readouterr().out
    evaluate_checkpoint(str(tmp_path), episodes=1)
    assert warning in capsys.readouterr().err


def test_signals_to_the_process_group_leave_the_environments():
    """The worker processes of the environments continue after such a signal until the run has saved a checkpoint."""
    envs = make_vector_env(EnvConfig(id="CartPole-v1", num_envs=2, vectorization="async"))
    try:
        envs.reset(seed=0)
        assert [os.getpgid(process.pid) for process in envs.processes] == [process.pid for process in envs.processes]
    finally:
        envs.close()
