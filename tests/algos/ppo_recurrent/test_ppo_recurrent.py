"""Recurrent PPO: its memory, stored states, sequences and options."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import tensor

from sheeprl.actors.evaluation import play_episodes
from sheeprl.algos.base import PolicyInput, Spaces, Step
from sheeprl.algos.ppo_recurrent.args import RecurrentPPOArgs
from sheeprl.algos.ppo_recurrent.ppo_recurrent import RecurrentPPO
from sheeprl.algos.ppo_recurrent.with_memory import unrolled
from sheeprl.config import defaults
from sheeprl.learning.compile import tracing
from tests.actors.test_learner import assert_same, fabric, make_learner, parameters_of, spy_on_batches
from tests.helpers.graphs import run_graph
from tests.helpers.toy_envs import Recall

__all__ = ["fabric"]

BOX = spaces.Box(-1.0, 1.0, (3,))
MIXED = spaces.Dict({"rgb": spaces.Box(0, 255, (8, 8, 3), np.uint8), "state": BOX})
MASKED = spaces.Dict({"action_mask": spaces.MultiBinary(4), "state": BOX})
NAMES = {"lstm": ("hidden", "cell"), "gru": ("hidden",)}
ACTIONS = [spaces.Discrete(4), spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(2), spaces.Box(-1.0, 1.0, (2,))]
STEPS, ENVS = 6, 3


def build(observation=BOX, action=ACTIONS[0], **args):
    """Build recurrent PPO with small networks."""
    args = RecurrentPPOArgs(name="ppo_recurrent", **{"hidden_sizes": (8,), "memory_size": 5, "cnn_features": 4, **args})
    return RecurrentPPO(args, Spaces(observation, action))


def observed(space, *batch):
    """Return random observations `[*batch, *]` of a space."""
    if isinstance(space, spaces.Dict):
        return {name: observed(part, *batch) for name, part in space.items()}
    if isinstance(space, spaces.MultiBinary):
        return tensor([1, 0, 1, 0], dtype=torch.int8).expand(*batch, 4)
    if space.dtype == np.uint8:
        return torch.randint(256, (*batch, *space.shape), dtype=torch.uint8)
    return torch.rand(*batch, *space.shape) - 0.5


def played(algorithm, agent, ends=((2, 0), (4, 1)), seed=0):
    """Return a rollout `[T + 1, B]` in which the policy has acted; `ends` are the (row, env) of end rows."""
    torch.manual_seed(seed)
    generator, state, rows = torch.Generator().manual_seed(seed), {}, []
    truncated = torch.zeros(STEPS + 1, ENVS, dtype=torch.bool)
    for end in ends:
        truncated[end] = True
    is_first = truncated.roll(1, 0)
    # The state before the rollout isn't the initial one, except where an episode begins.
    state = {name: torch.rand(ENVS, 5) for name in NAMES[algorithm.args.memory]}
    for t in range(STEPS + 1):
        obs, reward = observed(algorithm.spaces.observation, ENVS), torch.rand(ENVS)
        with torch.no_grad():
            output = algorithm.act(agent.policy, PolicyInput(obs, reward, is_first[t]), state, "explore", generator)
        flags = {"is_first": is_first[t], "truncated": truncated[t], "terminated": torch.zeros(ENVS, dtype=torch.bool)}
        row = {"obs": obs, "action": output.action, "reward": reward, **flags, **output.extras}
        rows.append(TensorDict(row, [ENVS]))
        state = output.rnn_state
    return torch.stack(rows)


def prepared_by(algorithm, agent, rollout):
    """Return the prepared rows of a rollout."""
    with torch.no_grad():
        prepared = algorithm.prepare_rollout(agent, rollout)
    return getattr(prepared, "rows", prepared)


def weighted(rows):
    """Return rows with the weights of a minibatch."""
    return rows.update({"sample_weight": rows["mask"] / rows["mask"].sum()})


def carried(algorithm, progress=0.0):
    """Return the scheduled numbers as tensors."""
    (phase,) = algorithm.phases(Step(gradient_step=0, progress=progress))
    return {name: tensor(value) for name, value in phase.scalars.items()}


@pytest.mark.parametrize("memory", NAMES)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_sequences_reproduce_what_the_player_computed(memory, length):
    """From the stored state of a sequence's first row, the losses compute the player's outputs and states."""
    algorithm = build(memory=memory)
    agent = algorithm.build_agent()
    rollout = played(algorithm, agent)
    rows = prepared_by(algorithm, agent, rollout)
    assert rows["is_first"].any()
    whole = algorithm.rollout_features(agent, rollout)
    for start in range(0, STEPS, length):
        piece = rows[start : start + length]
        features, flat = algorithm.batch_features(agent, piece)
        assert flat.batch_size == (length * ENVS,)
        torch.testing.assert_close(features, whole[start : start + length].flatten(0, 1))
        logprob = agent.policy.logprob(agent.policy.head(features, flat["obs"]), flat["action"])
        torch.testing.assert_close(logprob, flat["logprob"])
        values = agent.critic(features)
        torch.testing.assert_close(values, flat["value"])
    outputs = torch.where(rollout["is_first"][1:].unsqueeze(-1), rollout["hidden"][1:], whole[:-1])
    torch.testing.assert_close(outputs, rollout["hidden"][1:])


@pytest.mark.parametrize("memory", NAMES)
def test_an_episode_begins_with_an_empty_memory(memory):
    """The state before a first row doesn't matter; before all others it does."""
    algorithm = build(memory=memory)
    agent = algorithm.build_agent()
    obs, is_first = observed(BOX, 2), tensor([True, False])
    acted = [
        algorithm.act(
            agent.policy,
            PolicyInput(obs, torch.zeros(2), is_first),
            {name: torch.full((2, 5), value) for name in NAMES[memory]},
            "greedy",
            torch.Generator(),
        ).rnn_state["hidden"]
        for value in (0.1, 0.9)
    ]
    assert torch.equal(acted[0][0], acted[1][0]) and not torch.allclose(acted[0][1], acted[1][1])


def test_values_follow_from_the_whole_rollout():
    """The value of the bootstrap row depends on earlier rows, and not on those of an earlier episode."""
    algorithm = build()
    agent = algorithm.build_agent()
    rollout = played(algorithm, agent)
    changed = rollout.clone()
    changed["obs"][1] += 1.0
    with torch.no_grad():
        before, after = (agent.critic(algorithm.rollout_features(agent, one)) for one in (rollout, changed))
    assert torch.equal(before[0], after[0])
    differs = (before[-1] != after[-1]).tolist()
    assert differs == [False, False, True]  # episodes of the first two environments have ended


def test_the_gradient_flows_back_through_a_sequence():
    """The last row's loss trains the memory on the first row's observation, and not beyond the start of an episode."""
    algorithm = build()
    agent = algorithm.build_agent()
    rows = prepared_by(algorithm, agent, played(algorithm, agent))
    obs = rows["obs"].requires_grad_()
    unrolled(agent.policy, rows)[-1].sum().backward()
    assert obs.grad[0].abs().sum(-1).gt(0).tolist() == [False, False, True]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("observation", [BOX, MIXED, MASKED], ids=["vector", "pictures", "masked"])
def test_all_actions_and_observations(observation, action):
    """Every kind of actions trains on vectors, on pictures and with masks; the first divergence is 0."""
    if observation is MASKED and isinstance(action, spaces.Box):
        return
    algorithm = build(observation, action, normalize_obs=True, normalize_reward=True, target_kl=0.1)
    agent = algorithm.build_agent()
    rollout = played(algorithm, agent)
    if observation is MASKED and isinstance(action, spaces.Discrete):
        assert set(rollout["action"].flatten().tolist()) <= {0, 2}
    rows = prepared_by(algorithm, agent, rollout)
    loss = algorithm.loss(agent, weighted(rows), {}, carried(algorithm))
    assert loss.metrics["Loss/approx_kl"].item() == pytest.approx(0, abs=1e-6)
    assert loss.stop < 0
    loss.value.backward()
    assert all(parameter.grad is not None for parameter in agent.parameters())
    assert agent.policy.memory.hidden.weight.grad.abs().sum() > 0


def test_the_loss_leaves_out_masked_rows():
    """Values of rows without an action change no loss and no gradient."""
    algorithm = build()
    agent = algorithm.build_agent()
    rows = weighted(prepared_by(algorithm, agent, played(algorithm, agent)))
    changed = rows.clone()
    assert not rows["mask"].all()
    for name in ("advantage", "returns"):
        changed[name][~rows["mask"]] = 99.0
    one, other = (algorithm.loss(agent, each, {}, carried(algorithm)).value for each in (rows, changed))
    assert torch.equal(one, other)


def test_two_ranks_equal_one():
    """The mean of the gradients of two halves of the sequences is the gradient of all."""
    algorithm = build()
    agent = algorithm.build_agent()
    rows = prepared_by(algorithm, agent, played(algorithm, agent, ends=()))
    rows = torch.cat([rows[:3], rows[3:]], 1)  # sequences [3, 6]
    found = []
    for part in (rows, rows[:, 0::2], rows[:, 1::2]):
        agent.zero_grad()
        algorithm.loss(agent, weighted(part.clone()), {}, carried(algorithm)).value.backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in agent.parameters()]))
    torch.testing.assert_close((found[1] + found[2]) / 2, found[0])


def test_rate_and_clip_fall_as_those_of_ppo():
    """`anneal` schedules the learning rate and the clip."""
    algorithm = build(anneal=True, clip=0.2)
    (phase,) = algorithm.phases(Step(gradient_step=0, progress=0.75))
    assert phase.lr_scale == pytest.approx(0.25) and phase.scalars["clip"] == pytest.approx(0.05)


def test_evaluation_carries_the_memory_through_each_episode():
    """Episodes don't depend on those before them, nor on the number of environments."""
    env = Recall(decisions=4)
    algorithm = build(env.observation_space, env.action_space)
    agent = algorithm.build_agent()
    with torch.no_grad():
        agent.policy.memory.hidden.weight *= 4
    seeds = [3, 1, 4, 1, 5]
    results = [
        play_episodes(algorithm, agent.policy, [Recall(decisions=4) for _ in range(n)], seeds) for n in (1, 2, 5)
    ]
    assert results[0].returns == results[1].returns == results[2].returns
    assert results[0].returns[1] == results[0].returns[3]


# ------------------------------------------------------------------------------------------------------ learner


def make_recurrent(fabric, compile=False, **args):
    """Return a learner of recurrent PPO."""
    sizes = {"rollout_steps": STEPS, "batch_size": 6, "epochs": 2, "sequence": 3, "memory_size": 5, "hidden_sizes": [8]}
    return make_learner(fabric, "ppo_recurrent", spaces.Discrete(4), compile=compile, **{**sizes, **args})


def block_of(learner, seed=0):
    """Return a rollout of a learner's policy as arrays."""
    rollout = played(learner.algorithm, learner.agent, seed=seed)
    return {name: values.numpy() for name, values in rollout.items()}


def test_minibatches_hold_whole_sequences(fabric):
    """Minibatches `[L, N]` reproduce the log probabilities of all rows with an action."""
    learner = make_recurrent(fabric)
    block, seen = block_of(learner), spy_on_batches(learner)
    learner.update(3, 0.0, None, block)
    fresh = make_recurrent(fabric)
    for batch in seen:
        assert batch.batch_size == (3, 2)
        features, flat = fresh.algorithm.batch_features(fresh.agent, batch)
        logprob = fresh.agent.policy.logprob(fresh.agent.policy.head(features, flat["obs"]), flat["action"])
        torch.testing.assert_close(logprob[flat["mask"]], flat["logprob"][flat["mask"]])


def test_sequences_of_one_row_are_single_rows(fabric):
    """With `sequence=1`, the minibatches hold single rows and the stored state of each."""
    learner = make_recurrent(fabric, sequence=1)
    block, seen = block_of(learner), spy_on_batches(learner)
    info, _ = learner.update(6, 0.0, None, block)
    assert info.gradient_steps == 6 and seen[0].batch_size == (1, 6)


@pytest.mark.parametrize("memory", NAMES)
@pytest.mark.parametrize("compile", [False, True])
def test_a_restored_learner_continues_bit_identically(fabric, monkeypatch, compile, memory):
    """Parameters and minibatches continue as without the restart; compiled and eager steps agree."""
    if compile and not defaults.has_compiler():
        pytest.skip("there is no C++ compiler")
    monkeypatch.setattr(tracing, "open_graph", run_graph)
    args = {"memory": memory, "normalize_obs": True, "anneal": True}
    learner, restored, eager = (make_recurrent(fabric, each, **args) for each in (compile, compile, False))
    blocks = [block_of(learner, seed) for seed in range(3)]
    learner.update(4, 0.0, None, blocks[0])
    restored.restore(learner.snapshot()[1])
    for block in blocks[1:]:
        for one in (learner, restored):
            info, _ = one.update(4, 0.5, None, block)
            assert not info.notes
    assert_same(restored.agent, parameters_of(learner.agent))
    for number, block in enumerate(blocks):
        eager.update(4, 0.5 if number else 0.0, None, block)
    for name, values in learner.agent.state_dict().items():
        torch.testing.assert_close(eager.agent.state_dict()[name], values, rtol=1e-4, atol=1e-6)
