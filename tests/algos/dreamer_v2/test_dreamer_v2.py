"""Test states, gradients and spaces of the first two Dreamers."""

import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sheeprl.algos.base import PolicyInput, Step
from sheeprl.algos.dreamer_v1.args import DreamerV1Args
from sheeprl.algos.dreamer_v1.dreamer_v1 import DreamerV1
from sheeprl.algos.dreamer_v2.args import DreamerV2Args
from sheeprl.algos.dreamer_v2.dreamer_v2 import DreamerV2
from sheeprl.algos.dreamer_v2.loss import with_free_nats
from sheeprl.models.rssm import Observed
from tests.helpers.algorithms import Small
from tests.helpers.dreamer_rows import CASES, ROWS, N, make_batch, random_values
from tests.helpers.thread_ranks import on_ranks

SMALL = {"sequence_length": 6, "horizon": 3, "imag_last": 4, "deter": 16, "hidden": 8, "units": 8, "layers": 2}
KINDS = [("v1", "continuous"), *(("v2", case) for case in CASES)]


def build(kind="v2", case="continuous", **args):
    """Return a small algorithm and its agent."""
    torch.manual_seed(0)
    if kind == "v1":
        algorithm = DreamerV1(DreamerV1Args(name="dreamer_v1", stoch=5, **SMALL | args), CASES[case])
    else:
        algorithm = DreamerV2(DreamerV2Args(name="dreamer_v2", classes=4, categoricals=3, **SMALL | args), CASES[case])
    return algorithm, algorithm.build_agent()


def take(algorithm, agent, batch, noise=None):
    """Return the losses of both phases, and the noise that they used."""
    phases, generator, carry, losses = algorithm.phases(Step(0, 0.0)), torch.Generator().manual_seed(0), {}, []
    noise = [phase.noise(torch.Size([N]), generator) for phase in phases] if noise is None else noise
    for phase, drawn in zip(phases, noise, strict=True):
        losses.append(phase.loss(agent, batch, drawn, carry))
        carry |= losses[-1].carry
    return losses, noise


def parameters_of(algorithm, agent, group):
    """Return the parameters of a group."""
    return [part for name in algorithm.optimizers()[group].modules for part in agent.get_submodule(name).parameters()]


@pytest.mark.parametrize(("kind", "case"), KINDS)
def test_every_space_is_played_and_learned(kind, case):
    """Actions are elements of the space, and each group's phase gives each of its parameters a gradient."""
    algorithm, agent = build(kind, case)
    inputs = PolicyInput(random_values(algorithm.spaces.observation, N), torch.zeros(N), torch.ones(N) > 0)
    state, generator, space = {}, torch.Generator().manual_seed(0), algorithm.spaces.action
    for mode in ("random", "explore", "greedy"):
        with torch.no_grad():
            output = algorithm.act(agent.policy, inputs, state, mode, generator)
        state = output.rnn_state
        assert all(space.contains(np.asarray(action, space.dtype)) for action in output.action)
    (model, behavior), _ = take(algorithm, agent, make_batch(algorithm))
    for loss, group in ((model, "world_model"), (behavior, "actor"), (behavior, "critic")):
        parameters = parameters_of(algorithm, agent, group)
        gradients = torch.autograd.grad(loss.value, parameters, retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in gradients) and any(each.any() for each in gradients)


@pytest.mark.parametrize(("kind", "case"), KINDS)
def test_the_actor_learns_through_the_dynamics_only_with_real_numbers(kind, case):
    """Returns have a gradient to the actor, through rewards of imagined states, unless actions are choices."""
    algorithm, agent = build(kind, case, **({"entropy_coef": 0.0} if kind == "v2" else {}))
    batch = make_batch(algorithm)
    (_, behavior), _ = take(algorithm, agent, batch)
    by_reward = torch.autograd.grad(behavior.value, list(agent.reward.parameters()), allow_unused=True)
    is_continuous = isinstance(algorithm.spaces.action, spaces.Box)
    assert all((each is not None and each.any()) == is_continuous for each in by_reward)


def test_the_actors_gradient_is_the_slope_of_the_imagined_return():
    """DreamerV1's gradient through dynamics and actions is that of finite differences for fixed inputs of the actor."""
    algorithm, agent = build("v1", continue_scale=0.0)
    batch = make_batch(algorithm)
    (model, _), noise = take(algorithm, agent, batch)
    weight = batch["sample_weight"]

    def loss():
        """Return the actor's loss: minus the mean of the imagined returns, discounted from the start."""
        learned = algorithm.behavior_loss(agent, algorithm.task(agent), model.carry, noise[1], weight)
        return learned.metrics["Loss/policy_loss"], learned.value

    actor = parameters_of(algorithm, agent, "actor")
    inputs = []
    recording = agent.policy.actor.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    gradients = torch.autograd.grad(loss()[1], actor)
    recording.remove()
    given = itertools.cycle(inputs)
    agent.policy.actor.register_forward_pre_hook(lambda _, args: (next(given),))
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(part.shape, generator=generator) for part in actor]
    slope = sum(float((one * other).sum()) for one, other in zip(gradients, directions, strict=True))
    values = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            for part, direction in zip(actor, directions, strict=True):
                part.add_(direction, alpha=sign * 1e-3)
            values.append(float(loss()[0]))
            for part, direction in zip(actor, directions, strict=True):
                part.sub_(direction, alpha=sign * 1e-3)
    assert slope == pytest.approx((values[0] - values[1]) / 2e-3, rel=0.01)


@pytest.mark.parametrize(("kind", "case"), KINDS)
def test_losses_of_actor_and_critic_are_separate(kind, case):
    """The target critic, not the critic, gives the values of returns, and the critic's states are constants."""
    algorithm, agent = build(kind, case)
    batch = make_batch(algorithm)
    (_, before), _ = take(algorithm, agent, batch)
    first = torch.autograd.grad(before.value, parameters_of(algorithm, agent, "actor"))
    with torch.no_grad():
        for parameter in agent.critic.parameters():
            parameter.add_(1.0)
    (_, after), _ = take(algorithm, agent, batch)
    torch.testing.assert_close(torch.autograd.grad(after.value, parameters_of(algorithm, agent, "actor")), first)
    assert after.value != before.value


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_two_ranks_equal_one(kind):
    """The mean of the gradients of two halves of a batch is the gradient of the whole."""
    algorithm, agent = build(kind)
    batch = make_batch(algorithm)
    groups = [parameters_of(algorithm, agent, name) for name in ("world_model", "actor", "critic")]

    def gradients(losses):
        """Return the gradients of all groups."""
        values = (losses[0].value, losses[1].value, losses[1].value)
        return [
            each
            for value, group in zip(values, groups, strict=True)
            for each in torch.autograd.grad(value, group, retain_graph=True)
        ]

    losses, noise = take(algorithm, agent, batch)

    def part(rank):
        """Return one rank's gradients."""
        half = batch.apply(lambda values: values[:, rank::2] if values.dim() > 1 else torch.full((2,), 1 / 2))
        drawn = [{name: values[rank::2] for name, values in one.items()} for one in noise]
        return gradients(take(algorithm, agent, half, drawn)[0])

    one, two = on_ranks(part)
    means = [(a + b) / 2 for a, b in zip(one, two, strict=True)]
    torch.testing.assert_close(means, gradients(losses), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_an_episode_forgets_what_came_before(kind):
    """States after the end of an episode depend neither on earlier rows nor on the stored state."""
    algorithm, agent = build(kind)
    batch = make_batch(algorithm)
    (first, _), noise = take(algorithm, agent, batch)
    other = batch.clone()
    other["deter"][0] += 1.0
    other["obs"][:4] += 1.0
    (second, _), _ = take(algorithm, agent, other, noise)
    torch.testing.assert_close(first.write["deter"][3:, 0], second.write["deter"][3:, 0])
    assert not torch.allclose(first.write["deter"][3:, 2], second.write["deter"][3:, 2])
    assert first.write["stoch"].shape[:2] == (ROWS - 1, N)  # all but the context


def test_kl_balance():
    """DreamerV2 weights the gradients of both sides of the KL divergence; DreamerV1 trains both alike."""
    for kind, of_prior in (("v1", 1.0), ("v2", 0.8)):
        algorithm, _ = build(kind)
        posterior, prior = (torch.randn(3, 2, algorithm.latents.outputs, requires_grad=True) for _ in range(2))
        plain = algorithm.latents.kl(posterior, prior)
        divergence = algorithm.divergence(Observed(torch.empty(0), torch.empty(0), posterior, prior))
        torch.testing.assert_close(divergence, plain)
        (by_posterior, by_prior), expected = (
            torch.autograd.grad(each.sum(), (posterior, prior)) for each in (divergence, plain)
        )
        torch.testing.assert_close(by_prior, of_prior * expected[1])
        torch.testing.assert_close(by_posterior, (1.0 if kind == "v1" else 0.2) * expected[0])


@pytest.mark.parametrize(("free", "trained"), [(2.9, True), (3.1, False)])
def test_free_nats_hold_for_the_mean_of_all_ranks(free, trained):
    """Divergences are trained if the mean of all ranks, here 3, exceeds the free nats, also of a rank below."""
    kl, weight = torch.tensor([[0.0, 6.0], [2.0, 4.0]]), torch.tensor([0.5, 0.5])
    expected = kl if trained else torch.full_like(kl, free)
    torch.testing.assert_close(with_free_nats(kl, free, weight), expected)
    for rank, part in enumerate(on_ranks(lambda rank: with_free_nats(kl[:, rank : rank + 1], free, torch.ones(1)))):
        torch.testing.assert_close(part, expected[:, rank : rank + 1])
    assert with_free_nats(kl.requires_grad_(), free, weight).requires_grad
    (gradient,) = torch.autograd.grad(with_free_nats(kl, free, weight).sum(), kl)
    assert (gradient == float(trained)).all()


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_the_kl_loss_is_not_below_the_free_nats(kind):
    """Below the free nats nothing trains the KL divergence."""
    algorithm, agent = build(kind, free_nats=1e3)
    (model, _), _ = take(algorithm, agent, make_batch(algorithm))
    assert model.metrics["Loss/kl"].item() == pytest.approx(1e3)
    assert model.metrics["State/kl"].item() < 100


def test_the_target_critic_is_copied_every_hundredth_step():
    """DreamerV1 copies it in every step, so its values are the critic's own."""
    for kind, expected in (("v1", 200), ("v2", 2)):
        algorithm, _ = build(kind)
        updates = [phase.target_updates for step in range(200) for phase in algorithm.phases(Step(step, 0.0))]
        assert sum(map(len, updates)) == expected


def test_without_a_predicted_continuation_gamma_discounts():
    """`continue_scale=0` uses the discount factor alone."""
    algorithm, agent = build(continue_scale=0.0, gamma=0.5)
    assert (algorithm.continues(agent, torch.randn(2, 3, agent.policy.rssm.size)) == 0.5).all()
    (model, _), _ = take(algorithm, agent, make_batch(algorithm))
    assert "Loss/continue" not in model.metrics


def test_sequences_within_an_episode(tmp_path):
    """A run trains on sequences that are parts of one episode."""
    settings = ["run.mode=coupled", "run.total_steps=120", "algo.cross_episodes=false"]
    assert Small("dreamer_v2").run(tmp_path / "run", *settings).gradient_steps > 0
    sampler = DreamerV2Args(name="dreamer_v2", cross_episodes=False).data().sampler
    assert not sampler.crosses and sampler.length == 50
