import math

import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import tensor
from torch.distributions import Categorical, Independent, Normal

from sheeprl.algos.base import PolicyInput, Spaces, Step
from sheeprl.algos.ppo.agent import Actor
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.ppo.loss import approximate_kl, clipped_policy_loss, compute_gae, entropy_loss, value_loss
from sheeprl.algos.ppo.ppo import PPO
from sheeprl.models import distributions

VECTOR = spaces.Box(-1.0, 1.0, (3,))


def ppo(action=None, observation=VECTOR, **args):
    return PPO(PPOArgs(name="ppo", hidden_sizes=(8,), **args), Spaces(observation, action or spaces.Discrete(3)))


def rows(count=4):
    return PolicyInput(torch.rand(count, 3), torch.zeros(count), torch.zeros(count, dtype=torch.bool))


# ------------------------------------------------------------------------------------------------------- GAE


def gae(reward, value, terminated=(), truncated=(), gamma=0.5, gae_lambda=0.5):
    """Advantages of one environment; `terminated` and `truncated` name end rows."""

    def flags(where):
        return tensor([[t in where] for t in range(len(reward))])

    columns = [tensor(values, dtype=torch.float64)[:, None] for values in (reward, value)]
    return compute_gae(*columns, flags(terminated), flags(truncated), gamma, gae_lambda).squeeze(1).tolist()


def test_gae_without_ends():
    # Rewards are paid on arriving, so that of row 0 belongs to the fragment before.
    # δ1 = 6 + 0.5·8 − 2 = 8; δ0 = 2 + 0.5·2 − 4 = −1; A1 = 8; A0 = −1 + 0.25·8
    assert gae(reward=[99, 2, 6], value=[4, 2, 8]) == [1, 8]


def test_gae_of_a_terminated_episode_does_not_bootstrap():
    # δ1 = 6 − 2 = 4, whatever V of the end row; A0 = −1 + 0.25·4
    assert gae(reward=[99, 2, 6], value=[4, 2, 1000], terminated=[2]) == [0, 4]


def test_gae_of_a_truncated_episode_bootstraps_from_its_end_row():
    # As if nothing had ended: the end row's value stands for what would have come.
    assert gae(reward=[99, 2, 6], value=[4, 2, 8], truncated=[2]) == [1, 8]


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        # rows:   0  1  2=end  3=first  tail 4
        # δ3 = 2 + 0.5·4 − 8 = −4; row 2 decides nothing: 0; row 1 sees nothing beyond row 2
        # terminated: δ1 = 6 − 2 = 4;             A0 = (2 + 0.5·2 − 4) + 0.25·4 = 0
        ([2], [], [0, 4, 0, -4]),
        # truncated:  δ1 = 6 + 0.5·16 − 2 = 12;   A0 = −1 + 0.25·12 = 2
        ([], [2], [2, 12, 0, -4]),
        # both flags: it is terminated
        ([2], [2], [0, 4, 0, -4]),
    ],
)
def test_gae_with_an_end_row_in_the_middle(terminated, truncated, expected):
    assert gae([99, 2, 6, 0, 2], [4, 2, 16, 8, 4], terminated, truncated) == expected


def test_gae_of_a_fragment_that_begins_with_an_end_row():
    # Row 0 closed the fragment before as its tail; its flags say nothing of row 1.
    assert gae(reward=[5, 0, 4], value=[7, 2, 4], terminated=[0]) == [0, 4]


def test_gae_of_environments_side_by_side():
    reward = tensor([[99.0, 99.0], [2, 2], [6, 6]])
    value = tensor([[4.0, 4.0], [2, 2], [8, 8]])
    terminated = tensor([[False, False], [False, False], [False, True]])
    never = torch.zeros(3, 2, dtype=torch.bool)
    advantage = compute_gae(reward, value, terminated, never, gamma=0.5, gae_lambda=0.5)
    assert advantage.tolist() == [[1, 0], [8, 4]]


def test_gae_of_lambda_0_is_the_td_error_and_of_1_the_return():
    reward, value = [0, 1, 2, 3], [10, 20, 30, 40]
    assert gae(reward, value, gamma=0.5, gae_lambda=0.0) == [1 + 10 - 10, 2 + 15 - 20, 3 + 20 - 30]
    assert gae(reward, value, gamma=0.5, gae_lambda=1.0) == [1 + 1 + 0.75 + 5 - 10, 2 + 1.5 + 10 - 20, 3 + 20 - 30]


def lambda_return_advantage(reward, value, terminated, truncated, gamma, gae_lambda, t):
    """(1 − λ) Σ λ^(n−1) G_n with the last G taking the rest, minus V, by the definition of the n-step returns G_n."""
    if terminated[t] or truncated[t]:
        return 0.0
    horizon = next((s for s in range(t + 1, len(reward)) if terminated[s] or truncated[s]), len(reward) - 1)

    def n_step(n):
        rewards = sum(gamma**k * reward[t + 1 + k] for k in range(n))
        return rewards + (0.0 if terminated[t + n] else gamma**n * value[t + n])

    longest = horizon - t
    mixed = sum((1 - gae_lambda) * gae_lambda ** (n - 1) * n_step(n) for n in range(1, longest))
    return mixed + gae_lambda ** (longest - 1) * n_step(longest) - value[t]


SIXTEENTHS = st.integers(0, 16).map(lambda number: number / 16)  # exact in every precision


@given(
    data=st.lists(
        st.tuples(st.floats(-10, 10), st.floats(-10, 10), st.sampled_from([(0, 0), (0, 0), (1, 0), (0, 1), (1, 1)])),
        min_size=2,
        max_size=12,
    ),
    gamma=SIXTEENTHS,
    gae_lambda=SIXTEENTHS,
)
@settings(deadline=None, max_examples=80)
def test_gae_mixes_n_step_returns(data, gamma, gae_lambda):
    reward, value, ends = zip(*data, strict=True)
    terminated, truncated = zip(*ends, strict=True)
    where = [[t for t, flag in enumerate(flags) if flag] for flags in (terminated, truncated)]
    found = gae(reward, value, *where, gamma, gae_lambda)
    for t, advantage in enumerate(found):
        expected = lambda_return_advantage(reward, value, terminated, truncated, gamma, gae_lambda, t)
        assert advantage == pytest.approx(expected, abs=1e-9)


# ---------------------------------------------------------------------------------------------------- losses


def test_clipped_policy_loss():
    # ratios 1.5 and 0.5 on positive advantages give 1.2 (clipped) and 0.5; 1.1 and 0.7 on −2 and −1 give
    # −2.2 and −0.8 (clipped): the pessimistic one of each pair. −(1.2 + 0.5 − 2.2 − 0.8) / 4 = 0.325
    logprob = tensor([1.5, 0.5, 1.1, 0.7]).log() - 3
    advantage, weight = tensor([1.0, 1, -2, -1]), torch.full((4,), 0.25)
    loss = clipped_policy_loss(logprob, torch.full((4,), -3.0), advantage, weight, tensor(0.2))
    assert loss.item() == pytest.approx(0.325)


def test_clipped_policy_loss_pulls_back_only_where_it_is_not_clipped():
    logprob = tensor([1.5, 0.5, 1.1, 0.7]).log().requires_grad_()
    advantage = tensor([1.0, 1, -2, -1])
    clipped_policy_loss(logprob, torch.zeros(4), advantage, torch.full((4,), 0.25), tensor(0.2)).backward()
    # d/dlogprob of −ratio · A / 4: 0 (clipped), −0.5 / 4, 2.2 / 4, 0 (clipped)
    assert logprob.grad.tolist() == pytest.approx([0, -0.125, 0.55, 0])


def test_value_loss():
    # 0.5·(1 − 0)² + 0.25·(2 − 2)² + 0.25·(4 − 1)²
    assert value_loss(tensor([1.0, 2, 4]), tensor([0.0, 2, 1]), tensor([0.5, 0.25, 0.25])).item() == 2.75


def test_entropy_loss():
    assert entropy_loss(tensor([1.0, 3.0, 50.0]), tensor([0.5, 0.5, 0.0])).item() == -2


def test_approximate_kl():
    # ratio 2: 1 − ln 2; ratio ½: −½ + ln 2
    logprob, old = tensor([math.log(2.0), 0.0]), tensor([0.0, math.log(2.0)])
    assert approximate_kl(logprob, old, tensor([1.0, 0.0])).item() == pytest.approx(1 - math.log(2))
    assert approximate_kl(logprob, old, tensor([0.0, 1.0])).item() == pytest.approx(math.log(2) - 0.5)
    assert approximate_kl(logprob, old, tensor([0.5, 0.5])).item() == pytest.approx(0.25)
    assert approximate_kl(old, old, tensor([0.5, 0.5])).item() == 0


# --------------------------------------------------------------------------------------------- distributions


def test_categorical_is_that_of_torch():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3
    action = torch.arange(50) % 4
    reference = Categorical(logits=logits)
    assert torch.allclose(distributions.categorical_logprob(logits, action), reference.log_prob(action), atol=1e-6)
    assert torch.allclose(distributions.categorical_entropy(logits), reference.entropy(), atol=1e-6)


def test_categorical_by_hand():
    logits = tensor([[1.0, 2.0, 5.0]]).log() + 7  # probabilities 1/8, 2/8, 5/8
    assert distributions.categorical_logprob(logits, tensor([2])).item() == pytest.approx(math.log(0.625), abs=1e-6)
    entropy = -(0.125 * math.log(0.125) + 0.25 * math.log(0.25) + 0.625 * math.log(0.625))
    assert distributions.categorical_entropy(logits).item() == pytest.approx(entropy, abs=1e-5)


def test_categorical_sample_has_the_softmax_frequencies():
    probabilities = tensor([0.05, 0.15, 0.3, 0.5])
    logits = probabilities.log().expand(40_000, 4)
    noise = distributions.exponential_like(logits, torch.Generator().manual_seed(0))
    action = distributions.categorical_sample(logits, noise)
    counts, expected = action.bincount(minlength=4), 40_000 * probabilities
    assert action.dtype == torch.int64
    assert ((counts - expected) ** 2 / expected).sum() < 12  # 3 degrees of freedom


def test_categorical_sample_stands_the_extremes_of_exponential_noise():
    noise = tensor([[torch.inf, 0.5], [0.5, torch.inf], [0.5, 2**-24], [104.0, 0.5]])
    wanted = [1, 0, 0, 0]  # only noise without bound makes up for such a difference
    assert distributions.categorical_sample(tensor([[0.0, -1e4]]).expand(4, 2), noise).tolist() == wanted


def test_exponential_noise_is_never_0():
    noise = distributions.exponential_like(torch.empty(2**24), torch.Generator().manual_seed(0))
    assert noise.min() > 0  # else an impossible action could be chosen
    assert noise.mean() == pytest.approx(1.0, abs=2e-3)


def test_normal_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, log_std, action = (torch.randn(20, 3, generator=generator) for _ in range(3))
    reference = Independent(Normal(mean, log_std.exp()), 1)
    assert torch.allclose(distributions.normal_logprob(action, mean, log_std), reference.log_prob(action), atol=1e-5)
    assert torch.allclose(distributions.normal_entropy(log_std), reference.entropy(), atol=1e-6)


# ----------------------------------------------------------------------------------------------------- agent


def test_a_discrete_actor():
    algorithm = ppo(spaces.Discrete(3))
    policy = algorithm.build_agent().policy
    row = rows(6)
    output = algorithm.act(policy, row, {}, "explore", torch.Generator().manual_seed(1))
    reference = Categorical(logits=policy(row.obs))
    assert output.action.shape == (6,) and output.action.dtype == torch.int64
    assert torch.allclose(output.extras["logprob"], reference.log_prob(output.action), atol=1e-6)
    assert torch.allclose(policy.entropy(policy(row.obs)), reference.entropy(), atol=1e-6)
    greedy = algorithm.act(policy, row, {}, "greedy", torch.Generator()).action
    assert torch.equal(greedy, reference.probs.argmax(-1))


def test_a_multi_discrete_actor():
    policy = Actor(VECTOR, spaces.MultiDiscrete([2, 4]), PPOArgs(name="ppo"))
    output = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    action = torch.stack([torch.arange(8) % 2, torch.arange(8) % 4], -1)
    first, second = Categorical(logits=output[:, :2]), Categorical(logits=output[:, 2:])
    expected = first.log_prob(action[:, 0]) + second.log_prob(action[:, 1])
    assert torch.allclose(policy.logprob(output, action), expected, atol=1e-6)
    assert torch.allclose(policy.entropy(output), first.entropy() + second.entropy(), atol=1e-6)
    assert torch.equal(policy.greedy(output), torch.stack([first.probs.argmax(-1), second.probs.argmax(-1)], -1))


def test_parts_of_a_multi_discrete_action_are_drawn_independently():
    policy = Actor(VECTOR, spaces.MultiDiscrete([2, 3]), PPOArgs(name="ppo"))
    joint = tensor([0.3, 0.7])[:, None] * tensor([0.2, 0.3, 0.5])
    output = tensor([0.3, 0.7, 0.2, 0.3, 0.5]).log().expand(20_000, 5)
    action = policy.sample(output, torch.Generator().manual_seed(0))
    assert action.shape == (20_000, 2)
    counts, expected = (action[:, 0] * 3 + action[:, 1]).bincount(minlength=6), 20_000 * joint.flatten()
    assert ((counts - expected) ** 2 / expected).sum() < 15  # 5 degrees of freedom


def test_a_continuous_actor():
    algorithm = ppo(spaces.Box(-1.0, 1.0, (2,)), log_std_init=-0.5)
    policy = algorithm.build_agent().policy
    with torch.no_grad():
        policy.log_std[1] = 0.25
    row = rows(5000)
    output = algorithm.act(policy, row, {}, "explore", torch.Generator().manual_seed(1))
    reference = Normal(policy(row.obs), tensor([-0.5, 0.25]).exp())
    assert torch.allclose(output.extras["logprob"], reference.log_prob(output.action).sum(-1), atol=1e-5)
    assert torch.allclose(policy.entropy(policy(row.obs)), reference.entropy().sum(-1), atol=1e-5)
    z = (output.action - reference.mean) / reference.stddev
    assert z.mean(0).abs().max() < 0.05 and (z.std(0) - 1).abs().max() < 0.05
    assert torch.equal(algorithm.act(policy, row, {}, "greedy", torch.Generator()).action, policy(row.obs))


def test_acting_draws_from_the_generator_alone():
    algorithm = ppo(spaces.Discrete(50))
    policy, row = algorithm.build_agent().policy, rows(20)

    def act(seed, global_seed):
        torch.manual_seed(global_seed)
        return algorithm.act(policy, row, {}, "explore", torch.Generator().manual_seed(seed)).action.tolist()

    assert act(1, 2) == act(1, 3) != act(2, 2)


def test_a_dict_of_mixed_observations():
    space = spaces.Dict(
        {
            "where": spaces.Box(-1.0, 1.0, (2, 2)),
            "picture": spaces.Box(0, 255, (1, 2), "uint8"),
            "inner": spaces.Dict({"phase": spaces.Discrete(3, start=5)}),
            "buttons": spaces.MultiBinary(2),
        }
    )
    agent = ppo(observation=space).build_agent()
    obs = {
        "where": torch.arange(4.0).reshape(1, 2, 2),
        "picture": tensor([[[7, 9]]], dtype=torch.uint8),
        "inner": {"phase": tensor([6])},
        "buttons": tensor([[1, 0]], dtype=torch.int8),
    }
    in_order = {"buttons": [1, 0], "inner": [0, 1, 0], "picture": [7, 9], "where": [0, 1, 2, 3]}
    vector = tensor([[float(number) for name in space for number in in_order[name]]])
    assert torch.allclose(agent.policy(obs), agent.policy.network(vector))
    assert torch.allclose(agent.critic(obs), agent.critic.network(vector)[:, 0])


# ------------------------------------------------------------------------------------------------- algorithm


def test_prepare_adds_advantages_returns_and_mask():
    algorithm = ppo(gamma=0.5, gae_lambda=0.5)
    agent = algorithm.build_agent()
    for parameter in agent.critic.parameters():
        parameter.data.zero_()
    agent.critic.network[-1].bias.data.fill_(4.0)  # V is 4 everywhere
    rollout = TensorDict(
        {
            "obs": torch.rand(4, 1, 3),
            "action": torch.zeros(4, 1, dtype=torch.int64),
            "logprob": torch.arange(4.0)[:, None],
            "reward": tensor([[9.0], [2.0], [0.0], [6.0]]),
            "terminated": tensor([[False], [True], [False], [False]]),
            "truncated": torch.zeros(4, 1, dtype=torch.bool),
            "is_first": tensor([[True], [False], [True], [False]]),
        },
        [4, 1],
    )
    with torch.no_grad():
        prepared = algorithm.prepare_rollout(agent, rollout)
    assert prepared.batch_size == (3, 1)
    assert prepared["mask"].flatten().tolist() == [True, False, True]
    # row 0: 2 − 4 = −2 (terminated); row 2: 6 + 0.5·4 − 4 = 4; returns are advantages + 4
    assert prepared["advantage"].flatten().tolist() == [-2, 0, 4]
    assert prepared["returns"].flatten().tolist()[::2] == [2, 8]
    assert torch.equal(prepared["logprob"], rollout["logprob"][:3])
    assert torch.equal(prepared["obs"], rollout["obs"][:3])


def test_the_loss_is_the_weighted_sum_of_its_terms():
    algorithm = ppo(value_coef=0.25, entropy_coef=0.5)
    agent = algorithm.build_agent()
    for parameter in agent.parameters():
        parameter.data.zero_()  # uniform policy over 3, V = 0
    batch = TensorDict(
        {
            "obs": torch.rand(2, 3),
            "action": tensor([0, 2]),
            "logprob": tensor([1 / 3, 2 / 3]).log(),  # ratios 1 and ½
            "advantage": tensor([2.0, -4.0]),
            "returns": tensor([1.0, 3.0]),
            "sample_weight": tensor([0.5, 0.5]),
        },
        [2],
    )
    loss = algorithm.loss(agent, batch, {}, {"clip": tensor(0.2)})
    # policy: −(1·2 + min(−2, 0.8·−4)) / 2 = 0.6; value: (1 + 9) / 2 = 5; entropy: −ln 3
    assert loss.metrics["Loss/policy_loss"].item() == pytest.approx(0.6)
    assert loss.metrics["Loss/value_loss"].item() == pytest.approx(5)
    assert loss.metrics["Loss/entropy_loss"].item() == pytest.approx(-math.log(3))
    assert loss.metrics["Loss/approx_kl"].item() == pytest.approx((math.log(2) - 0.5) / 2)
    assert loss.value.item() == pytest.approx(0.6 + 0.25 * 5 - 0.5 * math.log(3))


@pytest.mark.parametrize(("anneal", "clip", "lr_scale"), [(False, 0.2, 1.0), (True, 0.05, 0.25)])
def test_annealing(anneal, clip, lr_scale):
    (phase,) = ppo(anneal=anneal).phases(Step(gradient_step=0, progress=0.75))
    assert phase.scalars["clip"] == pytest.approx(clip) and phase.lr_scale == lr_scale


@pytest.mark.parametrize(("normalize", "keys"), [(True, ("advantage",)), (False, ())])
def test_advantages_are_standardized_if_asked(normalize, keys):
    assert ppo(normalize_advantage=normalize).data().standardize == keys
