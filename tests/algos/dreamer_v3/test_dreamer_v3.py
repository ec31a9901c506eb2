"""Test DreamerV3's states, gradients and spaces."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pydantic import ValidationError
from torch.fx.experimental.proxy_tensor import make_fx

from sheeprl.algos.base import PolicyInput, Spaces, Step
from sheeprl.algos.dreamer.dreamer import after_context
from sheeprl.algos.dreamer.imagination import imagine
from sheeprl.algos.dreamer_v3.args import DreamerV3Args
from sheeprl.algos.dreamer_v3.dreamer_v3 import DreamerV3
from sheeprl.models.hot import hot_functions
from sheeprl.models.latents import mixed_logprob
from tests.helpers.dreamer_rows import CASES, ROWS, VECTOR, N, make_batch, random_values
from tests.helpers.thread_ranks import on_ranks

SMALL = {
    "sequence_length": 6, "horizon": 3, "imag_last": 4, "deter": 16, "hidden": 8, "classes": 4, "categoricals": 3,
    "units": 8, "depth": 2, "blocks": 4,
}  # fmt: skip


def build(made_for=CASES["continuous"], **args):
    """Return a small DreamerV3 and its agent, whose heads aren't 0."""
    torch.manual_seed(0)
    algorithm = DreamerV3(DreamerV3Args(name="dreamer_v3", **SMALL | args), made_for)
    agent = algorithm.build_agent()
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return algorithm, agent


def compute(algorithm, agent, batch, noise=None):
    """Return the loss, and the noise that it used."""
    (phase,) = algorithm.phases(Step(0, 0.0))
    noise = phase.noise(torch.Size([N]), torch.Generator().manual_seed(0)) if noise is None else noise
    return phase.loss(agent, batch, noise, {}), noise


@pytest.mark.parametrize("case", CASES)
def test_every_space_is_played_and_learned(case):
    """Actions are elements of the space, and each parameter of a group gets a gradient."""
    algorithm, agent = build(CASES[case])
    inputs = PolicyInput(random_values(algorithm.spaces.observation, N), torch.zeros(N), torch.ones(N) > 0)
    state, generator = {}, torch.Generator().manual_seed(0)
    for mode in ("random", "explore", "greedy"):
        with torch.no_grad():
            output = algorithm.act(agent.policy, inputs, state, mode, generator)
        state = output.rnn_state
        for action in output.action:
            kind = algorithm.spaces.action
            clipped = action.clamp(-1, 1) if isinstance(kind, spaces.Box) else action
            assert kind.contains(np.asarray(clipped, kind.dtype))
    assert output.extras["deter"].shape == (N, 16) and output.extras["stoch"].dtype == torch.uint8
    loss, _ = compute(algorithm, agent, make_batch(algorithm))
    trained = dict(agent.named_parameters())
    groups = [name for spec in algorithm.optimizers().values() for name in spec.modules]
    names = [name for name in trained if any(name.startswith(f"{group}.") for group in groups)]
    assert len(names) == sum(parameter.requires_grad for parameter in trained.values())
    gradients = torch.autograd.grad(loss.value, [trained[name] for name in names])
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def behavior_gradients(algorithm, agent, **args):
    """Return which of the agent's parts get a gradient from the losses of actor and critic."""
    batch = make_batch(algorithm)
    _, noise = compute(algorithm, agent, batch)
    rows = after_context(batch.select("obs", "reward", "terminated", "truncated"))
    observed = algorithm.observe(agent.policy, batch, rows, noise)
    weight, starts = batch["sample_weight"], algorithm.last_rows(observed.detached())
    learned = algorithm.behavior_loss(agent, algorithm.task(agent), starts, noise, weight)
    replayed = algorithm.replay_value_loss(agent, observed.features, rows, learned.returns[0], weight)
    loss = learned.value + algorithm.args.replay_value_scale * replayed
    parts = ("policy.encoder", "policy.rssm", "policy.actor", "decoder", "reward", "continuation", "critic")
    found = set()
    for name in parts:
        parameters = [parameter for parameter in agent.get_submodule(name).parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        if any(gradient is not None and gradient.any() for gradient in gradients):
            found.add(name)
    return found


def test_behavior_trains_the_world_model_by_the_replayed_values_only():
    """Imagination passes no gradient: neither through the dynamics, nor through rewards or continuations."""
    algorithm, agent = build(replay_value_scale=0.0)
    assert behavior_gradients(algorithm, agent) == {"policy.actor", "critic"}
    algorithm, agent = build(replay_value_scale=0.3)
    assert behavior_gradients(algorithm, agent) == {"policy.encoder", "policy.rssm", "policy.actor", "critic"}


def test_the_actor_gets_no_gradient_through_the_dynamics():
    """The actor's gradient is that of its log probabilities, with states, actions and advantages as constants."""
    algorithm, agent = build(entropy_coef=0.0)
    batch = make_batch(algorithm)
    loss, noise = compute(algorithm, agent, batch)
    actor = list(agent.policy.actor.parameters())
    gradients = torch.autograd.grad(loss.value, actor)
    rows = after_context(batch.select("obs", "reward", "terminated", "truncated"))
    with torch.no_grad():
        observed = algorithm.observe(agent.policy, batch, rows, noise)
        starts = algorithm.last_rows(observed.detached())
        drawn = noise["state"], noise["action"]
        imagined = imagine(agent.policy.rssm, agent.policy.actor, starts["deter"], starts["stoch"], *drawn)
        states, value = imagined.states, agent.two_hot.mean(agent.critic(imagined.states))
        continues = agent.continuation(states).squeeze(-1).sigmoid()
        reward, returns = agent.two_hot.mean(agent.reward(states)), value[-1]
        advantages = []
        for step in reversed(range(SMALL["horizon"])):
            mixed = 0.05 * value[step + 1] + 0.95 * returns
            returns = reward[step + 1] + continues[step + 1] * mixed
            advantages.insert(0, returns - value[step])
        high, low = loss.buffers["returns.high"], loss.buffers["returns.low"]
        gain = continues.cumprod(0)[:-1] / algorithm.args.gamma * torch.stack(advantages) / (high - low).clamp_min(1.0)
    normal = agent.policy.actor(states[:-1])
    mean, deviation = normal.chunk(2, -1)[0], normal.chunk(2, -1)[1].exp()
    logprob = torch.distributions.Normal(mean, deviation).log_prob(imagined.actions[:-1]).sum(-1)
    expected = torch.autograd.grad(-(gain * logprob).mean(), actor)
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-6)


def test_the_replayed_states_are_those_of_the_player():
    """Observing stored rows infers the states that the player stored, across the end of an episode."""
    algorithm, agent = build(CASES["discrete, pixels"], uniform_mix=0.0)
    with torch.no_grad():  # certain posteriors: the state doesn't depend on the noise
        agent.policy.rssm.posterior.weight.mul_(1e6)
    batch, state, generator = make_batch(algorithm), {}, torch.Generator().manual_seed(0)
    batch["is_first"][0] = True
    for row in range(ROWS):
        inputs = PolicyInput(batch["obs"][row], batch["reward"][row], batch["is_first"][row])
        with torch.no_grad():
            output = algorithm.act(agent.policy, inputs, state, "explore", generator)
        state = output.rnn_state
        for name, values in {**output.extras, "action": output.action}.items():
            batch[name][row] = values
    loss, _ = compute(algorithm, agent, batch)
    for name in ("deter", "stoch"):
        torch.testing.assert_close(loss.write[name], batch[name][1:], rtol=1e-4, atol=1e-5)


def test_the_first_row_of_an_episode_forgets_what_came_before():
    """States after the end of an episode depend neither on earlier rows nor on the stored state."""
    algorithm, agent = build()
    batch = make_batch(algorithm)
    first, noise = compute(algorithm, agent, batch)
    other = batch.clone()
    other["deter"][0] += 1.0
    other["obs"][:4] += 1.0
    other["action"][:4] += 1.0
    second, _ = compute(algorithm, agent, other, noise)
    torch.testing.assert_close(first.write["deter"][3:, 0], second.write["deter"][3:, 0])
    assert not torch.allclose(first.write["deter"][3:, 2], second.write["deter"][3:, 2])
    assert len(first.write["deter"]) == ROWS - 1  # the context has no new state


def test_percentiles_of_the_returns_are_buffers():
    """A step moves the percentiles by their rate, and returns of small range aren't scaled up."""
    algorithm, agent = build(return_rate=1.0)
    loss, _ = compute(algorithm, agent, make_batch(algorithm))
    assert set(loss.buffers) == {"returns.low", "returns.high"}
    assert loss.buffers["returns.low"] < loss.buffers["returns.high"]
    assert set(agent.state_dict()) > {"returns.low", "returns.high"}


def test_two_ranks_equal_one():
    """The mean gradient of two halves of a batch is that of the whole, with percentiles of all returns."""
    algorithm, agent = build(return_rate=1.0)
    with torch.no_grad():
        agent.critic[-1].weight.mul_(30.0)  # returns whose range is above 1
    batch = make_batch(algorithm)
    whole, noise = compute(algorithm, agent, batch)
    assert whole.buffers["returns.high"] - whole.buffers["returns.low"] > 1.0
    parameters = [parameter for parameter in agent.parameters() if parameter.requires_grad]

    def part(rank):
        """Return one rank's gradients and buffers."""
        half = batch.apply(lambda values: values[:, rank::2] if values.dim() > 1 else torch.full((2,), 1 / 2))
        loss, _ = compute(algorithm, agent, half, {name: values[rank::2] for name, values in noise.items()})
        return torch.autograd.grad(loss.value, parameters), loss.buffers

    (one, buffers), (two, _) = on_ranks(part)
    torch.testing.assert_close(buffers, whole.buffers, rtol=1e-5, atol=1e-5)
    means = [(a + b) / 2 for a, b in zip(one, two, strict=True)]
    torch.testing.assert_close(means, list(torch.autograd.grad(whole.value, parameters)), rtol=1e-3, atol=1e-5)


def test_a_mask_forbids_actions_of_the_player():
    """Forbidden choices are never played, though the policy has a uniform part."""
    observation = spaces.Dict({"x": VECTOR, "action_mask": spaces.Box(0, 1, (3,), np.int8)})
    algorithm, agent = build(Spaces(observation, spaces.Discrete(3)))
    mask = torch.tensor([[1, 0, 1], [0, 1, 0]], dtype=torch.int8).repeat(50, 1)
    inputs = PolicyInput({"x": torch.randn(100, 3), "action_mask": mask}, torch.zeros(100), torch.ones(100) > 0)
    for mode in ("random", "explore", "greedy"):
        action = algorithm.act(agent.policy, inputs, {}, mode, torch.Generator().manual_seed(0)).action
        assert mask.gather(1, action.unsqueeze(-1)).all()


def test_log_probabilities_have_a_uniform_part():
    """The actor's choices have at least 1 % / n."""
    _, agent = build(CASES["multi-discrete, Dict"])
    output = agent.policy.actor.head.parameters(torch.tensor([[50.0, 0.0, 1.0, 2.0, 90.0]]))
    parts = [mixed_logprob(torch.tensor([[50.0, 0.0]]), 0.01), mixed_logprob(torch.tensor([[1.0, 2.0, 90.0]]), 0.01)]
    torch.testing.assert_close(output, torch.cat(parts, -1))
    assert output.exp().min() > 0.003


def test_the_learning_rate_warms_up():
    """It rises linearly; the slow critic follows in every step."""
    algorithm, _ = build(warmup=4)
    assert [algorithm.phases(Step(step, 0.0))[0].lr_scale for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert algorithm.phases(Step(0, 0.0))[0].target_updates[0].tau == 0.02


def test_widths():
    """A size sets all widths; each can be set by hand, and must divide into the blocks."""
    args = DreamerV3Args(name="dreamer_v3", size="12M", deter=100)
    assert (args.widths.deter, args.widths.classes, args.widths.units) == (100, 16, 256)
    assert list(args.space_mistakes(CASES["continuous"])) == ["algo.deter=100: must be a multiple of algo.blocks=8"]
    odd = DreamerV3Args(name="dreamer_v3", depth=3)
    assert not list(odd.space_mistakes(CASES["continuous"]))
    (line,) = odd.space_mistakes(CASES["discrete, pixels"])
    assert line.startswith("algo.depth=3: 4 * algo.depth must be a multiple")
    with pytest.raises(ValueError, match=r"at most algo.sequence_length=64"):
        DreamerV3Args(name="dreamer_v3", imag_last=65)


def test_a_run_with_action_masks_is_warned():
    """Imagined actions have no mask."""
    masked = spaces.Dict({"action_mask": spaces.MultiBinary(3), "x": VECTOR})
    args = DreamerV3Args(name="dreamer_v3")
    (line,) = args.space_warnings(Spaces(masked, spaces.Discrete(3)))
    assert line.startswith("env.id: action_mask restricts played actions, but not imagined ones")
    assert not list(args.space_warnings(CASES["discrete, pixels"]))


def test_discounts_and_probabilities_keep_their_digits_in_mixed_precision():
    """The predicted discount, rewards and log probabilities are float32 numbers, whatever the networks compute in."""
    algorithm, agent = build(CASES["discrete, pixels"])
    states = torch.randn(50, agent.policy.rssm.size)
    with torch.no_grad():
        agent.continuation[-1].weight.zero_()
        agent.continuation[-1].bias.fill_(5.8)  # σ(5.8) = 0.99698
        with torch.autocast("cpu", torch.bfloat16):
            continues, reward = algorithm.continues(agent, states), algorithm.predicted_reward(agent, states)
            parameters = agent.policy.actor(states)
            logprob = algorithm.latents.logprob(agent.policy.rssm.prior(states[:, : agent.policy.rssm.cell.size]))
    assert {each.dtype for each in (continues, reward, parameters, logprob)} == {torch.float32}
    assert continues.tolist() == pytest.approx([0.99698] * 50, abs=2e-4)
    torch.testing.assert_close(logprob.exp().sum(-1), torch.ones_like(logprob[..., 0]))


@pytest.mark.parametrize("horizon", [0.5, 1.0])
def test_a_discount_factor_is_positive(horizon):
    """An effective horizon of one step or less is refused."""
    with pytest.raises(ValidationError, match="effective_horizon"):
        DreamerV3Args(name="dreamer_v3", effective_horizon=horizon)


def test_hot_functions_change_nothing():
    """Loss and gradients with compiled steps equal those without; the same functions are compiled in each step."""
    algorithm, agent = build()
    batch = make_batch(algorithm)
    loss, noise = compute(algorithm, agent, batch)
    functions = []

    def compiler(function, examples):
        """Trace the function, as compilers do."""
        functions.append(function)
        with torch.no_grad():
            graph = make_fx(function, tracing_mode="fake")(*(each.detach() for each in examples))
        return lambda inputs: graph(*inputs)

    with hot_functions(compiler):
        others = [compute(algorithm, agent, batch, noise)[0] for _ in range(2)]
    assert functions[:3] == functions[3:] and len(set(functions)) == 3
    parameters = [each for each in agent.parameters() if each.requires_grad]
    expected = torch.autograd.grad(loss.value, parameters, allow_unused=True)
    for other in others:
        torch.testing.assert_close(other.value, loss.value)
        torch.testing.assert_close(torch.autograd.grad(other.value, parameters, allow_unused=True), expected)
