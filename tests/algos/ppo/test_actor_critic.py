"""Parts of PPO that its relatives share: encoders, masks and running statistics."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import tensor

from sheeprl.algos.a2c.a2c import A2C
from sheeprl.algos.a2c.args import A2CArgs
from sheeprl.algos.base import PolicyInput, PreparedRollout, Spaces
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.ppo.ppo import PPO

BOX = spaces.Box(-1.0, 1.0, (2,))
MIXED = spaces.Dict({"rgb": spaces.Box(0, 255, (8, 8, 3), np.uint8), "state": BOX})


def build_ppo(observation=BOX, action=None, **args):
    """Build PPO with small networks."""
    args = PPOArgs(name="ppo", hidden_sizes=(8,), cnn_features=4, **args)
    return PPO(args, Spaces(observation, action or spaces.Discrete(3)))


def mixed(*batch):
    """Return random observations with a picture and a vector."""
    return {"rgb": torch.randint(256, (*batch, 8, 8, 3), dtype=torch.uint8), "state": torch.rand(*batch, 2)}


def inputs_of(obs, reward, is_first):
    """Return the inputs of a policy for two environments."""
    return PolicyInput(obs, tensor(reward), tensor(is_first))


def test_actor_and_critic_share_the_encoder_of_pictures_only():
    """The encoder has parameters for pictures only, and both networks read its features."""
    assert not [name for name in build_ppo().build_agent().state_dict() if "network" not in name]
    agent = build_ppo(MIXED).build_agent()
    features = agent.policy.features(mixed(5))
    assert features.shape == (5, 4 + 2)
    assert agent.critic(features).shape == (5,)
    assert agent.critic(agent.policy.features(mixed(3, 5), batch_dims=2)).shape == (3, 5)
    agent.critic(features).sum().backward()
    assert all(parameter.grad is not None for parameter in agent.policy.encoder.parameters())


def test_keys_choose_the_inputs():
    """Keys that aren't named are no inputs."""
    assert build_ppo(MIXED, cnn_keys=()).build_agent().policy.features(mixed(5)).shape == (5, 2)
    assert build_ppo(MIXED, mlp_keys=()).build_agent().policy.features(mixed(5)).shape == (5, 4)


@pytest.mark.parametrize("action", [spaces.Discrete(4), spaces.MultiDiscrete([2, 2]), spaces.MultiBinary(2)])
def test_forbidden_choices_are_never_taken(action):
    """An action mask excludes choices from all actions, and their log probabilities are those of the rest."""
    observation = spaces.Dict({"action_mask": spaces.MultiBinary(4), "state": BOX})
    algorithm = build_ppo(observation, action)
    agent = algorithm.build_agent()
    mask = tensor([1, 0, 1, 0] if isinstance(action, spaces.Discrete) else [0, 1, 1, 1], dtype=torch.int8)
    obs = {"action_mask": mask.expand(500, 4), "state": torch.rand(500, 2)}
    inputs = PolicyInput(obs, torch.zeros(500), torch.zeros(500, dtype=torch.bool))
    output = algorithm.act(agent.policy, inputs, {}, "explore", torch.Generator().manual_seed(0))
    taken = {tuple(row) for row in output.action.reshape(500, -1).tolist()}
    assert taken == ({(0,), (2,)} if isinstance(action, spaces.Discrete) else {(1, 0), (1, 1)})
    assert output.extras["logprob"].exp().mean().item() == pytest.approx(0.5, abs=0.05)


def test_observations_are_standardized_by_running_statistics():
    """Vectors are standardized, pictures aren't; a rollout returns the statistics with its rows."""
    algorithm = build_ppo(MIXED, normalize_obs=True)
    agent = algorithm.build_agent()
    obs = mixed(3, 1)
    obs["state"] = tensor([[[1.0, 5.0]], [[3.0, 5.0]], [[99.0, 99.0]]])
    raw = agent.policy.features(obs, batch_dims=2)
    assert torch.equal(raw[..., -2:], obs["state"].clamp(-10, 10))  # no statistics yet
    with torch.no_grad():
        prepared = algorithm.prepare_rollout(agent, rollout_of(obs))
    assert isinstance(prepared, PreparedRollout) and prepared.rows.batch_size == (2, 1)
    for name, values in prepared.buffers.items():  # of the two rows; the bootstrap row belongs to the next rollout
        agent.get_buffer(name).copy_(values)
    assert agent.policy.moments.mean.tolist() == [2, 5] and agent.policy.moments.variance.tolist() == [1, 0]
    features = agent.policy.features(obs, batch_dims=2)
    assert torch.equal(features[..., :4], raw[..., :4])
    # the deviations are 1 and √1e-8
    assert features[:, 0, 4:].tolist() == [[pytest.approx(-1), 0], [pytest.approx(1), 0], [10, 10]]


def rollout_of(obs, **columns):
    """Return a rollout of two actions in one environment."""
    rows = {
        "obs": obs,
        "action": torch.zeros(3, 1, dtype=torch.int64),
        "logprob": torch.zeros(3, 1),
        "reward": tensor([[9.0], [6.0], [-100.0]]),
        "terminated": torch.zeros(3, 1, dtype=torch.bool),
        "truncated": torch.zeros(3, 1, dtype=torch.bool),
        "is_first": torch.zeros(3, 1, dtype=torch.bool),
        **{name: tensor(values)[:, None] for name, values in columns.items()},
    }
    return TensorDict(rows, [3, 1])


def test_the_policy_carries_the_discounted_return():
    """Acting stores the discounted sum of each episode's rewards and passes it on."""
    algorithm = build_ppo(normalize_reward=True, gamma=0.5)
    policy, generator = algorithm.build_agent().policy, torch.Generator()
    obs, state, sums = torch.rand(2, 2), {}, []
    for reward, is_first in [([0.0, 0.0], [True, True]), ([2.0, 4.0], [False, False]), ([1.0, 0.0], [False, True])]:
        output = algorithm.act(policy, inputs_of(obs, reward, is_first), state, "explore", generator)
        state = output.rnn_state
        sums.append(output.extras["discounted_return"].tolist())
    assert sums == [[0, 0], [2, 4], [2, 0]]


def test_rewards_are_divided_by_the_deviation_of_returns():
    """Advantages use rewards that are divided by the running deviation and clipped to ±10."""
    algorithm = build_ppo(normalize_reward=True, gamma=0.5, gae_lambda=0.0)
    agent = algorithm.build_agent()
    for parameter in agent.critic.parameters():
        parameter.data.zero_()
    moments = agent.return_moments
    for name, values in moments.updated(tensor([1.0, 7.0])).items():  # deviation 3
        moments.get_buffer(name).copy_(values)
    with torch.no_grad():
        prepared = algorithm.prepare_rollout(agent, rollout_of(torch.rand(3, 1, 2), discounted_return=[1.0, 7.0, 55.0]))
    assert prepared.rows["advantage"].flatten().tolist() == [pytest.approx(2), -10]
    assert prepared.buffers.keys() == {f"return_moments.{name}" for name in ("count", "total", "total_square")}
    assert prepared.buffers["return_moments.count"] == 4 and prepared.buffers["return_moments.total"] == 16


def test_rows_of_resets_have_no_returns():
    """The deviation of returns counts each reward once, but not the rows on which episodes begin."""
    algorithm = build_ppo(normalize_reward=True)
    agent, returns = algorithm.build_agent(), [0.0, 7.0, 55.0]
    rollout = rollout_of(torch.rand(3, 1, 2), discounted_return=returns, is_first=[True, False, False])
    with torch.no_grad():
        prepared = algorithm.prepare_rollout(agent, rollout)
    assert prepared.buffers["return_moments.count"] == 1 and prepared.buffers["return_moments.total"] == 7


def test_a2c_inherits_encoders_and_statistics():
    """A2C has PPO's agent."""
    args = A2CArgs(name="a2c", cnn_features=4, normalize_obs=True, normalize_reward=True)
    agent = A2C(args, Spaces(MIXED, spaces.Discrete(2))).build_agent()
    assert agent.policy.features(mixed(5)).shape == (5, 6)
    assert agent.policy.moments is not None and agent.return_moments is not None
