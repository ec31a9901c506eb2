"""Test that a run begins with the stored rows that `buffer.init_from` names."""

import shutil
from dataclasses import replace

import pytest
import torch
from gymnasium import spaces

from sheeprl.checkpoint.initial_rows import find_rows
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.cli.entry import main
from sheeprl.config.checks import check
from sheeprl.debug.replayer import replay_run
from sheeprl.utils.errors import ConfigError
from tests.helpers.algorithms import Small
from tests.helpers.runs import run, saved
from tests.integration.test_exact_resume import check_that_nothing_differs, settings

SAC, COUPLED = Small("sac"), "run.mode=coupled"
AT_ONCE = ("algo.learning_starts=0", "algo.pretrain_steps=5")


def test_training_begins_with_the_other_rows(tmp_path):
    """The first gradient steps come with the first round, which holds less than a batch."""
    SAC.run(tmp_path / "one", COUPLED, "run.total_steps=100")
    origin = checkpoints(tmp_path / "one")[-1]
    settings = (COUPLED, "run.total_steps=10", f"buffer.init_from={tmp_path}/one", *AT_ONCE)
    result = SAC.run(tmp_path / "two", *settings)
    assert result.policy_steps < SAC.config(tmp_path / "two").algo.batch_size
    assert result.gradient_steps == 5 + result.policy_steps == saved(tmp_path / "two")["gradient_steps"]
    assert f"init_from: {origin}\n" in (tmp_path / "two" / "config.yaml").read_text()


@pytest.mark.slow
def test_an_interrupted_run_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    """A resumed run has the rows of both runs."""
    SAC.run(tmp_path / "one", COUPLED, "run.total_steps=100", "env.max_episode_steps=37")
    own = [*settings("sac"), COUPLED, f"buffer.init_from={tmp_path}/one"]
    check_that_nothing_differs(tmp_path, monkeypatch, "sac", own)


def test_a_run_that_saves_no_rows_begins_with_them_again(tmp_path):
    """A resumed run without a saved replay has the rows that it began with."""
    SAC.run(tmp_path / "one", COUPLED, "run.total_steps=100")
    own = (COUPLED, f"buffer.init_from={tmp_path}/one", "buffer.checkpoint=false", *AT_ONCE)
    first = SAC.run(tmp_path / "two", *own, "run.total_steps=10")
    shutil.rmtree(tmp_path / "one")
    again = SAC.run(tmp_path / "two", *own, f"run.total_steps={first.policy_steps + 5}", "run.resume=true")
    assert again.policy_steps - first.policy_steps < 32  # rows of a batch, so that steps would wait without old rows
    assert again.gradient_steps == 5 + again.policy_steps


def test_a_recorded_run_is_reexecuted(tmp_path):
    """The record is re-executed with equal bits, without the other run."""
    run(tmp_path / "one", "sac", COUPLED, "run.total_steps=100")
    own = (COUPLED, "run.total_steps=60", f"buffer.init_from={tmp_path}/one", "algo.learning_starts=0")
    run(tmp_path / "two", "sac", *own, "log.record=true")
    shutil.rmtree(tmp_path / "one")
    assert replay_run(str(tmp_path / "two"), None, None, print).difference is None


def test_the_rows_of_an_exploration_fit_its_dreamer(tmp_path):
    """A Dreamer takes the rows of its Plan2Explore; finding them doesn't change torch's generator."""
    Small("p2e_dv3").run(tmp_path / "one", COUPLED, "run.total_steps=60")
    words = (COUPLED, f"buffer.init_from={tmp_path}/one")
    resolved = check(Small("dreamer_v3").config(tmp_path / "two", *words).model_dump())
    state = torch.get_rng_state()
    found = find_rows(resolved.config, resolved.spaces)
    assert found.folder == str(checkpoints(tmp_path / "one")[-1] / "buffer")
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["sac", "--env", "MountainCarContinuous-v0"], "its rows differ from those of this run: obs is float32 [3], "),
        (["dreamer_v3", "--env", "Pendulum-v1"], "deter is none, not float32 [512], stoch is none, not uint8 [32]"),
        (["sac", "--env", "Pendulum-v1", "buffer.init_from=none"], "buffer.init_from=none: no such folder or run"),
    ],
)
def test_other_rows_are_a_mistake(tmp_path, monkeypatch, capsys, words, reason):
    """Other rows and a missing run end with exit code 2 before a folder is made."""
    monkeypatch.chdir(tmp_path)
    SAC.run(tmp_path / "one", COUPLED, "run.total_steps=60")
    for more in ([], ["--dry-run"]):
        with pytest.raises(SystemExit, match="2"):
            main([words[0], "buffer.init_from=one", *words[1:], "run.dir=two", COUPLED, *more])
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert reason in line
        assert not (tmp_path / "two").exists()


def test_other_actions_of_the_same_form_are_a_mistake(tmp_path, capsys):
    """Rows of another number of actions have the same dtype, but not the same meaning."""
    dqn = Small("dqn")
    dqn.run(tmp_path / "one", COUPLED, "run.total_steps=60", "env.id=tests.helpers.probe_envs:Follow-v0")
    words = [COUPLED, f"buffer.init_from={tmp_path}/one", "env.id=tests.helpers.probe_envs:Follow-v0"]
    wrapped = check(dqn.config(tmp_path / "two", *words).model_dump())
    more = replace(wrapped.spaces, env_action=spaces.Discrete(wrapped.spaces.env_action.n + 1))
    with pytest.raises(ConfigError, match=r"the action space is .*, not "):
        find_rows(wrapped.config, more)
    assert find_rows(wrapped.config, wrapped.spaces).other_env == ""


def test_rows_of_another_environment_are_a_warning(tmp_path, capsys):
    """The line names the environment."""
    SAC.run(tmp_path / "one", COUPLED, "run.total_steps=60", "env.kwargs={g: 9.0}", "env.id=Pendulum-v1")
    words = ["--env", "Pendulum-v1", f"buffer.init_from={tmp_path}/one", f"run.dir={tmp_path}/two", "--dry-run"]
    with pytest.raises(SystemExit, match="0"):
        main(["sac", *words])
    assert "its rows are of another environment: env.id=Pendulum-v1, env.kwargs={g: 9.0}" in capsys.readouterr().out


def test_a_resumed_run_keeps_its_origin(tmp_path, capsys):
    """The setting can't change, and the configuration names the rows that the run began with."""
    SAC.run(tmp_path / "one", COUPLED, "run.total_steps=60", "env.id=Pendulum-v1")
    origin = checkpoints(tmp_path / "one")[-1]
    own = (COUPLED, "run.total_steps=40", f"buffer.init_from={tmp_path}/one", "env.id=Pendulum-v1", *AT_ONCE)
    SAC.run(tmp_path / "two", *own)
    with pytest.raises(SystemExit, match="2"):
        main(["resume", str(tmp_path / "two"), "buffer.init_from=three"])
    assert "buffer.init_from" in capsys.readouterr().err
    SAC.run(tmp_path / "two", *own, "run.total_steps=80", "run.resume=true")
    assert f"init_from: {origin}\n" in (tmp_path / "two" / "config.yaml").read_text()


def test_a_run_without_rows_is_a_mistake(tmp_path, capsys):
    """An on-policy run has no rows, and an on-policy run doesn't begin with any."""
    run(tmp_path / "one", "ppo", COUPLED, "run.total_steps=60", "algo.rollout_steps=16")
    words = ["--env", "CartPole-v1", f"buffer.init_from={tmp_path}/one", f"run.dir={tmp_path}/two", "--dry-run"]
    with pytest.raises(SystemExit, match="2"):
        main(["dqn", *words])
    assert "step_" in (said := capsys.readouterr().err) and "has no rows; an off-policy run" in said
    with pytest.raises(SystemExit, match="0"):
        main(["ppo", *words])
    assert "warning: buffer.init_from" in capsys.readouterr().out
