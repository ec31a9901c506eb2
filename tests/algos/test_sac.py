import math

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import tensor
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from sheeprl.algos.base import PolicyInput, Spaces, Step
from sheeprl.algos.sac.args import SACArgs
from sheeprl.algos.sac.loss import actor_loss, alpha_loss, critic_loss, critic_target
from sheeprl.algos.sac.sac import SAC
from sheeprl.models.distributions import tanh_normal_sample


def sac(actions=2, **args):
    action = spaces.Box(-1.0, 1.0, (actions,))
    return SAC(SACArgs(name="sac", hidden_sizes=(8,), **args), Spaces(spaces.Box(-1.0, 1.0, (3,)), action))


def rows(count):
    return PolicyInput(torch.rand(count, 3), torch.zeros(count), torch.zeros(count, dtype=torch.bool))


# ---------------------------------------------------------------------------------------------------- losses


def test_critic_target():
    target = critic_target(
        reward=tensor([1.0, 2.0, 0.0]),
        terminated=tensor([False, True, False]),
        next_q=tensor([[4.0, 6.0, -2.0], [1.0, 0.0, 8.0]]),
        next_logprob=tensor([1.0, -3.0, -6.0]),
        alpha=tensor(0.5),
        gamma=0.5,
    )
    # 1 + 0.5·(1 − 0.5); 2, since terminated; 0.5·(−2 + 3)
    assert target.tolist() == [1.25, 2.0, 0.5]


def test_critic_loss():
    # Q_1: ½·((1 − 0)² + (3 − 2)²) = 1; Q_2: ½·((2 − 0)² + (5 − 2)²) = 6.5
    q, target = tensor([[1.0, 3.0], [2.0, 5.0]]), tensor([0.0, 2.0])
    assert critic_loss(q, target, tensor([0.5, 0.5])).item() == 7.5
    assert critic_loss(q, target, tensor([1.0, 0.0])).item() == 5


def test_actor_loss():
    # ½·((0.5·2 − 1) + (0.5·−4 − 3)) = −2.5
    q, logprob = tensor([[1.0, 5.0], [2.0, 3.0]]), tensor([2.0, -4.0])
    assert actor_loss(q, logprob, tensor(0.5), tensor([0.5, 0.5])).item() == -2.5


def test_alpha_loss():
    # −½·(0.5·(1 − 2) + 0.5·(−3 − 2)) = 1.5, slope 3: the policy is more random than asked, so alpha falls
    log_alpha = tensor(0.5, requires_grad=True)
    loss = alpha_loss(log_alpha, tensor([1.0, -3.0]), -2.0, tensor([0.5, 0.5]))
    loss.backward()
    assert loss.item() == 1.5 and log_alpha.grad.item() == 3


# ---------------------------------------------------------------------------------------------- tanh normal


def test_tanh_normal_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, log_std, noise = (torch.randn(50, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    action, logprob = tanh_normal_sample(mean, log_std, noise)
    reference = Independent(TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform()), 1)
    assert torch.allclose(action, torch.tanh(mean + log_std.exp() * noise))
    inside = (action.abs() < 1 - 1e-9).all(-1)  # beyond, atanh in the reference loses its digits
    assert inside.sum() > 40
    assert torch.allclose(logprob[inside], reference.log_prob(action)[inside], atol=1e-5)


def test_tanh_normal_by_hand():
    # u = 0: N(0; 0, 1) = 1/√(2π), slope of tanh 1. u = ln 3 / 2: tanh = ½, slope ¾; two of these with std ½.
    action, logprob = tanh_normal_sample(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
    assert action.item() == 0 and logprob.item() == pytest.approx(-0.5 * math.log(2 * math.pi))
    mean = torch.full((1, 2), math.log(3) / 2)
    action, logprob = tanh_normal_sample(mean, torch.full((1, 2), math.log(0.5)), torch.zeros(1, 2))
    one = -0.5 * math.log(2 * math.pi) - math.log(0.5) - math.log(0.75)
    assert action[0].tolist() == pytest.approx([0.5, 0.5]) and logprob.item() == pytest.approx(2 * one, abs=1e-5)


def test_the_tanh_normal_density_integrates_to_one():
    # The mean of 1 / density over the samples is the length of the interval (−1, 1).
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, logprob = tanh_normal_sample(torch.zeros_like(noise), torch.zeros_like(noise), noise)
    assert torch.exp(-logprob).mean().item() == pytest.approx(2.0, rel=0.02)


def test_tanh_normal_far_out_stays_finite():
    mean = tensor([[30.0], [-30.0]], requires_grad=True)
    action, logprob = tanh_normal_sample(mean, torch.full((2, 1), -20.0), torch.ones(2, 1))
    logprob.sum().backward()
    assert action.isfinite().all() and logprob.isfinite().all() and mean.grad.isfinite().all()


# ------------------------------------------------------------------------------------------------- algorithm


def test_target_entropy():
    assert sac(3).target_entropy == -3
    assert sac(3, target_entropy=-0.5).target_entropy == -0.5


def test_the_actors_log_std_is_clamped():
    policy = sac().build_agent().policy
    with torch.no_grad():
        policy.network[-1].weight.zero_()
        policy.network[-1].bias.copy_(tensor([0.5, -0.5, -100.0, 100.0]))
    mean, log_std = policy(torch.rand(2, 3))
    assert mean.tolist() == [[0.5, -0.5]] * 2
    assert log_std.tolist() == [[-20.0, 2.0]] * 2


def test_acting():
    algorithm = sac()
    policy, row = algorithm.build_agent().policy, rows(4000)
    greedy = algorithm.act(policy, row, {}, "greedy", torch.Generator())
    mean, log_std = policy(row.obs)
    assert torch.equal(greedy.action, torch.tanh(mean))
    explored = algorithm.act(policy, row, {}, "explore", torch.Generator().manual_seed(0)).action
    z = (torch.atanh(explored) - mean) / log_std.exp()
    assert z.mean(0).abs().max() < 0.06 and (z.std(0) - 1).abs().max() < 0.06


def test_random_actions_are_uniform():
    algorithm = sac()
    action = algorithm.act(None, rows(8000), {}, "random", torch.Generator().manual_seed(0)).action
    assert action.shape == (8000, 2) and action.dtype == torch.float32
    for column in action.T:
        counts = torch.histc(column, 10, -1.0, 1.0)
        assert counts.sum() == 8000  # all within the bounds
        assert ((counts - 800) ** 2 / 800).sum() < 25  # 9 degrees of freedom


def test_acting_draws_from_the_generator_alone():
    algorithm = sac()
    policy, row = algorithm.build_agent().policy, rows(3)
    for mode in ("explore", "random"):
        drawn = []
        for seed, global_seed in ((1, 2), (1, 3), (2, 2)):
            torch.manual_seed(global_seed)
            drawn.append(algorithm.act(policy, row, {}, mode, torch.Generator().manual_seed(seed)).action.tolist())
        assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(("learn_alpha", "order"), [(True, ["critic", "actor", "alpha"]), (False, ["critic", "actor"])])
def test_phases(learn_alpha, order):
    phases = sac(learn_alpha=learn_alpha, tau=0.25).phases(Step(0, 0.0))
    assert [phase.optimizer for phase in phases] == order
    (average,) = phases[0].averages
    assert (average.online, average.target, average.tau) == ("critic", "critic_target", 0.25)
    assert not any(phase.averages for phase in phases[1:])


def constant_critic_(critic, values):
    """Make Q_1 and Q_2 constants."""
    for network, value in zip(critic.networks, values, strict=True):
        for parameter in network.parameters():
            parameter.data.zero_()
        network[-1].bias.data.fill_(value)


def batch():
    return TensorDict(
        {
            "obs": torch.rand(2, 3),
            "next_obs": torch.rand(2, 3),
            "action": torch.rand(2, 2),
            "reward": tensor([1.0, 2.0]),
            "terminated": tensor([False, True]),
            "truncated": tensor([True, False]),  # no reason not to bootstrap
            "sample_weight": tensor([0.5, 0.5]),
        },
        [2],
    )


def test_losses_of_a_constant_agent():
    algorithm = sac(gamma=0.5, alpha=2.0)
    agent = algorithm.build_agent()
    constant_critic_(agent.critic, (3.0, 7.0))
    constant_critic_(agent.critic_target, (9.0, 5.0))
    for parameter in agent.policy.parameters():
        parameter.data.zero_()  # mean 0, std 1
    noise = {"action": torch.zeros(2, 2)}
    logprob = -math.log(2 * math.pi)  # of two standard normals at their mean
    target = 1 + 0.5 * (5 - 2 * logprob)
    loss = algorithm.critic_loss(agent, batch(), noise, {})
    expected = ((3 - target) ** 2 + (3 - 2) ** 2 + (7 - target) ** 2 + (7 - 2) ** 2) / 2
    assert loss.value.item() == pytest.approx(expected, rel=1e-5)
    assert loss.metrics["Loss/value_loss"].item() == pytest.approx(expected, rel=1e-5)
    assert loss.metrics["Values/target"].item() == pytest.approx((target + 2) / 2, rel=1e-5)

    loss = algorithm.actor_loss(agent, batch(), noise, {})
    assert loss.value.item() == pytest.approx(2 * logprob - 3, rel=1e-5)
    assert loss.carry["logprob"].tolist() == pytest.approx([logprob] * 2) and not loss.carry["logprob"].requires_grad

    loss = algorithm.alpha_loss(agent, batch(), {}, {"logprob": tensor([1.0, -3.0])})
    assert loss.value.item() == pytest.approx(-math.log(2) * (-1 - 2))
    assert loss.metrics["Params/alpha"].item() == pytest.approx(2)


def test_the_targets_start_as_copies_and_take_no_gradient():
    agent = sac().build_agent()
    pairs = list(zip(agent.critic.parameters(), agent.critic_target.parameters(), strict=True))
    assert all(torch.equal(online, target) and not target.requires_grad for online, target in pairs)
    first, second = agent.critic(torch.rand(4, 3), torch.rand(4, 2))
    assert not torch.allclose(first, second)  # the twins are not
