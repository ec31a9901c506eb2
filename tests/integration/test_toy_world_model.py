"""Test that a recurrent world model fits the contract: `toy_world_model.py` trains without changes elsewhere."""

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from sheeprl.actors.learner import Learner
from sheeprl.actors.player import Player
from sheeprl.algos.base import PolicyInput
from sheeprl.algos.build import build_algorithm
from sheeprl.buffer.replay_buffer import ReplayBuffer
from sheeprl.buffer.tensordicts import flatten, unflatten
from sheeprl.checkpoint.resume import resume_tree
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.config.checks import check
from sheeprl.config.defaults import has_compiler
from sheeprl.launch import train_tree
from sheeprl.models import weights as weights_of
from tests.helpers.toy_envs import DECISIONS

RATIO, STARTS = 0.3, 100
TREE = {
    "algo": {
        "name": "tests.helpers.toy_world_model:ToyWorldModel",
        "learning_starts": STARTS,
        "replay_ratio": RATIO,
        "batch_size": 16,
    },
    "env": {"id": "tests.helpers.toy_envs:Recall-v0", "num_envs": 4},
    "eval": {"episodes": 0},
    "run": {"total_steps": 800, "mode": "coupled", "seed": 1},
    "buffer": {"size": 2000},
    "trainer": {"accelerator": "cpu", "threads": 1},
    "log": {"level": "warning"},
}


def with_groups(tree: dict, **groups: dict) -> dict:
    """Return the tree with other groups."""
    return {**tree, **{name: {**tree[name], **values} for name, values in groups.items()}}


def metrics_of(run_dir: Path, key: str) -> list[float]:
    """Return the values of a metric."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def saved_buffer(run_dir: Path) -> ReplayBuffer:
    """Return the saved buffer of a run."""
    buffer = ReplayBuffer(2000, check(TREE).config.algo.data().sampler)
    buffer.load(checkpoints(run_dir)[-1] / "buffer" / "shard_0")
    return buffer


def expected_gradient_steps(policy_steps: int) -> int:
    """Return the gradient steps due at a number of policy steps."""
    return math.floor(Fraction(str(RATIO)) * (policy_steps - STARTS))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the result of a run."""
    return train_tree(with_groups(TREE, run={"dir": str(tmp_path_factory.mktemp("toy") / "run")}))


@pytest.fixture(scope="module")
def resolved():
    """Return the checked configuration."""
    return check(TREE)


@pytest.fixture
def player(resolved):
    """Return a player."""
    return Player(resolved.config, resolved.spaces, number=0)


@pytest.fixture
def learner(resolved):
    """Return a learner."""
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    return Learner(resolved.config, resolved.spaces, fabric)


# ---------------------------------------------------------------------------------------- whole runs


def test_losses_fall(run):
    """The losses fall."""
    for name in ("reconstruction_loss", "reward_loss", "end_loss"):
        losses = metrics_of(run.run_dir, f"Loss/{name}")
        assert np.mean(losses[-5:]) < 0.4 * np.mean(losses[:5]), name  # seeds differ: 0.001 to 0.27


def test_ratio_is_exact(run):
    """The replay ratio is exact."""
    assert run.policy_steps >= 800
    assert run.gradient_steps == expected_gradient_steps(run.policy_steps)


def test_latents_are_written_back_into_the_buffer(run):
    """The buffer holds the latents of the newest weights."""
    storage = saved_buffer(run.run_dir).storage
    visits = storage.rows["visits"][: storage.size]
    is_first, latent = storage.rows["is_first"][: storage.size], storage.rows["latent"][: storage.size]
    visited = visits > 0
    assert visited.mean() > 0.5
    # Untrained weights gave the stored latents of early first rows; the values written since agree.
    early = np.flatnonzero(is_first[:200])
    cue = storage.rows["obs"][early, 0] > 0.5
    assert visited[early].all()
    for shown in (True, False):
        assert latent[early][cue == shown].std(0).max() < 0.5 * latent[early].std(0).max()


def test_resumed_run_learns_the_task_with_the_exact_ratio(run):
    """A resumed run learns the task with the exact ratio."""
    result = train_tree(resume_tree(str(run.run_dir), ["run.total_steps=1400", "eval.episodes=20"]))
    assert result.run_dir == run.run_dir
    assert result.policy_steps >= 1400
    assert result.gradient_steps == expected_gradient_steps(result.policy_steps)
    assert saved_buffer(result.run_dir).storage.total > result.policy_steps
    # Without its recurrent state the policy would get 0.5.
    assert metrics_of(result.run_dir, "Test/cumulative_reward")[-1] > 0.9


def test_the_arguments_class_names_the_algorithm(resolved):
    """The algorithm can be named by its arguments class."""
    tree = with_groups(TREE, algo={"name": "tests.helpers.toy_world_model:ToyWorldModelArgs"})
    config = check(tree).config
    assert type(build_algorithm(config.algo, resolved.spaces)) is type(
        build_algorithm(resolved.config.algo, resolved.spaces)
    )


# ----------------------------------------------------------------------------------- state and context


def test_recurrent_state_resets_where_an_episode_begins(player):
    """The recurrent state resets at the begin of an episode."""
    algorithm, policy, generator = player.algorithm, player.policy, torch.Generator()
    obs, zeros = torch.rand(2, 3), torch.zeros(2)
    with torch.inference_mode():
        begun = algorithm.act(policy, PolicyInput(obs, zeros, torch.tensor([True, True])), {}, "explore", generator)
        row = PolicyInput(obs, zeros, torch.tensor([True, False]))
        went_on = algorithm.act(policy, row, begun.rnn_state, "explore", generator)
    torch.testing.assert_close(went_on.rnn_state["latent"][0], begun.rnn_state["latent"][0])
    assert not torch.allclose(went_on.rnn_state["latent"][1], begun.rnn_state["latent"][1])


def test_recurrent_state_carries_the_previous_action(player):
    """The recurrent state depends on the previous action."""
    row = PolicyInput(torch.rand(1, 3), torch.zeros(1), torch.tensor([False]))
    before = {"latent": torch.zeros(1, 24)}
    with torch.inference_mode():
        latents = [
            player.algorithm.act(
                player.policy, row, {**before, "action": torch.tensor([action])}, "greedy", player.generator
            ).rnn_state["latent"]
            for action in range(2)
        ]
    assert not torch.allclose(*latents)


def test_sequences_repeat_what_the_player_computed(player, learner):
    """From the context's latent and action, the world model infers the latents that `act` stored."""
    _, weights = learner.weights()
    _, first = player.collect(10, weights, 0, "explore")
    _, second = player.collect(10, None, 0, "explore")
    rows = {name: np.concatenate([first.rows[name][:-1], values[:-1]]) for name, values in second.rows.items()}
    assert rows["is_first"].sum() > 4 * 20 / (DECISIONS + 1) - 4
    batch = unflatten(rows, batch_dims=1)
    with torch.no_grad():
        latents = learner.algorithm.observe(learner.agent.policy, batch)
    torch.testing.assert_close(latents, batch["latent"][1:])


def test_a_loss_writes_to_its_rows(player, learner):
    """A loss's values are written to their rows."""
    _, weights = learner.weights()
    buffer = ReplayBuffer(500, learner.algorithm.data().sampler, seed=3)
    for _ in range(4):
        fragment = player.collect(16, weights, 0, "explore")[1]
        buffer.add(unflatten(fragment.rows, batch_dims=2))
    buffer.storage.rows["latent"][:] = 7.0  # no inference gives this
    block = flatten(buffer.sample(16, n_batches=1))
    with torch.no_grad():
        expected = learner.algorithm.observe(learner.agent.policy, unflatten(block, 3)[0])
    info, writes = learner.update(1, 0.0, None, block)
    assert info.gradient_steps == 1
    (write,) = writes  # one gradient step
    index, values = write.index, write.values  # [L + 1, N]
    assert write.priority.shape == index.shape[1:]
    assert index.shape == block["index"][0].shape
    buffer.write_back(index, unflatten(values, batch_dims=2))
    for row in np.unique(index[1:]):  # a row in several sequences has the value of one of them
        candidates = expected.numpy()[index[1:] == row]
        assert np.isclose(candidates, buffer.storage.rows["latent"][row], atol=1e-6).all(-1).any()
    untouched = np.setdiff1d(np.arange(len(buffer)), index)
    assert len(untouched)
    assert (buffer.storage.rows["latent"][untouched] == 7.0).all()
    assert set(np.unique(buffer.storage.rows["visits"][np.unique(index[1:])])) == {1}


def test_written_values_take_the_stored_dtype(player, learner, monkeypatch):
    """Written values have the stored dtype."""

    def loss_in_half_precision(*inputs):
        """Return the loss with values in half precision."""
        loss = type(learner.algorithm).world_loss(learner.algorithm, *inputs)
        return replace(loss, write={"latent": loss.write["latent"].bfloat16()})

    monkeypatch.setattr(learner.algorithm, "world_loss", loss_in_half_precision)
    buffer = ReplayBuffer(500, learner.algorithm.data().sampler)
    buffer.add(unflatten(player.collect(32, learner.weights()[1], 0, "explore")[1].rows, batch_dims=2))
    _, writes = learner.update(1, 0.0, None, flatten(buffer.sample(16)))
    assert writes[0].values["latent"].dtype == np.float32


def test_behavior_phase_uses_the_updated_world_model(player, learner):
    """The behavior phase uses the updated world model and doesn't change it."""
    _, weights = learner.weights()
    buffer = ReplayBuffer(500, learner.algorithm.data().sampler)
    buffer.add(unflatten(player.collect(32, weights, 0, "explore")[1].rows, batch_dims=2))
    tensors = next(iter(learner.batches.read(1, None, [flatten(buffer.sample(16))])))
    batch = learner.batches.assemble(tensors)
    world, behavior = learner.algorithm.phases(None)
    loss = world.loss(learner.agent, batch, {}, {})
    noise = behavior.noise(torch.Size([16]), torch.Generator())
    imagined = behavior.loss(learner.agent, batch, noise, loss.carry)
    agent, optimizers = learner.agent, learner.algorithm.optimizers()
    of_world, of_behavior = (
        [p for module in optimizers[name].modules for p in agent.get_submodule(module).parameters()]
        for name in ("world", "behavior")
    )
    gradients = torch.autograd.grad(imagined.value, of_world, allow_unused=True, retain_graph=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients)
    assert any(g.any() for g in torch.autograd.grad(imagined.value, of_behavior))
    before = weights_of.to_arrays(learner.agent)
    learner.update(1, 0.0, None, flatten(buffer.sample(16)))
    changed = {name for name, values in weights_of.to_arrays(learner.agent).items() if (values != before[name]).any()}
    assert {name.partition(".")[0] for name in changed} == {
        "policy",
        "decoder",
        "prior",
        "head",
        "critic",
        "critic_target",
    }


@pytest.mark.every
@pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler")
def test_a_world_model_is_compiled(player, learner, tmp_path, monkeypatch):
    """A world model is compiled."""
    monkeypatch.setenv("SHEEPRL_CACHE", str(tmp_path))
    compiled = Learner(
        check(with_groups(TREE, trainer={"compile": True})).config, learner.algorithm.spaces, learner.fabric
    )
    buffer = ReplayBuffer(500, learner.algorithm.data().sampler)
    buffer.add(unflatten(player.collect(32, learner.weights()[1], 0, "explore")[1].rows, batch_dims=2))
    blocks = [flatten(buffer.sample(16, n_batches=3)) for _ in range(2)]
    for block in blocks:
        (expected, written), (found, also_written) = (each.update(3, 0.0, None, block) for each in (learner, compiled))
        assert all(note.startswith("compiled") for note in found.notes), found.notes
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-3, abs=1e-5)
        for one, other in zip(written, also_written, strict=True):
            assert other.index.tolist() == one.index.tolist()
            assert other.values["latent"] == pytest.approx(one.values["latent"], abs=1e-4)
    assert compiled.compiled is not None
    for name, values in learner.agent.state_dict().items():
        torch.testing.assert_close(compiled.agent.state_dict()[name], values, rtol=1e-2, atol=1e-4)
