"""SAC's acting, phases and losses."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import tensor

from sheeprl.algos.base import PolicyInput, Spaces, Step
from sheeprl.algos.sac.args import SACArgs
from sheeprl.algos.sac.sac import SAC
from sheeprl.models.cnn import shifted
from sheeprl.models.critics import StackedCritics


def build_sac(action_dim=2, **args):
    """Build SAC for observations of 3 numbers."""
    action = spaces.Box(-1.0, 1.0, (action_dim,))
    return SAC(SACArgs(name="sac", hidden_sizes=(8,), **args), Spaces(spaces.Box(-1.0, 1.0, (3,)), action))


def policy_inputs(num_envs):
    """Return random observations of all environments."""
    return PolicyInput(torch.rand(num_envs, 3), torch.zeros(num_envs), torch.zeros(num_envs, dtype=torch.bool))


def test_act_explore_and_greedy():
    """Greedy actions are tanh of the mean; explored ones have the policy's distribution."""
    algorithm = build_sac()
    policy, inputs = algorithm.build_agent().policy, policy_inputs(4000)
    greedy = algorithm.act(policy, inputs, {}, "greedy", torch.Generator())
    mean, log_std = algorithm.head.distribution(policy(inputs.obs))
    assert torch.equal(greedy.action, torch.tanh(mean))
    explored = algorithm.act(policy, inputs, {}, "explore", torch.Generator().manual_seed(0)).action
    z = (torch.atanh(explored) - mean) / log_std.exp()
    assert z.mean(0).abs().max() < 0.06 and (z.std(0) - 1).abs().max() < 0.06


def test_act_random_is_uniform():
    """Random actions are uniform in [−1, 1] (χ² test)."""
    algorithm = build_sac()
    action = algorithm.act(None, policy_inputs(8000), {}, "random", torch.Generator().manual_seed(0)).action
    assert action.shape == (8000, 2) and action.dtype == torch.float32
    for column in action.T:
        counts = torch.histc(column, 10, -1.0, 1.0)
        assert counts.sum() == 8000  # none outside [−1, 1]
        assert ((counts - 800) ** 2 / 800).sum() < 25  # 9 degrees of freedom


def test_act_draws_from_its_generator_only():
    """Actions depend on the generator passed in, not on torch's global one."""
    algorithm = build_sac()
    policy, inputs = algorithm.build_agent().policy, policy_inputs(3)
    for mode in ("explore", "random"):
        drawn = []
        for seed, global_seed in ((1, 2), (1, 3), (2, 2)):
            torch.manual_seed(global_seed)
            drawn.append(algorithm.act(policy, inputs, {}, mode, torch.Generator().manual_seed(seed)).action.tolist())
        assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(("learn_alpha", "order"), [(True, ["critic", "actor", "alpha"]), (False, ["critic", "actor"])])
def test_phases_and_target_update(learn_alpha, order):
    """A gradient step updates critic, actor and alpha; the critic's phase updates its target."""
    phases = build_sac(learn_alpha=learn_alpha, tau=0.25).phases(Step(0, 0.0))
    assert [phase.optimizer for phase in phases] == order
    (update,) = phases[0].target_updates
    assert (update.online, update.target, update.tau) == ("critic", "critic_target", 0.25)
    assert not any(phase.target_updates for phase in phases[1:])


def test_the_policy_learns_in_every_policy_delay_th_step():
    """The critics learn in every step; actor and temperature in the last of `policy_delay` steps."""
    algorithm = build_sac(policy_delay=3)
    groups = [[phase.optimizer for phase in algorithm.phases(Step(step, 0.0))] for step in range(6)]
    assert groups == [["critic"], ["critic"], ["critic", "actor", "alpha"]] * 2


def test_a_target_takes_the_minimum_of_a_subset():
    """With `target_subset`, a target is the minimum of the drawn critics; the actor maximizes the mean."""
    algorithm = build_sac(critics=3, target_subset=2, actor_value="mean", alpha=1e-6, gamma=0.5)
    agent = algorithm.build_agent()
    constant_critic_(agent.critic, (3.0, 7.0, 2.0))
    constant_critic_(agent.critic_target, (9.0, 5.0, 1.0))
    noise = algorithm.critic_noise(torch.Size([2]), torch.Generator().manual_seed(0))
    assert noise["subset"].shape == (2, 2)
    for subset, minimum in (((0, 1), 5.0), ((1, 2), 1.0), ((0, 2), 1.0)):
        noise["subset"] = tensor([subset, subset])
        loss = algorithm.critic_loss(agent, batch(), noise, {})
        assert loss.metrics["Values/target"].item() == pytest.approx((1 + 0.5 * minimum + 2) / 2, abs=1e-4)
    loss = algorithm.actor_loss(agent, batch(), {"action": torch.zeros(2, 2)}, {})
    assert loss.value.item() == pytest.approx(-4, abs=1e-4)
    with pytest.raises(ValueError, match=r"must be at most algo\.critics=3"):
        build_sac(critics=3, target_subset=4)


def test_n_step_returns_and_priorities():
    """`n_step` and `prioritized` choose the sampler; losses use its discount and importance weights."""
    assert build_sac().data().sampler is None and build_sac().data().prioritized is None
    algorithm = build_sac(n_step=3, gamma=0.9, prioritized=True, alpha=1e-6)
    assert (algorithm.data().sampler.n, algorithm.data().sampler.gamma) == (3, 0.9) and algorithm.data().prioritized
    agent = algorithm.build_agent()
    constant_critic_(agent.critic, (3.0, 7.0))
    constant_critic_(agent.critic_target, (9.0, 4.0))
    rows = batch().update({"discount": tensor([0.25, 0.0]), "importance": tensor([0.5, 1.0])})
    loss = algorithm.critic_loss(agent, rows, {"action": torch.zeros(2, 2)}, {})
    # Both targets are 2: the errors are 1 and 5, with weights of ¼ and ½.
    assert loss.value.item() == pytest.approx((1 + 25) * 0.75, rel=1e-4)
    assert loss.priority.tolist() == pytest.approx([3.0, 3.0], rel=1e-4)


def constant_critic_(critic, values):
    """Make all Q_i constant functions."""
    if isinstance(critic, StackedCritics):
        for parameter in critic.parameters():
            parameter.data.zero_()
        critic.biases[-1].data.copy_(tensor(values)[:, None, None])
        return
    for network, value in zip(critic.networks, values, strict=True):
        for parameter in network.parameters():
            parameter.data.zero_()
        network[-1].bias.data.fill_(value)


def batch():
    """Return two transitions, one truncated and one terminated."""
    return TensorDict(
        {
            "obs": torch.rand(2, 3),
            "next_obs": torch.rand(2, 3),
            "action": torch.rand(2, 2),
            "reward": tensor([1.0, 2.0]),
            "terminated": tensor([False, True]),
            "truncated": tensor([True, False]),  # truncated episodes bootstrap
            "sample_weight": tensor([0.5, 0.5]),
        },
        [2],
    )


def test_losses_of_constant_networks():
    """The three losses equal hand-computed values for constant networks."""
    algorithm = build_sac(gamma=0.5, alpha=2.0)
    agent = algorithm.build_agent()
    constant_critic_(agent.critic, (3.0, 7.0))
    constant_critic_(agent.critic_target, (9.0, 5.0))
    for parameter in agent.policy.parameters():
        parameter.data.zero_()  # mean 0, std 1
    noise = {"action": torch.zeros(2, 2)}
    logprob = -math.log(2 * math.pi)  # two standard normals at their means
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


def build_form(observation, action, **args):
    """Build SAC for other spaces."""
    return SAC(SACArgs(name="sac", hidden_sizes=(8,), **args), Spaces(observation, action))


PICTURE = spaces.Box(0, 255, (6, 8, 3), np.uint8)
BOX = spaces.Box(-1.0, 1.0, (2,))


def test_losses_of_discrete_actions():
    """The three losses equal hand-computed values for constant networks of two choices."""
    args = {"gamma": 0.5, "alpha": 2.0, "target_entropy_scale": 0.5}
    algorithm = build_form(spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(2), **args)
    agent = algorithm.build_agent()
    for parameter in agent.policy.parameters():
        parameter.data.zero_()  # both choices have probability ½
    for critic, biases in ((agent.critic, [[3.0, 4.0], [7.0, 1.0]]), (agent.critic_target, [[9.0, 5.0], [8.0, 6.0]])):
        for network, bias in zip(critic.networks, biases, strict=True):
            for parameter in network.parameters():
                parameter.data.zero_()
            network[-1].bias.data.copy_(tensor(bias))
    noise = algorithm.critic_noise(torch.Size([2]), torch.Generator())
    assert noise == {}
    rows = batch().update({"action": tensor([0, 1])})
    loss = algorithm.critic_loss(agent, rows, noise, {})
    target = 1 + 0.5 * ((8 + 5) / 2 + 2 * math.log(2))  # minima 8 and 5, entropy log 2
    expected = ((3 - target) ** 2 + (4 - 2) ** 2 + (7 - target) ** 2 + (1 - 2) ** 2) / 2
    assert loss.value.item() == pytest.approx(expected, rel=1e-5)
    loss = algorithm.actor_loss(agent, rows, noise, {})
    assert loss.value.item() == pytest.approx(-2 * math.log(2) - (3 + 1) / 2, rel=1e-5)
    assert loss.carry["logprob"].tolist() == pytest.approx([-math.log(2)] * 2)
    loss = algorithm.alpha_loss(agent, rows, {}, loss.carry)
    assert loss.value.item() == pytest.approx(-math.log(2) * (-math.log(2) + 0.5 * math.log(2)))


def test_targets_follow_every_target_delay_th_step():
    """Targets are updated in the last of `target_delay` steps, the target encoder with a step size of its own."""
    algorithm = build_form(PICTURE, BOX, target_delay=2, tau=0.25, encoder_tau=0.5)
    first, second = (algorithm.phases(Step(step, 0.0))[0].target_updates for step in (0, 1))
    assert first == ()
    assert [(update.online, update.target, update.tau) for update in second] == [
        ("critic.networks", "critic_target.networks", 0.25),
        ("critic.trunk", "critic_target.trunk", 0.5),
        ("policy.encoder", "encoder_target", 0.5),
    ]
    (critic,) = build_form(PICTURE, BOX, tau=0.25, learn_alpha=False).phases(Step(0, 0.0))[:1]
    assert [update.tau for update in critic.target_updates] == [0.25, 0.25]


def test_random_shifts_are_uniform_per_sample():
    """Each sample of a picture is shifted by −n to n; vectors and `random_shift=0` draw nothing."""
    algorithm, generator = build_form(PICTURE, BOX, random_shift=2), torch.Generator().manual_seed(0)
    noise = algorithm.critic_noise(torch.Size([4000]), generator)
    assert set(noise) == {"action", "shift", "next_shift"} and not torch.equal(noise["shift"], noise["next_shift"])
    for shift in (noise["shift"], noise["next_shift"]):
        assert shift.shape == (4000, 2)
        counts = torch.stack([(column + 2).bincount(minlength=5) for column in shift.T])
        assert counts.shape == (2, 5) and ((counts - 800) ** 2 / 800).sum() < 30  # 8 degrees of freedom
    assert set(algorithm.actor_noise(torch.Size([4]), generator)) == {"action", "shift"}
    assert set(build_form(PICTURE, BOX).critic_noise(torch.Size([4]), generator)) == {"action"}
    assert set(build_sac(random_shift=2).critic_noise(torch.Size([4]), generator)) == {"action"}


def test_losses_read_shifted_pictures():
    """A loss with shifts equals that of pictures that were shifted before."""
    algorithm = build_form(PICTURE, BOX, random_shift=2)
    agent, rows = algorithm.build_agent(), batch()
    pictures = {name: torch.randint(256, (2, 6, 8, 3), dtype=torch.uint8) for name in ("obs", "next_obs")}
    noise = algorithm.critic_noise(torch.Size([2]), torch.Generator().manual_seed(1))
    moved = {
        name: shifted(pictures[name].movedim(-1, 1), noise[shift]).movedim(1, -1)
        for name, shift in (("obs", "shift"), ("next_obs", "next_shift"))
    }
    for loss in (algorithm.critic_loss, algorithm.actor_loss):
        found = loss(agent, rows.update(pictures), noise, {}).value
        expected = loss(agent, rows.update(moved), {"action": noise["action"]}, {}).value
        torch.testing.assert_close(found, expected)
