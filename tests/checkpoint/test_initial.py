"""Test that a run begins with the networks that `algo.init_from` names."""

import pytest
import torch

from sheeprl.checkpoint.initial import read_initial
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.cli.entry import main
from sheeprl.config.checks import check
from sheeprl.debug.replayer import replay_run
from sheeprl.utils.errors import ConfigError
from tests.helpers.algorithms import Small
from tests.helpers.runs import largest_difference, run, saved

SHORT = ("run.mode=coupled", "trainer.compile=false", "run.total_steps=64", "algo.rollout_steps=16")


def initial_of(small, folder, *overrides):
    """Return the networks that a configuration with settings begins with."""
    resolved = check(small.config(folder, "run.mode=coupled", *overrides).model_dump())
    return read_initial(resolved.config, resolved.spaces)


def test_without_a_step_the_agent_is_that_of_the_other_run(tmp_path, monkeypatch):
    """A run with steps of size zero ends with the agent of the run that its own began with, whatever its seed."""
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "logs" / "one", "ppo", *SHORT)
    run(tmp_path / "two", "ppo", *SHORT, "algo.init_from=@last", "algo.learning_rate=1e-30", "run.seed=3")
    assert largest_difference(saved(tmp_path / "logs" / "one")["agent"], saved(tmp_path / "two")["agent"]) == 0.0
    config = (tmp_path / "two" / "config.yaml").read_text()
    assert f"init_from: {checkpoints(tmp_path / 'logs' / 'one')[-1]}" in config


def test_the_optimizers_are_new(tmp_path):
    """Only networks are loaded: the gradient steps of the other run don't count."""
    first = run(tmp_path / "one", "ppo", *SHORT)
    second = run(tmp_path / "two", "ppo", *SHORT, f"algo.init_from={checkpoints(tmp_path / 'one')[-1]}")
    assert second.gradient_steps == first.gradient_steps == saved(tmp_path / "two")["gradient_steps"]


def test_other_shapes_are_named_in_one_line(tmp_path, capsys):
    """Tensors of other shapes remain random, and the run says so in one line."""
    run(tmp_path / "one", "ppo", *SHORT)
    run(
        *(tmp_path / "two", "ppo", *SHORT, f"algo.init_from={tmp_path}/one", "log.level=info"),
        env="Acrobot-v1",
    )
    said = [line for line in capsys.readouterr().err.splitlines() if "networks of" in line]
    assert len(said) == 1 and "tensors are loaded; of another shape: policy." in said[0]


def test_settings_that_shape_networks_differently_are_named(tmp_path):
    """The line about other shapes says which settings would make them fit."""
    run(tmp_path / "one", "ppo", *SHORT, "algo.hidden_sizes=[8,8]")
    small = Small("ppo")
    found = initial_of(small, tmp_path / "two", "algo.hidden_sizes=[9,8]", f"algo.init_from={tmp_path}/one")
    assert found.summary.endswith("; settings that differ: algo.hidden_sizes=[9, 8] (the checkpoint: [8, 8])")


def test_a_run_in_storage(tmp_path):
    """A URL leads to the newest checkpoint at `checkpoint.storage`."""
    run(tmp_path / "one", "ppo", *SHORT, f"checkpoint.storage=file://{tmp_path}/store")
    small = Small("ppo")
    found = initial_of(
        small, tmp_path / "two", "algo.hidden_sizes=[64,64]", f"algo.init_from=file://{tmp_path}/store/one"
    )
    before = saved(tmp_path / "one")["agent"]
    assert found.tensors.keys() == before.keys() and largest_difference(found.tensors, before) == 0.0


@pytest.mark.parametrize("origin", ["{}/one", "{}/none", "@last", "file://{}/empty"])
def test_nothing_to_load_is_a_mistake(tmp_path, monkeypatch, capsys, origin):
    """Other networks, a missing run and an empty storage end with exit code 2 before a folder is made."""
    monkeypatch.chdir(tmp_path)
    if origin.endswith("one"):
        Small("sac").run(tmp_path / "one", "run.mode=coupled", "run.total_steps=60")
    origin = origin.format(tmp_path)
    words = ["ppo", "--env", "CartPole-v1", "run.dir=two", "algo.hidden_sizes=[7]", f"algo.init_from={origin}"]
    for more in ([], ["--dry-run"]):
        with pytest.raises(SystemExit, match="2"):
            main([*words, *more])
        assert f"algo.init_from={origin}: " in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def test_a_damaged_checkpoint_is_a_mistake(tmp_path):
    """A damaged file is refused."""
    run(tmp_path / "one", "ppo", *SHORT)
    (checkpoints(tmp_path / "one")[-1] / "agent.pt").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=f"algo.init_from={tmp_path}/one: .*agent.pt"):
        initial_of(Small("ppo"), tmp_path / "two", f"algo.init_from={tmp_path}/one")


def test_a_recorded_run_is_reexecuted(tmp_path):
    """The record of a run that began with other networks is re-executed with equal bits."""
    run(tmp_path / "one", "ppo", *SHORT)
    run(tmp_path / "two", "ppo", *SHORT, f"algo.init_from={tmp_path}/one", "log.record=true")
    assert replay_run(str(tmp_path / "two"), None, None, print).difference is None


def test_a_world_model_survives_other_actions(tmp_path):
    """The encoder and the decoder of a Dreamer fit an environment with the same observations and other actions."""
    small = Small("dreamer_v3")
    small.run(tmp_path / "one", "run.mode=coupled", "run.total_steps=60")
    found = initial_of(small, tmp_path / "two", f"algo.init_from={tmp_path}/one")
    before = saved(tmp_path / "one")["agent"]
    assert largest_difference(found.tensors, before) == 0.0
    torch.manual_seed(0)
    state = torch.get_rng_state()
    other = initial_of(
        small, tmp_path / "two", "env.id=tests.helpers.probe_envs:Follow-v0", f"algo.init_from={tmp_path}/one"
    )
    assert torch.equal(state, torch.get_rng_state())
    assert "of another shape" in other.summary and "critic.0.weight" in other.tensors
