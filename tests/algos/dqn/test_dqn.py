"""DQN's networks, acting, phases and loss."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pydantic import ValidationError
from tensordict import TensorDict
from torch import tensor

from sheeprl.algos.base import PolicyInput, Spaces, Step
from sheeprl.algos.dqn.agent import FractionEmbedding, of_action
from sheeprl.algos.dqn.args import DQNArgs
from sheeprl.algos.dqn.dqn import DQN
from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.samplers import NStep

VECTOR = spaces.Box(-1.0, 1.0, (3,))
MASKED = spaces.Dict({"position": VECTOR, "action_mask": spaces.MultiBinary(4)})
EVERYTHING = {"double": True, "dueling": True, "noisy": True, "prioritized": True, "n_step": 3}


def build_dqn(observation=VECTOR, **args):
    """Build DQN for 4 actions."""
    args = {"hidden_sizes": (8,), "atoms": 5, "quantiles": 3, **args}
    return DQN(DQNArgs(name="dqn", **args), Spaces(observation, spaces.Discrete(4)))


def inputs_of(obs, progress=0.0):
    """Return the inputs of a policy for a batch of observations."""
    count = len(obs) if isinstance(obs, torch.Tensor) else len(obs["position"])
    return PolicyInput(obs, torch.zeros(count), torch.zeros(count, dtype=torch.bool), progress)


def constant_(network, values):
    """Make the outputs of an MLP constant."""
    for parameter in network.parameters():
        parameter.data.zero_()
    network[-1].bias.data.copy_(tensor(values))


def make_batch(observation=VECTOR, samples=6):
    """Return random transitions."""
    generator = torch.Generator().manual_seed(0)

    def obs():
        """Return random observations."""
        vector = torch.rand(samples, 3, generator=generator)
        mask = (torch.rand(samples, 4, generator=generator) < 0.5).to(torch.int8)
        return vector if observation is VECTOR else TensorDict({"position": vector, "action_mask": mask}, [samples])

    rows = {
        "obs": obs(),
        "next_obs": obs(),
        "action": torch.randint(4, (samples,), generator=generator),
        "reward": torch.randn(samples, generator=generator),
        "terminated": torch.rand(samples, generator=generator) < 0.3,
        "sample_weight": torch.full((samples,), 1 / samples),
    }
    return TensorDict(rows, [samples])


def test_epsilon_falls_over_a_fraction_of_the_run():
    """Epsilon is linear in the policy steps, then constant."""
    algorithm = build_dqn(epsilon=1.0, final_epsilon=0.2, exploration_fraction=0.5)
    assert [algorithm.epsilon(progress) for progress in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


def test_act():
    """Greedy actions are the best ones; explored ones are random with probability epsilon; random ones uniform."""
    algorithm = build_dqn(epsilon=0.4, final_epsilon=0.0, exploration_fraction=1.0)
    policy, obs = algorithm.build_agent().policy, torch.rand(8000, 3)
    constant_(policy.advantage, [0.0, 3.0, 1.0, 2.0])

    def act(mode, progress=0.0):
        """Return the frequencies of the actions."""
        action = algorithm.act(policy, inputs_of(obs, progress), {}, mode, torch.Generator().manual_seed(0)).action
        return (torch.bincount(action, minlength=4) / len(obs)).tolist()

    assert act("greedy") == [0.0, 1.0, 0.0, 0.0]
    assert act("random") == pytest.approx([0.25] * 4, abs=0.02)
    assert act("explore") == pytest.approx([0.1, 0.7, 0.1, 0.1], abs=0.02)
    assert act("explore", progress=0.5) == pytest.approx([0.05, 0.85, 0.05, 0.05], abs=0.02)


def test_each_environment_of_the_run_has_its_own_epsilon():
    """With `env_epsilon`, the numbers of a player's environments set their epsilons, whatever the progress."""
    algorithm = build_dqn(env_epsilon=0.5, env_epsilon_power=1.0)
    inputs = replace(inputs_of(torch.rand(2, 3), progress=0.7), first_env=2, num_envs=5)
    assert inputs.place.tolist() == [0.5, 0.75]
    assert algorithm.explored(inputs).tolist() == pytest.approx([0.5**1.5, 0.5**1.75])
    assert build_dqn(epsilon=0.5, final_epsilon=0.5).explored(inputs) == 0.5


@pytest.mark.parametrize("observation", [VECTOR, MASKED], ids=["vector", "masked"])
@pytest.mark.parametrize("args", [{"n_step": 3}, {"head": "c51"}, {"head": "qr", "n_step": 2, "dueling": True}])
def test_initial_priorities_equal_those_of_the_learner(observation, args):
    """The player's priority of a new transition is the one of the learner's loss with the same weights."""
    algorithm = build_dqn(observation, prioritized=True, initial_priority="error", **args)
    agent, steps, envs = algorithm.build_agent(), 7, 2
    batches = [make_batch(observation, envs) for _ in range(steps + 1)]
    rows = torch.stack([batch.select("obs", "action", "reward") for batch in batches])
    generator = torch.Generator().manual_seed(1)
    rows["reward"] = torch.randn(steps + 1, envs, generator=generator)
    is_last = torch.rand(steps + 1, envs, generator=generator) < 0.3
    rows["terminated"] = is_last & (torch.rand(steps + 1, envs, generator=generator) < 0.5)
    rows["truncated"] = is_last & ~rows["terminated"]
    rows["is_first"] = is_last.roll(1, 0)
    assert is_last[1:-1].any()
    with torch.no_grad():
        priority = algorithm.initial_priority(agent.policy, rows.to_dict())
    data = algorithm.data()
    buffer = ReplayBuffer(100, data.sampler, prioritized=data.prioritized)
    buffer.add(rows.set("priority", torch.cat([priority, torch.zeros(1, envs)])))
    batch = buffer.sample(buffer.available, 20).flatten()
    batch["sample_weight"] = torch.ones(len(batch))
    learned = algorithm.loss(agent, batch, {}, {}).priority
    torch.testing.assert_close(learned, priority.flatten()[batch["index"]])
    leaves = buffer.priorities.tree.leaves[batch["index"]]
    np.testing.assert_allclose(leaves, np.maximum(learned.numpy(), 1e-6) ** 0.6, rtol=1e-4)


def test_new_transitions_get_the_highest_priority_by_default():
    """Players compute no priorities unless `initial_priority=error`, which needs prioritized sampling."""
    algorithm = build_dqn(prioritized=True)
    assert algorithm.initial_priority(algorithm.build_agent().policy, {}) is None
    with pytest.raises(ValidationError, match="initial_priority=error needs prioritized=true"):
        build_dqn(initial_priority="error")


def test_a_noisy_policy_explores_by_its_noise():
    """Each action has its own noise from the generator; greedy actions have none, and epsilon has no effect."""
    algorithm = build_dqn(noisy=True)
    policy, obs = algorithm.build_agent().policy, torch.rand(1, 3).expand(200, 3)

    def act(mode, seed):
        """Return the actions."""
        return algorithm.act(policy, inputs_of(obs), {}, mode, torch.Generator().manual_seed(seed)).action

    assert len(act("greedy", 0).unique()) == 1
    assert torch.equal(act("explore", 1), act("explore", 1)) and not torch.equal(act("explore", 1), act("explore", 2))
    for layer in policy.advantage.layers:
        layer.weight_noise.data.zero_(), layer.bias_noise.data.zero_()
    assert torch.equal(act("explore", 1), act("greedy", 0))


@pytest.mark.parametrize("mode", ["explore", "greedy", "random"])
@pytest.mark.parametrize(
    "args", [{}, {"noisy": True, "head": "c51", "dueling": True}, {"head": "qr"}, {"head": "iqn", "noisy": True}]
)
def test_forbidden_actions_are_never_taken(mode, args):
    """The mask holds in every mode; a row that permits no action still gets one."""
    algorithm = build_dqn(MASKED, **args)
    policy, generator = algorithm.build_agent().policy, torch.Generator().manual_seed(0)
    masks = tensor(list(itertools.product((0, 1), repeat=4)), dtype=torch.int8).repeat(40, 1)
    obs = {"position": torch.rand(len(masks), 3), "action_mask": masks}
    action = algorithm.act(policy, inputs_of(obs), {}, mode, generator).action
    permitted = masks.gather(-1, action[:, None])[:, 0].bool()
    assert (permitted | ~masks.any(-1)).all()


def test_targets_choose_permitted_actions():
    """The next action of a target is the best permitted one."""
    algorithm = build_dqn(MASKED, gamma=1.0)
    agent = algorithm.build_agent()
    constant_(agent.policy.advantage, [0.0, 0.0, 0.0, 0.0])
    constant_(agent.target.advantage, [1.0, 2.0, 3.0, 4.0])
    batch = make_batch(MASKED, 2)
    batch["next_obs", "action_mask"] = tensor([[0, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.int8)
    batch["reward"], batch["terminated"] = tensor([0.0, 0.0]), tensor([False, False])
    # double: the trained network prefers the first of the permitted actions
    assert algorithm.loss(agent, batch, {}, {}).metrics["Values/target"].item() == (2 + 1) / 2


@pytest.mark.parametrize(("double", "target"), [(True, 5.0), (False, 9.0)])
def test_double_q_learning_values_the_choice_of_the_trained_network(double, target):
    """By hand: double targets take the target network's value of the trained network's best action."""
    algorithm = build_dqn(double=double, gamma=0.5)
    agent = algorithm.build_agent()
    constant_(agent.policy.advantage, [0.0, 3.0, 1.0, 2.0])
    constant_(agent.target.advantage, [9.0, 5.0, 0.0, 0.0])
    batch = make_batch(samples=2)
    batch["action"], batch["reward"] = tensor([1, 2]), tensor([2.0, 2.0])
    batch["terminated"] = tensor([False, True])
    loss = algorithm.loss(agent, batch, {}, {})
    first = 2 + 0.5 * target
    assert loss.metrics["Values/target"].item() == (first + 2) / 2
    # errors: first target − 3 (Huber), and 2 − 1 = 1
    assert loss.value.item() == pytest.approx((abs(first - 3) - 0.5 + 0.5) / 2)
    assert loss.priority is None


def test_n_step_samples_bring_their_discount():
    """A key `discount` replaces γ (1 − terminated): a return that a truncation cut to k steps has γ^k."""
    algorithm = build_dqn(n_step=3, gamma=0.5)
    assert algorithm.data().sampler == NStep(3, 0.5)
    agent = algorithm.build_agent()
    constant_(agent.target.advantage, [8.0, 8.0, 8.0, 8.0])
    batch = make_batch(samples=2)
    batch["reward"], batch["discount"] = tensor([1.75, 1.5]), tensor([0.125, 0.25])
    assert algorithm.loss(agent, batch, {}, {}).metrics["Values/target"].item() == (1.75 + 1 + 1.5 + 2) / 2


@pytest.mark.parametrize("head", ["value", "c51", "qr", "iqn"])
def test_importance_weighs_the_loss_and_every_head_returns_priorities(head):
    """Priorities are detached and not negative; importance scales each sample's loss."""
    algorithm = build_dqn(head=head, prioritized=True)
    agent, batch = algorithm.build_agent(), make_batch()
    plain = algorithm.loss(agent, batch, {}, {})
    batch["importance"] = torch.full((6,), 0.5)
    loss = algorithm.loss(agent, batch, {}, {})
    assert loss.value.item() == pytest.approx(plain.value.item() / 2)
    assert loss.priority.shape == (6,) and (loss.priority >= 0).all() and not loss.priority.requires_grad


def test_dueling_streams():
    """Q = V + A − mean A, for the outputs of every head."""
    policy = build_dqn(dueling=True).build_agent().policy
    constant_(policy.advantage, [1.0, 2.0, 3.0, 6.0])
    constant_(policy.value, [10.0])
    assert policy(torch.rand(1, 3)).tolist() == [[8.0, 9.0, 10.0, 13.0]]


def test_values_of_distributional_heads():
    """C51's values are means over its atoms, QR's are means of the quantiles."""
    policy = build_dqn(head="c51", atoms=3, v_min=0.0, v_max=2.0).build_agent().policy
    logits = tensor([0.5, 0.25, 0.25]).log()
    constant_(policy.advantage, logits.repeat(4).tolist())
    assert policy(torch.rand(1, 3))[0].tolist() == pytest.approx([0.75] * 4)
    policy = build_dqn(head="qr", quantiles=2).build_agent().policy
    constant_(policy.advantage, [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 3.0, 5.0])
    assert policy(torch.rand(1, 3))[0].tolist() == [0.5, 1.5, 3.0, 4.0]


def test_iqn_represents_a_fraction_by_cosines():
    """By hand: features times relu(Σ_i cos(π i τ) w_i + b)."""
    embedding = FractionEmbedding(size=2, cosines=3)
    embedding.layer.weight.data.copy_(tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]))
    embedding.layer.bias.data.copy_(tensor([0.5, 0.0]))
    embedded = embedding(tensor([[2.0, 4.0]]), tensor([[0.0, 0.5, 1.0]]))
    # Cosines of τ = 0, ½, 1: (1, 1, 1), (1, 0, −1), (1, −1, 1).
    expected = [[2 * 6.5, 4 * 1], [2 * 0, 4 * 0], [2 * 2.5, 4 * 0]]
    torch.testing.assert_close(embedded[0], tensor(expected))


@pytest.mark.parametrize("args", [{}, {"dueling": True}, {"noisy": True, "hidden_sizes": (8, 8)}])
def test_iqn_draws_fractions_for_each_sample(args):
    """Outputs belong to their fractions, values are means over the midpoints, and the loss uses the phase's noise."""
    algorithm = build_dqn(head="iqn", **args)
    agent, batch = algorithm.build_agent(), make_batch()
    (phase,) = algorithm.phases(Step(0, 0.0))
    noise = phase.noise(torch.Size([6]), torch.Generator().manual_seed(0))
    assert {name: tuple(values.shape) for name, values in noise.items()} == {
        "fraction": (6, 3),
        "target_fraction": (6, 3),
    }
    output = agent.policy.outputs(batch["obs"], fraction=noise["fraction"])
    assert output.shape == (6, 4, 3)
    swapped = agent.policy.outputs(batch["obs"], fraction=noise["fraction"].flip(-1))
    torch.testing.assert_close(swapped, output.flip(-1))
    midpoints = tensor([1 / 6, 3 / 6, 5 / 6]).expand(6, 3)
    torch.testing.assert_close(
        agent.policy(batch["obs"]), agent.policy.outputs(batch["obs"], fraction=midpoints).mean(-1)
    )
    losses = [algorithm.loss(agent, batch, drawn, {}).value for drawn in (noise, noise, {})]
    assert losses[0] == losses[1] != losses[2]


def test_iqn_learns_a_distribution():
    """It learns the expectiles of rewards between 0 and 1, since the loss is quadratic for errors below 1."""
    torch.manual_seed(0)
    algorithm = build_dqn(head="iqn", quantiles=8, hidden_sizes=(16, 16))
    agent, batch = algorithm.build_agent(), make_batch(samples=32)
    batch["terminated"][:] = True
    optimizer, generator = torch.optim.Adam(agent.policy.parameters(), 1e-2), torch.Generator().manual_seed(0)
    for _ in range(250):
        batch["reward"] = torch.rand(32, generator=generator)
        optimizer.zero_grad()
        algorithm.loss(agent, batch, algorithm.fractions(torch.Size([32]), generator), {}).value.backward()
        optimizer.step()
    fraction = tensor([0.1, 0.3, 0.5, 0.7, 0.9]).expand(32, 5)
    with torch.no_grad():
        found = of_action(agent.policy.outputs(batch["obs"], fraction=fraction), batch["action"]).mean(0)
    torch.testing.assert_close(found, tensor([0.25, 0.396, 0.5, 0.604, 0.75]), atol=0.12, rtol=0)


def test_the_target_moves_in_every_kth_step():
    """Periodic copies, or steps of size tau."""
    algorithm = build_dqn(target_every=3, tau=0.5)
    updates = [[update.tau for update in algorithm.phases(Step(step, 0.0))[0].target_updates] for step in range(6)]
    assert updates == [[], [], [0.5], [], [], [0.5]]
    agent = algorithm.build_agent()
    assert not any(parameter.requires_grad for parameter in agent.target.parameters())
    assert torch.equal(agent.policy(make_batch()["obs"]), agent.target(make_batch()["obs"]))


def test_the_learning_rate_may_fall():
    """`final_learning_rate` is reached linearly."""
    algorithm = build_dqn(learning_rate=1e-3, final_learning_rate=0.0)
    assert algorithm.phases(Step(0, 0.75))[0].lr_scale == pytest.approx(0.25)


def test_pictures_and_vectors():
    """A Q-network reads pictures with a CNN, with LayerNorm if required."""
    space = spaces.Dict({"grid": spaces.Box(0, 1, (10, 10, 4), np.uint8), "speed": VECTOR})
    for args in ({}, {"layer_norm": True, "dueling": True, "hidden_sizes": (8, 8)}, {"hidden_sizes": ()}):
        policy = build_dqn(space, cnn_features=16, **args).build_agent().policy
        obs = {"grid": torch.zeros(2, 5, 10, 10, 4, dtype=torch.uint8), "speed": torch.rand(2, 5, 3)}
        assert policy(obs, batch_dims=2).shape == (2, 5, 4)


@pytest.mark.parametrize(
    ("args", "named"), [({"v_min": 1.0, "v_max": 1.0}, "v_min=1"), ({"noisy": True, "layer_norm": True}, "layer_norm")]
)
def test_arguments_that_do_not_fit_together(args, named):
    """Arguments that exclude each other are refused."""
    with pytest.raises(ValidationError, match=named):
        DQNArgs(name="dqn", **args)


@pytest.mark.parametrize("head", ["value", "c51", "qr"])
def test_noise_is_shared_by_the_batch(head):
    """With noise, the mean of the gradients of two halves of a batch is the gradient of the whole."""
    algorithm = build_dqn(head=head, **EVERYTHING)
    agent, batch = algorithm.build_agent(), make_batch()
    noise = algorithm.noise(torch.Generator().manual_seed(0))

    def gradient(rows):
        """Return the gradient of some rows of the batch."""
        part = batch[rows].update({"sample_weight": torch.full((len(batch[rows]),), 1 / len(batch[rows]))})
        loss = algorithm.loss(agent, part, noise, {})
        found = torch.autograd.grad(loss.value, list(agent.policy.parameters()))
        return torch.cat([each.flatten() for each in found])

    halves = [gradient(slice(rank, None, 2)) for rank in range(2)]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, gradient(slice(None)))
    assert gradient(slice(None)).isfinite().all()
