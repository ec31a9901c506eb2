"""PPO's acting, rollout preparation, phases and total loss."""

import math

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import tensor

from sheeprl.algos.base import PolicyInput, Spaces, Step
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.ppo.ppo import PPO

VECTOR = spaces.Box(-1.0, 1.0, (3,))


def build_ppo(action=None, **args):
    """Build PPO for observations of 3 numbers."""
    return PPO(PPOArgs(name="ppo", hidden_sizes=(8,), **args), Spaces(VECTOR, action or spaces.Discrete(3)))


def policy_inputs(num_envs):
    """Return random observations of all environments."""
    return PolicyInput(torch.rand(num_envs, 3), torch.zeros(num_envs), torch.zeros(num_envs, dtype=torch.bool))


def test_act_draws_from_its_generator_only():
    """Actions depend on the generator passed in, not on torch's global one."""
    algorithm = build_ppo(spaces.Discrete(50))
    policy, inputs = algorithm.build_agent().policy, policy_inputs(20)

    def act(seed, global_seed):
        """Return the actions for one seed of each generator."""
        torch.manual_seed(global_seed)
        return algorithm.act(policy, inputs, {}, "explore", torch.Generator().manual_seed(seed)).action.tolist()

    assert act(1, 2) == act(1, 3) != act(2, 2)


def test_prepare_rollout_adds_advantages_returns_and_mask():
    """A prepared rollout has T rows with hand-computed advantages, returns and mask."""
    algorithm = build_ppo(gamma=0.5, gae_lambda=0.5)
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


def make_batch():
    """Return two rows; a uniform policy over 3 actions has the ratios 1 and ½ on them."""
    rows = {
        "obs": torch.rand(2, 3),
        "action": tensor([0, 2]),
        "logprob": tensor([1 / 3, 2 / 3]).log(),
        "value": tensor([0.5, -2.0]),
        "advantage": tensor([2.0, -4.0]),
        "returns": tensor([1.0, 3.0]),
        "sample_weight": tensor([0.5, 0.5]),
    }
    return TensorDict(rows, [2])


def zero_agent(algorithm):
    """Return an agent with a uniform policy and V = 0."""
    agent = algorithm.build_agent()
    for parameter in agent.parameters():
        parameter.data.zero_()
    return agent


def test_clip_value_and_a_scheduled_entropy_coefficient_change_the_loss():
    """The total loss contains the clipped value loss and the phase's entropy coefficient."""
    algorithm = build_ppo(clip_value=0.25, entropy_coef=0.5, final_entropy_coef=0.1)
    (phase,) = algorithm.phases(Step(gradient_step=0, progress=0.75))
    assert phase.scalars["entropy_coef"] == pytest.approx(0.2)
    carry = {name: tensor(value) for name, value in phase.scalars.items()}
    loss = algorithm.loss(zero_agent(algorithm), make_batch(), {}, carry)
    # V = 0 and V_clip = 0.25, −1.75: max(1, 0.5625) and max(9, 4.75²)
    value_loss = (1 + 4.75**2) / 2
    assert loss.metrics["Loss/value_loss"].item() == pytest.approx(value_loss)
    assert loss.value.item() == pytest.approx(0.6 + 0.5 * value_loss - 0.2 * math.log(3))


@pytest.mark.parametrize(("target_kl", "stops"), [(0.06, True), (0.07, False)])
def test_target_kl_stops_the_round(target_kl, stops):
    """A divergence above 1.5 times `target_kl` stops the round."""
    algorithm = build_ppo(target_kl=target_kl)
    stop = algorithm.loss(zero_agent(algorithm), make_batch(), {}, {"clip": tensor(0.2)}).stop
    # the divergence is (ln 2 − ½) / 2 = 0.0966
    assert stop.item() == pytest.approx((math.log(2) - 0.5) / 2 - 1.5 * target_kl, abs=1e-6)
    assert (stop.item() > 0) == stops


def test_desired_kl_adapts_the_learning_rate_by_the_previous_minibatch():
    """The loss scales the learning rate by the last divergence, and stores its own for the next step."""
    algorithm = build_ppo(desired_kl=0.01, learning_rate=1e-3, max_learning_rate=1.2e-3)
    agent = zero_agent(algorithm)
    agent.kl.fill_(0.03)
    agent.lr_scale.fill_(0.6)
    loss = algorithm.loss(agent, make_batch(), {}, {"clip": tensor(0.2)})
    assert loss.lr_scale.item() == pytest.approx(0.4) == loss.buffers["lr_scale"].item()
    assert loss.buffers["kl"].item() == pytest.approx((math.log(2) - 0.5) / 2)
    assert loss.metrics["Loss/learning_rate"].item() == pytest.approx(4e-4)
    agent.kl.fill_(0.001)
    agent.lr_scale.fill_(1.0)
    assert algorithm.loss(agent, make_batch(), {}, {"clip": tensor(0.2)}).lr_scale.item() == pytest.approx(1.2)


def test_checkpoints_load_with_and_without_desired_kl():
    """An agent loads checkpoints with other values of `desired_kl`."""
    plain, adaptive = build_ppo().build_agent(), build_ppo(desired_kl=0.01).build_agent()
    assert adaptive.state_dict().keys() - plain.state_dict().keys() == {"kl", "lr_scale"}
    adaptive.load_state_dict(plain.state_dict())
    plain.load_state_dict(adaptive.state_dict())
    assert adaptive.lr_scale.item() == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anneal": True}, "anneal can't schedule it"),
        ({"final_learning_rate": 0.0}, "final_learning_rate can't schedule it"),
        ({"learning_rate": 1e-6}, "learning_rate=1e-06 is outside"),
    ],
)
def test_desired_kl_excludes_a_schedule(settings, message):
    """`desired_kl` rejects a scheduled learning rate, and one outside of its bounds."""
    with pytest.raises(ValueError, match=message):
        PPOArgs(name="ppo", desired_kl=0.01, **settings)


def test_loss_is_the_weighted_sum_of_its_terms():
    """The total loss and its metrics equal hand-computed values."""
    algorithm = build_ppo(value_coef=0.25, entropy_coef=0.5)
    agent = algorithm.build_agent()
    for parameter in agent.parameters():
        parameter.data.zero_()  # uniform policy over 3, V = 0
    batch = make_batch()
    loss = algorithm.loss(agent, batch, {}, {"clip": tensor(0.2)})
    # policy: −(1·2 + min(−2, 0.8·−4)) / 2 = 0.6; value: (1 + 9) / 2 = 5; entropy: −ln 3
    assert loss.metrics["Loss/policy_loss"].item() == pytest.approx(0.6)
    assert loss.metrics["Loss/value_loss"].item() == pytest.approx(5)
    assert loss.metrics["Loss/entropy_loss"].item() == pytest.approx(-math.log(3))
    assert loss.metrics["Loss/approx_kl"].item() == pytest.approx((math.log(2) - 0.5) / 2)
    assert loss.value.item() == pytest.approx(0.6 + 0.25 * 5 - 0.5 * math.log(3))


@pytest.mark.parametrize(("anneal", "clip", "lr_scale"), [(False, 0.2, 1.0), (True, 0.05, 0.25)])
def test_anneal_decays_clip_and_learning_rate(anneal, clip, lr_scale):
    """`anneal` decays the clip and the learning rate linearly."""
    (phase,) = build_ppo(anneal=anneal).phases(Step(gradient_step=0, progress=0.75))
    assert phase.scalars == {"clip": pytest.approx(clip)} and phase.lr_scale == lr_scale


def test_final_values_schedule_clip_and_learning_rate_separately():
    """Each final value has a separate schedule and takes precedence over `anneal`."""
    step = Step(gradient_step=0, progress=0.75)
    (phase,) = build_ppo(learning_rate=1e-3, final_learning_rate=2e-3).phases(step)
    assert phase.scalars["clip"] == 0.2 and phase.lr_scale == pytest.approx(1.75)
    (phase,) = build_ppo(clip=0.2, final_clip=0.1, anneal=True).phases(step)
    assert phase.scalars["clip"] == pytest.approx(0.125) and phase.lr_scale == 0.25


@pytest.mark.parametrize(("normalize", "keys"), [(True, ("advantage",)), (False, ())])
def test_normalize_advantage_standardizes_advantages(normalize, keys):
    """`normalize_advantage` makes the learner standardize the advantages."""
    assert build_ppo(normalize_advantage=normalize).data().standardize == keys
