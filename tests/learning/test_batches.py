"""Test sequence minibatches of a rollout and the buffers that a rollout changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sheeprl.actors import learner as learner_module
from sheeprl.algos.args import OnPolicy
from sheeprl.algos.base import Algorithm, PolicyInput
from sheeprl.config import defaults
from sheeprl.learning.batches import Minibatches, Share
from sheeprl.learning.compile import tracing
from tests.actors.test_learner import (
    assert_same,
    fabric,
    make_learner,
    make_ppo,
    parameters_of,
    rollout,
    spy_on_batches,
)
from tests.actors.test_learner import spaces as gym_spaces
from tests.helpers.graphs import run_graph

__all__ = ["fabric"]

NAME = "tests.helpers.toy_recurrent:ToyRecurrent"


class Ranks:
    """Ranks of a group; `sum` pretends that all have the same values."""

    def __init__(self, world):
        """Store the number of ranks."""
        self.world = world

    def sum(self, value):
        """Return the sum."""
        return self.world * value


class Numbered(Algorithm):
    """Algorithm whose prepared rows are those of the rollout."""

    build_agent = optimizers = act = phases = None

    def __init__(self):
        """Take no arguments."""

    def prepare_rollout(self, agent, rollout):
        """Return all rows but the last."""
        return rollout[:-1].clone()


Numbered.__abstractmethods__ = frozenset()


def minibatches(data, block, steps, rank=0, world=1, has_shard=False):
    """Return the batches of a rank, and the reader."""
    permutation = torch.Generator().manual_seed(0)
    share = Share(rank, Ranks(world), has_shard, torch.device("cpu"))
    reader = Minibatches(
        Numbered(), data, None, share, lambda n: torch.randperm(n, generator=permutation), torch.no_grad
    )
    return [reader.assemble(tensors) for tensors in reader.read(steps, None, [block])], reader


def numbered(steps, envs, ends=()):
    """Return a rollout in which each row has its time and environment."""
    shape = (steps + 1, envs)
    mask = np.ones(shape, np.bool_)
    for end in ends:
        mask[end] = False
    time, env = np.meshgrid(np.arange(steps + 1), np.arange(envs), indexing="ij")
    value = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return {"time": time, "env": env, "mask": mask, "value": value}


def test_sequences_hold_every_action_of_an_epoch_once():
    """The sequences of an epoch are successive rows of one environment, and hold every action once."""
    ends = [(0, 0), (1, 0), (2, 0), (3, 0), (5, 1)]  # the first piece of environment 0 has no action
    block = numbered(steps=6, envs=3, ends=ends)
    data = OnPolicy(6, batch_size=8, epochs=2, sequence=4)
    assert data.minibatches(rows=18) == 3 and data.due_gradient_steps(0, 0, rows=18) == 6
    batches, _ = minibatches(data, block, steps=6)
    for epoch in (batches[:3], batches[3:]):
        seen = []
        for batch in epoch:
            assert batch.batch_size == (4, 2)
            mask = batch["mask"]
            assert torch.equal(batch["sample_weight"] > 0, mask)
            assert batch["sample_weight"].sum().item() == pytest.approx(1)
            assert (batch["env"] == batch["env"][0]).all() and (batch["time"][0] % 4 == 0).all()
            expected = (batch["time"][0] + torch.arange(4)[:, None]).clamp(max=5)
            assert torch.equal(batch["time"], expected)
            seen += zip(batch["time"][mask].tolist(), batch["env"][mask].tolist(), strict=True)
        assert sorted(seen) == sorted((t, env) for t in range(6) for env in range(3) if (t, env) not in ends)
    orders = [[batch["env"].tolist() for batch in epoch] for epoch in (batches[:3], batches[3:])]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("has_shard", [False, True])
def test_sequences_of_one_row_equal_rows(has_shard):
    """With sequences of one row, minibatches have the values of those without sequences, bit for bit."""
    block = numbered(steps=5, envs=4, ends=[(1, 0), (4, 2)])
    for rank in range(2):
        rows, ones = (
            minibatches(OnPolicy(5, 6, 2, ("value",), sequence), block, 8, rank, 2, has_shard)[0]
            for sequence in (None, 1)
        )
        for row, one in zip(rows, ones, strict=True):
            assert one.batch_size == (1, 3) and row.batch_size == (3,)
            for key in ("time", "env", "value", "sample_weight"):
                assert torch.equal(one[key][0], row[key]), key


def test_two_ranks_share_the_sequences_of_one():
    """Two ranks that read the same rollout get the minibatches of one rank, divided between them."""
    block = numbered(steps=6, envs=3, ends=[(5, 1)])
    data = OnPolicy(6, batch_size=8, epochs=1, sequence=2)
    alone = minibatches(data, block, 3)[0]
    first, second = (minibatches(data, block, 3, rank, 2)[0] for rank in range(2))
    for whole, *parts in zip(alone, first, second, strict=True):
        for key in ("time", "env", "mask"):
            assert torch.equal(torch.stack([part[key] for part in parts], -1).flatten(1), whole[key])


def test_standardized_values_of_sequences_count_their_actions_only():
    """Mean and deviation are those of the rows with an action."""
    block = numbered(steps=6, envs=3, ends=[(5, 1), (2, 2)])
    for batch in minibatches(OnPolicy(6, 12, 1, ("value",), sequence=4), block, 2)[0]:
        assert batch["value"][batch["mask"]].mean().item() == pytest.approx(0, abs=1e-6)
        assert batch["value"][batch["mask"]].std().item() == pytest.approx(1, abs=1e-5)


def test_sequences_of_one_row_train_as_rows_do(fabric):
    """A learner of single rows and one of sequences of one row take bit-identical steps."""
    learners = make_ppo(fabric, batch_size=4, epochs=2), make_ppo(fabric, batch_size=4, epochs=2)
    one = learners[1]
    one.batches.data = replace(one.batches.data, sequence=1)
    loss = one.algorithm.loss
    one.algorithm.loss = lambda agent, batch, noise, carry: loss(
        agent, batch.apply(lambda values: values.squeeze(0), batch_size=batch.batch_size[1:]), noise, carry
    )
    for learner in learners:
        learner.update(6, 0.0, None, rollout(ends=[(1, 0)]))
    assert_same(one.agent, learners[0].agent.state_dict())


# --------------------------------------------------------------------------------------- a recurrent algorithm


def make_recurrent(fabric, compile=False, **args):
    """Return a learner of the recurrent toy."""
    sizes = {"rollout_steps": 6, "batch_size": 8, "epochs": 2}
    return make_learner(fabric, NAME, gym_spaces.Discrete(3), compile=compile, **{**sizes, **args})


def played(learner, seed=0, envs=2, ends=((2, 0), (4, 1))):
    """Return a rollout `[7, envs]` that the learner's policy has acted in."""
    algorithm, policy = learner.algorithm, learner.agent.policy
    block = rollout(seed, steps=6, envs=envs, ends=ends)
    generator, state, outputs = torch.Generator().manual_seed(seed), {}, []
    with torch.no_grad():
        for t in range(6):
            row = [torch.from_numpy(block[name][t]) for name in ("obs", "reward", "is_first")]
            outputs.append(algorithm.act(policy, PolicyInput(*row), state, "explore", generator))
            state = outputs[-1].rnn_state
    for name in ("state", "logprob", "value"):
        values = np.stack([output.extras[name].numpy() for output in outputs])
        block[name] = np.concatenate([values, np.zeros_like(values[:1])])
    block["action"] = np.concatenate(
        [np.stack([output.action.numpy() for output in outputs]), np.zeros((1, envs), int)]
    )
    return block


def test_a_pass_over_sequences_reproduces_what_the_player_stored(fabric):
    """From the state stored with a sequence's first row, the loss computes the player's values, also after a reset."""
    learner = make_recurrent(fabric)
    seen = spy_on_batches(learner)
    learner.update(2, 0.0, None, played(learner))
    fresh = make_recurrent(fabric)  # has the parameters that played
    for batch in seen:
        with torch.no_grad():
            logits, value = fresh.agent.policy.unroll(batch, batch["state"][0])
        logprob = logits.log_softmax(-1).gather(-1, batch["action"].unsqueeze(-1)).squeeze(-1)
        mask = batch["mask"]
        torch.testing.assert_close(value[mask], batch["value"][mask])
        torch.testing.assert_close(logprob[mask], batch["logprob"][mask])
    assert any(batch["is_first"][1:][batch["mask"][1:]].any() for batch in seen)


@pytest.mark.parametrize("stops", [False, True])
def test_buffers_of_a_rollout_follow_the_last_gradient_step(fabric, stops):
    """Losses see the old buffers; the new ones are in place after the round, also after a stop or without steps."""
    learner = make_recurrent(fabric, max_kl=0.0 if stops else 1e9)
    counts, loss = [], learner.algorithm.loss
    learner.algorithm.loss = lambda agent, *args: counts.append(int(agent.policy.count)) or loss(agent, *args)
    block = played(learner)
    info, _ = learner.update(4, 0.0, None, block)
    assert len(counts) == (2 if stops else 4) and set(counts) == {0}  # the first step's divergence is 0
    assert info.gradient_steps == (1 if stops else 4)
    assert learner.agent.policy.count == 12
    expected = block["obs"][:-1].reshape(-1, 3).astype(np.float64).mean(0)
    assert learner.agent.policy.mean.numpy() == pytest.approx(expected)
    learner.update(0, 0.0, None, block)
    assert learner.agent.policy.count == 24
    weights = learner.weights()[1]
    assert weights["count"] == 24 and weights["mean"].dtype == np.float64


def test_buffers_are_averaged_over_the_ranks(fabric, monkeypatch):
    """Each rank prepares its own rollout; all ranks get the mean of the buffers, and counts stay exact."""

    class Other(Ranks):
        """Two ranks, of which the other one has counted 2 ** 40 rows, and has a mean of 0."""

        def __init__(self, fabric):
            """Make two ranks."""
            super().__init__(2)

        def sum(self, value):
            """Return the sum: the count and the mean are the only float64 values."""
            if value.dtype != torch.float64:
                return 2 * value
            return value + 2**40 if value.ndim == 0 else value

    monkeypatch.setattr(learner_module, "FabricRanks", Other)
    learner = make_recurrent(fabric)
    learner.world = 2
    learner.update(0, 0.0, None, played(learner))
    assert learner.agent.policy.count == (12 + 2**40) // 2
    assert learner.agent.policy.mean.abs().sum() > 0


def test_a_buffer_outside_of_the_state_is_refused(fabric, monkeypatch):
    """A buffer that the agent's state doesn't contain would not be in checkpoints."""
    learner = make_recurrent(fabric)
    prepare = learner.algorithm.prepare_rollout

    def renamed(agent, rollout):
        """Return a buffer of an unknown name."""
        return replace(prepare(agent, rollout), buffers={"policy.maen": torch.zeros(3)})

    monkeypatch.setattr(learner.algorithm, "prepare_rollout", renamed)
    with pytest.raises(ValueError, match=r"the buffer 'policy\.maen'; register it"):
        learner.update(1, 0.0, None, played(learner))


@pytest.mark.parametrize("compile", [False, True])
def test_a_restored_recurrent_learner_continues_bit_identically(fabric, monkeypatch, compile):
    """Buffers, parameters and minibatches continue as without the restart; compiled and eager steps agree."""
    if compile and not defaults.has_compiler():
        pytest.skip("there is no C++ compiler")
    monkeypatch.setattr(tracing, "open_graph", run_graph)
    learner, restored, eager = (make_recurrent(fabric, each, max_kl=1e-3) for each in (compile, compile, False))
    blocks = [played(learner, seed) for seed in range(4)]
    for block in blocks[:2]:
        learner.update(4, 0.0, None, block)
    restored.update(4, 0.0, None, blocks[3])
    restored.restore(learner.snapshot()[1])
    for block in blocks[2:]:
        first, second = (one.update(4, 0.0, None, block)[0] for one in (learner, restored))
        assert first.gradient_steps == second.gradient_steps and not first.notes
    assert_same(restored.agent, parameters_of(learner.agent))
    steps = [eager.update(4, 0.0, None, block)[0].gradient_steps for block in blocks]
    assert steps[-1] == learner.gradient_steps < 16
    for name, values in learner.agent.state_dict().items():
        torch.testing.assert_close(eager.agent.state_dict()[name], values, rtol=1e-4, atol=1e-6)


def test_the_warm_up_leaves_buffers_unchanged(fabric, monkeypatch):
    """The warm-up on dummy data restores the buffers, and compiles the variant of a real update."""
    if not defaults.has_compiler():
        pytest.skip("there is no C++ compiler")
    monkeypatch.setattr(tracing, "open_graph", run_graph)
    learner = make_recurrent(fabric, compile=True)
    before = parameters_of(learner.agent)
    learner.warm_up()
    assert_same(learner.agent, before)
    variants = set(learner.compiled._compiled)
    envs = learner.config.round_rows // 6
    info, _ = learner.update(4, 0.0, None, played(learner, envs=envs, ends=()))
    assert info.notes == () and set(learner.compiled._compiled) == variants
