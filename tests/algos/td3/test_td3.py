"""TD3's networks, acting, phases and losses."""

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import tensor

from sheeprl.algos.base import PolicyInput, Spaces, Step
from sheeprl.algos.td3.args import TD3Args
from sheeprl.algos.td3.td3 import TD3


def build_td3(**args):
    """Build TD3 for observations of 3 numbers and 2 actions."""
    observation, action = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,))
    return TD3(TD3Args(name="td3", hidden_sizes=(8,), **args), Spaces(observation, action))


def policy_inputs(num_envs):
    """Return random observations of all environments."""
    return PolicyInput(torch.rand(num_envs, 3), torch.zeros(num_envs), torch.zeros(num_envs, dtype=torch.bool))


def constant_(network, values):
    """Make the outputs of a network constant."""
    for parameter in network.parameters():
        parameter.data.zero_()
    network[-1].bias.data.copy_(tensor(values))


def test_targets_start_as_copies_without_gradients():
    """Targets start as copies without gradients, and the twin critics differ."""
    agent = build_td3().build_agent()
    for name in ("policy", "critic"):
        online, target = agent.get_submodule(name), agent.get_submodule(f"{name}_target")
        for one, other in zip(online.parameters(), target.parameters(), strict=True):
            assert torch.equal(one, other) and not other.requires_grad
    first, second = agent.critic(torch.rand(4, 3), torch.rand(4, 2))
    assert not torch.allclose(first, second)


def test_act():
    """Greedy actions are the policy's; explored ones have normal noise, clipped to [−1, 1]; random ones are uniform."""
    algorithm = build_td3(exploration_noise=0.1)
    policy, inputs = algorithm.build_agent().policy, policy_inputs(4000)
    constant_(policy.network, [0.0, 3.0])
    greedy = algorithm.act(policy, inputs, {}, "greedy", torch.Generator()).action
    assert torch.equal(greedy, policy(inputs.obs)) and greedy[0].tolist() == pytest.approx([0.0, 0.99505], abs=1e-5)
    explored = algorithm.act(policy, inputs, {}, "explore", torch.Generator().manual_seed(0)).action
    assert abs(explored[:, 0].mean()) < 0.006 and abs(explored[:, 0].std() - 0.1) < 0.006
    assert explored.max() == 1
    drawn = algorithm.act(policy, inputs, {}, "random", torch.Generator().manual_seed(0)).action
    assert abs(drawn.mean()) < 0.03 and abs(drawn.std() - 3**-0.5) < 0.02 and drawn.abs().max() <= 1


def test_actor_and_targets_learn_in_every_second_step():
    """The critics learn in every step; the actor and all targets in every second one."""
    algorithm = build_td3(tau=0.25)
    first, second = (algorithm.phases(Step(step, 0.0)) for step in range(2))
    assert [phase.optimizer for phase in first] == ["critic"] and not first[0].target_updates
    assert [phase.optimizer for phase in second] == ["critic", "actor"] and not second[0].target_updates
    updates = [(update.online, update.target, update.tau) for update in second[1].target_updates]
    assert updates == [("critic", "critic_target", 0.25), ("policy", "policy_target", 0.25)]


def test_losses_of_constant_networks():
    """Both losses equal hand-computed values for constant networks."""
    algorithm = build_td3(gamma=0.5)
    agent = algorithm.build_agent()
    for critic, values in ((agent.critic, (3.0, 7.0)), (agent.critic_target, (9.0, 5.0))):
        for network, value in zip(critic.networks, values, strict=True):
            constant_(network, [value])
    rows = TensorDict(
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
    loss = algorithm.critic_loss(agent, rows, {"action": torch.randn(2, 2)}, {})
    # Targets: 1 + 0.5 · 5 = 3.5, and 2 (terminated).
    assert loss.value.item() == pytest.approx((0.5**2 + 1 + 3.5**2 + 25) / 2)
    assert loss.metrics["Values/target"].item() == pytest.approx(2.75)
    assert algorithm.actor_loss(agent, rows, {}, {}).value.item() == pytest.approx(-3)


def test_targets_use_the_smoothed_actions_of_the_target_actor():
    """The target critics get the target actor's action with clipped noise."""
    algorithm = build_td3(gamma=1.0, target_noise=0.2, noise_clip=0.1)
    agent = algorithm.build_agent()
    constant_(agent.policy_target.network, [0.0, 0.0])
    seen = []
    agent.critic_target.register_forward_hook(lambda module, inputs, output: seen.append(inputs[1]))
    rows = {name: torch.rand(1, size) for name, size in (("obs", 3), ("next_obs", 3), ("action", 2))}
    flags = {"reward": tensor([0.0]), "terminated": tensor([False]), "sample_weight": tensor([1.0])}
    algorithm.critic_loss(agent, TensorDict({**rows, **flags}, [1]), {"action": tensor([[0.25, -9.0]])}, {})
    assert seen[0].tolist() == [pytest.approx([0.05, -0.1])]


def test_n_step_returns_and_priorities():
    """`n_step` and `prioritized` choose the sampler."""
    data = build_td3(n_step=5, prioritized=True).data()
    assert data.sampler.n == 5 and data.prioritized is not None
