"""PPO's actor and critic."""

import torch
from gymnasium import spaces
from torch import tensor
from torch.distributions import Categorical, Normal

from sheeprl.algos.base import PolicyInput, Spaces
from sheeprl.algos.ppo.agent import Actor
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.ppo.ppo import PPO

VECTOR = spaces.Box(-1.0, 1.0, (3,))


def build_ppo(action=None, **args):
    """Build PPO for observations of 3 numbers."""
    return PPO(PPOArgs(name="ppo", hidden_sizes=(8,), **args), Spaces(VECTOR, action or spaces.Discrete(3)))


def policy_inputs(num_envs):
    """Return random observations of all environments."""
    return PolicyInput(torch.rand(num_envs, 3), torch.zeros(num_envs), torch.zeros(num_envs, dtype=torch.bool))


def test_discrete_actor():
    """Log-probability, entropy and greedy action equal those of torch's Categorical."""
    algorithm = build_ppo(spaces.Discrete(3))
    policy = algorithm.build_agent().policy
    inputs = policy_inputs(6)
    output = algorithm.act(policy, inputs, {}, "explore", torch.Generator().manual_seed(1))
    reference = Categorical(logits=policy(inputs.obs))
    assert output.action.shape == (6,) and output.action.dtype == torch.int64
    assert torch.allclose(output.extras["logprob"], reference.log_prob(output.action), atol=1e-6)
    assert torch.allclose(policy.entropy(policy(inputs.obs)), reference.entropy(), atol=1e-6)
    greedy = algorithm.act(policy, inputs, {}, "greedy", torch.Generator()).action
    assert torch.equal(greedy, reference.probs.argmax(-1))


def test_multi_discrete_actor():
    """Log-probability and entropy are sums over the action's components."""
    policy = Actor(VECTOR, spaces.MultiDiscrete([2, 4]), PPOArgs(name="ppo"))
    output = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    action = torch.stack([torch.arange(8) % 2, torch.arange(8) % 4], -1)
    first, second = Categorical(logits=output[:, :2]), Categorical(logits=output[:, 2:])
    expected = first.log_prob(action[:, 0]) + second.log_prob(action[:, 1])
    assert torch.allclose(policy.logprob(output, action), expected, atol=1e-6)
    assert torch.allclose(policy.entropy(output), first.entropy() + second.entropy(), atol=1e-6)
    assert torch.equal(policy.greedy(output), torch.stack([first.probs.argmax(-1), second.probs.argmax(-1)], -1))


def test_multi_discrete_actions_are_sampled_independently():
    """Sampled pairs have the frequencies of the product distribution (χ² test)."""
    policy = Actor(VECTOR, spaces.MultiDiscrete([2, 3]), PPOArgs(name="ppo"))
    joint = tensor([0.3, 0.7])[:, None] * tensor([0.2, 0.3, 0.5])
    output = tensor([0.3, 0.7, 0.2, 0.3, 0.5]).log().expand(20_000, 5)
    action = policy.sample(output, torch.Generator().manual_seed(0))
    assert action.shape == (20_000, 2)
    counts, expected = (action[:, 0] * 3 + action[:, 1]).bincount(minlength=6), 20_000 * joint.flatten()
    assert ((counts - expected) ** 2 / expected).sum() < 15  # 5 degrees of freedom


def test_continuous_actor():
    """Sampled actions have the policy's mean and standard deviation; greedy ones are the mean."""
    algorithm = build_ppo(spaces.Box(-1.0, 1.0, (2,)), log_std_init=-0.5)
    policy = algorithm.build_agent().policy
    with torch.no_grad():
        policy.log_std[1] = 0.25
    inputs = policy_inputs(5000)
    output = algorithm.act(policy, inputs, {}, "explore", torch.Generator().manual_seed(1))
    reference = Normal(policy(inputs.obs), tensor([-0.5, 0.25]).exp())
    assert torch.allclose(output.extras["logprob"], reference.log_prob(output.action).sum(-1), atol=1e-5)
    assert torch.allclose(policy.entropy(policy(inputs.obs)), reference.entropy().sum(-1), atol=1e-5)
    z = (output.action - reference.mean) / reference.stddev
    assert z.mean(0).abs().max() < 0.05 and (z.std(0) - 1).abs().max() < 0.05
    assert torch.equal(algorithm.act(policy, inputs, {}, "greedy", torch.Generator()).action, policy(inputs.obs))


def test_a_mask_in_the_observation_excludes_choices():
    """Players and losses read it; the networks don't."""
    space = spaces.Dict({"action_mask": spaces.MultiBinary(3), "state": VECTOR})
    algorithm = PPO(PPOArgs(name="ppo", hidden_sizes=(8,)), Spaces(space, spaces.Discrete(3)))
    agent = algorithm.build_agent()
    obs = {"action_mask": tensor([[0, 1, 0], [1, 0, 1]], dtype=torch.int8).repeat(100, 1), "state": torch.rand(200, 3)}
    inputs = PolicyInput(obs, torch.zeros(200), torch.zeros(200, dtype=torch.bool))
    output = algorithm.act(agent.policy, inputs, {}, "explore", torch.Generator().manual_seed(0))
    first, second = output.action[::2], output.action[1::2]
    assert torch.all(first == 1) and sorted(set(second.tolist())) == [0, 2]
    assert torch.all(output.extras["logprob"][::2] == 0)
    logits = agent.policy(obs)
    assert torch.equal(agent.policy.logprob(logits, output.action), output.extras["logprob"])
    assert torch.all(agent.policy.entropy(logits)[::2] == 0) and torch.all(agent.policy.entropy(logits)[1::2] > 0)
    assert agent.critic.network[0].in_features == 3
