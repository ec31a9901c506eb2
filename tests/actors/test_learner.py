"""Compare one rank's learner with the same gradient steps written in plain Torch."""

import copy
import io
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from lightning_fabric import Fabric
from torch import nn
from torch.distributions import Categorical, Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from sheeprl.actors import learner as learner_module
from sheeprl.actors.learner import Learner, NonFiniteError
from sheeprl.algos.base import Algorithm, Loss, OptimizerSpec, Phase, PolicyOutput, Spaces
from sheeprl.algos.ppo.ppo import PPO
from sheeprl.config import defaults
from sheeprl.config.loading import validate
from sheeprl.learning.batches import join_parts
from sheeprl.learning.flat_parameters import MovedParameterError
from sheeprl.utils.errors import AlgorithmError

OBS = spaces.Box(-1.0, 1.0, (3,))


@pytest.fixture(scope="module")
def fabric():
    """Return a Fabric on the CPU."""
    made = Fabric(accelerator="cpu", devices=1)
    made.launch()
    return made


def make_learner(fabric, algo, action, seed=0, compile=False, **args):
    """Return a learner of an algorithm."""
    tree = {
        "algo": {"name": algo, **args},
        "env": {"id": "none"},
        "run": {"seed": seed},
        "trainer": {"threads": 1, "compile": compile},
    }
    return Learner(defaults.fill_in(validate(tree)), Spaces(OBS, action), fabric)


def make_ppo(fabric, action=None, **args):
    """Return a PPO learner."""
    defaults = {"hidden_sizes": [8], "rollout_steps": 5, "batch_size": 10, "epochs": 1}
    return make_learner(fabric, "ppo", action or spaces.Discrete(3), **{**defaults, **args})


def make_sac(fabric, **args):
    """Return a SAC learner."""
    defaults = {
        "hidden_sizes": [8],
        "batch_size": 16,
        "tau": 0.1,
        "actor_lr": 1e-2,
        "critic_lr": 2e-2,
        "alpha_lr": 3e-2,
    }
    return make_learner(fabric, "sac", spaces.Box(-1.0, 1.0, (2,)), **{**defaults, **args})


def rollout(seed=0, steps=5, envs=2, ends=(), continuous=False):
    """Return a rollout block `[steps + 1, envs]`; `ends` has the (row, env) of truncated end rows."""
    rng = np.random.default_rng(seed)
    truncated = np.zeros((steps + 1, envs), np.bool_)
    for end in ends:
        truncated[end] = True
    shape = (steps + 1, envs)
    return {
        "obs": rng.uniform(-1, 1, (*shape, 3)).astype(np.float32),
        "action": rng.normal(size=(*shape, 2)).astype(np.float32) if continuous else rng.integers(0, 3, shape),
        "logprob": np.log(rng.uniform(0.1, 0.9, shape)).astype(np.float32),
        "reward": rng.normal(size=shape).astype(np.float32),
        "terminated": np.zeros(shape, np.bool_),
        "truncated": truncated,
        "is_first": np.roll(truncated, 1, 0),
    }


def transitions(seed=0, batches=1, size=16):
    """Return a block of random transitions."""
    rng = np.random.default_rng(seed)
    shape = (batches, size)
    return {
        "obs": rng.uniform(-1, 1, (*shape, 3)).astype(np.float32),
        "next_obs": rng.uniform(-1, 1, (*shape, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (*shape, 2)).astype(np.float32),
        "reward": rng.normal(size=shape).astype(np.float32),
        "terminated": rng.random(shape) < 0.3,
        "truncated": rng.random(shape) < 0.3,
        "index": rng.integers(0, 100, shape),
    }


def parameters_of(agent):
    """Return copies of the parameters."""
    return {name: values.detach().clone() for name, values in agent.state_dict().items()}


def assert_close(agent, reference):
    """Check that parameters are close to the reference's."""
    expected = reference.state_dict()
    for name, values in agent.state_dict().items():
        torch.testing.assert_close(
            values, expected[name], rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
        )


def assert_same(agent, expected):
    """Check that the state is bit-identical."""
    for name, values in agent.state_dict().items():
        assert torch.equal(values, expected[name]), name


# ------------------------------------------------------------------------------------------------------- PPO


def reference_advantages(value, block, gamma, gae_lambda):
    """Return the advantages of rows with an action, by (row, env); truncated ends bootstrap."""
    reward, last = block["reward"], block["truncated"]
    advantages = {}
    for env in range(reward.shape[1]):
        for t in reversed(range(len(reward) - 1)):
            if not last[t, env]:
                delta = reward[t + 1, env] + gamma * value[t + 1, env] - value[t, env]
                after = 0.0 if last[t + 1, env] else advantages.get((t + 1, env), 0.0)
                advantages[t, env] = delta + gamma * gae_lambda * after
    return advantages


def policy_of(agent, obs):
    """Return the policy's distribution as a Torch distribution."""
    output = agent.policy.network(obs)
    if not agent.policy.actions.is_continuous:
        return Categorical(logits=output)
    return Independent(Normal(output, agent.policy.log_std.exp()), 1)


def reference_ppo_step(agent, block, progress=0.0, epochs=1):
    """Take steps with one minibatch of the rows with an action: gamma 0.9, lambda 0.8, clip 0.2, annealed."""
    value = agent.critic.network(torch.from_numpy(block["obs"])).detach().squeeze(-1).numpy()
    advantages = reference_advantages(value, block, 0.9, 0.8)
    rows, envs = np.array(list(advantages)).T
    obs, action, old = (torch.from_numpy(block[name][rows, envs]) for name in ("obs", "action", "logprob"))
    advantage = torch.tensor(list(advantages.values()), dtype=torch.float32)
    returns = advantage + torch.from_numpy(value[rows, envs])
    standardized = (advantage - advantage.mean()) / advantage.std()
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-2 * (1 - progress), eps=1e-5)
    clip = 0.2 * (1 - progress)
    for _ in range(epochs):
        distribution = policy_of(agent, obs)
        ratio = (distribution.log_prob(action) - old).exp()
        surrogate = torch.min(ratio * standardized, ratio.clamp(1 - clip, 1 + clip) * standardized).mean()
        value_error = (agent.critic.network(obs).squeeze(-1) - returns).square().mean()
        loss = -surrogate + 0.7 * value_error - 0.05 * distribution.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(agent.parameters(), 0.3)
        assert norm > 0.3  # otherwise clipping has no effect
        optimizer.step()


SETTINGS = {
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "learning_rate": 1e-2,
    "value_coef": 0.7,
    "entropy_coef": 0.05,
    "max_grad_norm": 0.3,
    "anneal": True,
}


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("ends", [(), ((2, 0),), ((0, 0), (4, 1), (2, 1))])
@pytest.mark.parametrize("progress", [0.0, 0.75])
def test_ppo_steps(fabric, continuous, ends, progress):
    """PPO's steps equal the reference's."""
    # With ends the minibatch has masked rows, which the reference leaves out.
    action = spaces.Box(-1.0, 1.0, (2,)) if continuous else None
    learner = make_ppo(fabric, action, epochs=3, **SETTINGS)
    reference = copy.deepcopy(learner.agent)
    block = rollout(ends=ends, continuous=continuous)
    before = parameters_of(learner.agent)
    info, writes = learner.update(3, progress, None, block)
    reference_ppo_step(reference, block, progress, epochs=3)
    assert_close(learner.agent, reference)
    assert any(not torch.allclose(values, before[name]) for name, values in learner.agent.state_dict().items())
    assert info.gradient_steps == 3 and writes == []


def spy_on_batches(learner):
    """Return a list that receives the batches of the loss, in order."""
    seen = []
    loss = learner.algorithm.loss

    def recorded(agent, batch, noise, carry):
        """Store the batch and return the loss."""
        seen.append(batch.clone())
        return loss(agent, batch, noise, carry)

    learner.algorithm.loss = recorded
    return seen


def test_minibatches_of_an_epoch_hold_every_action_once(fabric):
    """The minibatches of an epoch contain every action once."""
    learner = make_ppo(fabric, batch_size=4, epochs=2)
    seen = spy_on_batches(learner)
    block = rollout(ends=[(1, 0), (4, 1)])
    learner.update(6, 0.0, None, block)  # 10 rows in minibatches of 4
    valid = sorted(block["obs"][:-1][~block["truncated"][:-1]][:, 0].tolist())
    orders = []
    for epoch in (seen[:3], seen[3:]):
        played = [batch["obs"][batch["sample_weight"] > 0][:, 0].tolist() for batch in epoch]
        orders.append([first for batch in played for first in batch])
        assert sorted(orders[-1]) == valid
        assert all(len(batch) in (2, 3) for batch in played)
    assert orders[0] != orders[1]
    for batch in seen:
        counted = batch["sample_weight"] > 0
        assert batch.batch_size == (4,)  # all have the same shape
        assert batch["sample_weight"].sum().item() == pytest.approx(1)
        assert len(batch["sample_weight"][counted].unique()) == 1
        advantage = batch["advantage"][counted]
        assert advantage.mean().item() == pytest.approx(0, abs=1e-5)
        assert advantage.std().item() == pytest.approx(1, abs=1e-4)


def test_a_padded_minibatch_has_the_gradient_of_one_without_padding(fabric):
    """A padded minibatch has the gradient of one without padding."""
    learner = make_ppo(fabric, batch_size=4, entropy_coef=0.1)
    seen = spy_on_batches(learner)
    learner.update(3, 0.0, None, rollout(ends=[(1, 0), (4, 1)]))
    padded = [batch for batch in seen if (batch["sample_weight"] == 0).any()]
    assert padded
    for batch in padded:
        plain = batch[batch["sample_weight"] > 0]
        gradients = []
        for each in (batch, plain):
            value = learner.algorithm.loss(learner.agent, each, {}, {"clip": torch.tensor(0.2)}).value
            gradients.append(torch.autograd.grad(value, list(learner.agent.parameters())))
        assert plain["sample_weight"].tolist() == pytest.approx([1 / len(plain)] * len(plain))
        for found, expected in zip(*gradients, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_a_minibatch_without_actions_is_harmless(fabric):
    """A minibatch without actions leaves the parameters finite."""
    learner = make_ppo(fabric, rollout_steps=1, batch_size=1)
    before = parameters_of(learner.agent)
    info, _ = learner.update(1, 0.0, None, rollout(steps=1, envs=1, ends=[(0, 0)]))
    assert_same(learner.agent, before)
    assert all(np.isfinite(value) for value in info.metrics.values())


def test_a_minibatch_of_one_decision_is_learned_from(fabric):
    """The learner trains on a minibatch of one row."""
    learner = make_ppo(fabric, rollout_steps=2, batch_size=2)
    before = parameters_of(learner.agent)
    seen = spy_on_batches(learner)
    info, _ = learner.update(1, 0.0, None, rollout(steps=2, envs=1, ends=[(0, 0)]))
    (batch,) = seen
    assert batch["sample_weight"].tolist() == [1.0, 0.0] and batch["advantage"][0] != 0
    assert info.metrics["Loss/policy_loss"] != 0
    after = parameters_of(learner.agent)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_an_unknown_group_of_a_phase_is_named(fabric, monkeypatch):
    """A phase with an unknown parameter group is named, together with the known groups."""
    learner = make_ppo(fabric, rollout_steps=2, batch_size=2)
    phases = learner.algorithm.phases
    monkeypatch.setattr(
        learner.algorithm, "phases", lambda step: [replace(each, optimizer="agnt") for each in phases(step)]
    )
    with pytest.raises(ValueError, match=r"names the group 'agnt', but optimizers\(\) has "):
        learner.update(1, 0.0, None, rollout(steps=2, envs=1, ends=[(0, 0)]))


def test_advantages_can_stay_unscaled(fabric):
    """Advantages stay unscaled without normalization."""
    learner = make_ppo(fabric, normalize_advantage=False, gamma=0.9, gae_lambda=0.8)
    seen = spy_on_batches(learner)
    block = rollout()
    value = learner.agent.critic.network(torch.from_numpy(block["obs"])).detach().squeeze(-1).numpy()
    expected = reference_advantages(value, block, 0.9, 0.8)
    learner.update(1, 0.0, None, block)
    found = np.sort(seen[0]["advantage"].numpy())
    assert found == pytest.approx(np.sort(list(expected.values())), abs=1e-5)


# ------------------------------------------------------------------------------------------------------- SAC


def squashed(agent, obs, noise):
    """Return a squashed action and its log density, computed by Torch."""
    mean, log_std = agent.policy.network(obs).chunk(2, -1)
    std = log_std.clamp(-20, 2).exp()
    u = mean + std * noise
    transform = TanhTransform(cache_size=1)
    action = transform(u)
    return action, Independent(TransformedDistribution(Normal(mean, std), transform), 1).log_prob(action)


def q_values(critic, obs, action):
    """Return the Q-values of both critics."""
    return [network(torch.cat([obs, action], -1)).squeeze(-1) for network in critic.networks]


class ReferenceSAC:
    """Reference SAC with gamma 0.9, tau 0.1, target entropy -2; order: critic, targets, actor, temperature."""

    def __init__(self, learner):
        """Copy the learner's agent."""
        self.agent = copy.deepcopy(learner.agent)
        self.generator = torch.Generator()
        self.generator.set_state(learner.group_rng.get_state())
        agent = self.agent
        self.critic_optimizer = torch.optim.Adam(agent.critic.parameters(), lr=2e-2)
        self.actor_optimizer = torch.optim.Adam(agent.policy.parameters(), lr=1e-2)
        self.alpha_optimizer = torch.optim.Adam([agent.alpha.log_alpha], lr=3e-2)

    def minimize(self, optimizer, loss):
        """Take an optimizer step."""
        self.agent.zero_grad()
        loss.backward()
        optimizer.step()

    def step(self, batch):
        """Take one gradient step."""
        agent = self.agent
        alpha = agent.alpha.log_alpha.detach().exp()
        with torch.no_grad():
            next_action, next_logprob = squashed(agent, batch["next_obs"], self.noise())
            next_q = torch.min(*q_values(agent.critic_target, batch["next_obs"], next_action))
            bootstrap = torch.where(batch["terminated"], 0.0, next_q - alpha * next_logprob)
            target = batch["reward"] + 0.9 * bootstrap
        first, second = q_values(agent.critic, batch["obs"], batch["action"])
        critic_loss = nn.functional.mse_loss(first, target) + nn.functional.mse_loss(second, target)
        self.minimize(self.critic_optimizer, critic_loss)
        with torch.no_grad():
            for goal, parameter in zip(agent.critic.parameters(), agent.critic_target.parameters(), strict=True):
                parameter.copy_(0.9 * parameter + 0.1 * goal)
        action, logprob = squashed(agent, batch["obs"], self.noise())
        actor_loss = (alpha * logprob - torch.min(*q_values(agent.critic, batch["obs"], action))).mean()
        self.minimize(self.actor_optimizer, actor_loss)
        alpha_loss = (-agent.alpha.log_alpha * (logprob.detach() - 2)).mean()
        self.minimize(self.alpha_optimizer, alpha_loss)
        return {"Loss/value_loss": critic_loss, "Loss/policy_loss": actor_loss, "Loss/alpha_loss": alpha_loss}

    def noise(self):
        """Draw the noise of an action."""
        return torch.randn((16, 2), generator=self.generator)


def test_sac_steps(fabric):
    """SAC's steps equal the reference's."""
    learner = make_sac(fabric, gamma=0.9, alpha=0.5)
    reference = ReferenceSAC(learner)
    block = transitions(batches=4)
    info, writes = learner.update(4, 0.0, None, block)
    batches = [{name: torch.from_numpy(values[i]) for name, values in block.items()} for i in range(4)]
    metrics = [reference.step(batch) for batch in batches]
    assert_close(learner.agent, reference.agent)
    assert info.gradient_steps == 4 and writes == []
    for name in metrics[0]:
        mean = sum(step[name].item() for step in metrics) / 4
        assert info.metrics[name] == pytest.approx(mean, rel=1e-4, abs=1e-5), name


def test_sac_with_a_fixed_temperature(fabric):
    """A fixed temperature stays constant."""
    learner = make_sac(fabric, alpha=0.25, learn_alpha=False)
    learner.update(3, 0.0, None, transitions(batches=3))
    assert learner.agent.alpha().item() == pytest.approx(0.25)


# -------------------------------------------------------------------------------------- not finite numbers


def test_ppo_rejects_a_non_finite_loss(fabric):
    """PPO rejects a non-finite loss and all later updates."""
    learner = make_ppo(fabric)
    before = parameters_of(learner.agent)
    block = rollout()
    block["reward"][3, 1] = np.inf
    with pytest.raises(NonFiniteError, match=r"Loss/value_loss is (nan|inf).* at gradient step 0"):
        learner.update(1, 0.0, None, block)
    assert_same(learner.agent, before)
    with pytest.raises(NonFiniteError):  # an update that was requested before
        learner.update(1, 0.0, None, rollout())
    assert_same(learner.agent, before)
    assert learner.gradient_steps == 0


def test_sac_rejects_a_non_finite_loss(fabric):
    """SAC rejects a non-finite loss and leaves the agent unchanged."""
    learner = make_sac(fabric)
    learner.update(2, 0.0, None, transitions(batches=2))
    before = parameters_of(learner.agent)
    block = transitions()
    block["reward"][0, 5] = np.nan
    with pytest.raises(NonFiniteError, match=r"Loss/value_loss is nan.* at gradient step 2"):
        learner.update(1, 0.0, None, block)
    assert_same(learner.agent, before)  # including the targets


# --------------------------------------------------------------------------------- generators and checkpoints


def update(learner, seed, steps=3):
    """Take gradient steps on data of a seed; return the metrics."""
    is_ppo = learner.config.algo.name == "ppo"
    block = rollout(seed, ends=[(2, 1)]) if is_ppo else transitions(seed, batches=steps)
    return learner.update(steps, 0.5, None, block)[0].metrics


MAKERS = {"ppo": lambda fabric, **args: make_ppo(fabric, batch_size=4, epochs=1, **args), "sac": make_sac}


def test_gradient_steps_flush_denormals(fabric, monkeypatch):
    """Gradient steps flush denormals to zero, and the code after them doesn't."""
    learner, kept = make_sac(fabric), []
    take = learner._gradient_step

    def spy(*args):
        """Take the step; record if the product of a denormal and 0.5 isn't zero."""
        kept.append(bool((torch.full((1,), 1e-40) * 0.5).view(torch.int32)))
        return take(*args)

    monkeypatch.setattr(learner, "_gradient_step", spy)
    learner.update(1, 0.0, None, transitions())
    assert kept == [False]
    assert (torch.full((1,), 1e-40) * 0.5).view(torch.int32)


@pytest.mark.parametrize("algo", MAKERS)
def test_a_restored_learner_continues_bit_identically(fabric, algo):
    """A restored learner continues bit-identically."""
    learner = MAKERS[algo](fabric)
    for seed in range(3):
        update(learner, seed)
    steps, snapshot = learner.snapshot()
    assert steps == 9
    restored = MAKERS[algo](fabric)
    update(restored, 99)
    torch.manual_seed(123)
    assert restored.restore(snapshot) == 9
    assert_same(restored.agent, learner.agent.state_dict())
    for seed in range(3, 6):
        assert update(learner, seed) == update(restored, seed)
        assert_same(restored.agent, learner.agent.state_dict())
    assert restored.gradient_steps == 18
    assert restored.rank_rng.bit_generator.state == learner.rank_rng.bit_generator.state


def test_a_restored_learner_uses_the_current_settings(fabric):
    """A restored learner uses the current settings."""
    learner, restored = make_ppo(fabric, adam_eps=1e-5), make_ppo(fabric, adam_eps=1e-3)
    learner.update(2, 0.0, None, rollout())
    restored.restore(learner.snapshot()[1])
    (settings,) = restored.step.groups["agent"].optimizer.param_groups
    assert settings["eps"] == 1e-3
    (state,) = restored.step.groups["agent"].optimizer.state.values()
    assert state["step"] == 2


def test_a_snapshot_is_a_copy_and_runs_no_code(fabric):
    """Later steps don't change a snapshot, and loading it runs no code."""
    learner = make_sac(fabric)
    update(learner, 0)
    _, snapshot = learner.snapshot()
    before = snapshot.copy()
    update(learner, 1)
    assert np.array_equal(snapshot, before)
    assert torch.load(io.BytesIO(snapshot.tobytes()), weights_only=True)["gradient_steps"] == 3


@pytest.mark.parametrize("algo", MAKERS)
def test_the_global_generators_do_not_matter(fabric, algo):
    """Updates don't depend on the global generators."""

    def learn(global_seed, seed=0):
        """Return the parameters after an update."""
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        learner = MAKERS[algo](fabric, seed=seed)
        for data_seed in range(3):
            torch.manual_seed(global_seed + data_seed)
            update(learner, data_seed)
        return parameters_of(learner.agent)

    first, second, other = learn(1), learn(2), learn(1, seed=5)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("algo", MAKERS)
def test_each_update_draws_new_minibatches_and_noise(fabric, algo):
    """Each update draws new minibatches and noise."""
    learner = MAKERS[algo](fabric)
    state = parameters_of(learner.agent)
    results = []
    for _ in range(2):
        learner.agent.load_state_dict(state)
        for group in learner.step.groups.values():
            group.optimizer.state.clear()
        update(learner, seed=0)
        results.append(parameters_of(learner.agent))
    assert not all(torch.equal(results[0][name], results[1][name]) for name in state)


@pytest.mark.parametrize("algo", MAKERS)
def test_minibatches_and_noise_do_not_depend_on_the_ranks(fabric, algo):
    """Minibatches and noise don't depend on the number of ranks."""
    results = []
    for rank_seed in (1, 2):
        learner = MAKERS[algo](fabric)
        learner.rank_rng = np.random.default_rng(rank_seed)
        update(learner, seed=0)
        results.append(parameters_of(learner.agent))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_ranks_divide_the_noise_of_samples_and_share_that_of_batches(fabric):
    """A rank gets its part of the noise of samples, and the whole shared noise; names must differ."""
    learner = make_sac(fabric)
    learner.rank, learner.world = 1, 2
    phase = Phase("critic", missing_key, lambda shape, _: {"sample": torch.arange(*shape)}, lambda _: {"batch": OBS})
    assert learner._noise(phase, 3)["sample"].tolist() == [1, 3, 5] and learner._noise(phase, 3)["batch"] is OBS
    clashing = replace(phase, shared_noise=lambda _: {"sample": torch.zeros(3)})
    with pytest.raises(ValueError, match="of the group 'critic' both return 'sample'"):
        learner._noise(clashing, 3)


@pytest.mark.parametrize("algo", MAKERS)
def test_blocks_are_only_read(fabric, algo):
    """Updates don't write to their blocks."""
    learner = MAKERS[algo](fabric)
    block = rollout() if algo == "ppo" else transitions()
    copies = {name: values.copy() for name, values in block.items()}
    for values in block.values():
        values.flags.writeable = False  # as they come out of the object store
    learner.update(1, 0.0, None, block)
    assert all(np.array_equal(block[name], copies[name]) for name in copies)


def test_weights_are_copies(fabric):
    """Published weights are copies of the policy's parameters."""
    learner = make_sac(fabric)
    update(learner, seed=0)
    steps, weights = learner.weights()
    assert steps == 3 and weights.keys() == learner.agent.policy.state_dict().keys()
    frozen = {name: values.copy() for name, values in weights.items()}
    update(learner, seed=1)
    assert all(np.array_equal(weights[name], frozen[name]) for name in weights)
    assert not all(np.array_equal(weights[name], later) for name, later in learner.weights()[1].items())


# --------------------------------------------------------------------------- samples of several shards


def parts_of_shards(sequences=False):
    """Return read-only blocks `[1, count]`, or `[1, 3, count]`, of two shards."""
    rng = np.random.default_rng(0)
    parts = []
    for shard, count in enumerate((10, 22)):
        part = transitions(seed=shard, size=count)
        if sequences:
            part = {name: np.stack([values] * 3, axis=1) for name, values in part.items()}
        parts.append({**part, "importance": rng.uniform(1, 9, (1, count)).astype(np.float32)})
        for values in parts[-1].values():
            values.flags.writeable = False
    return parts


def batches_of(learner, steps, order, blocks):
    """Return the batches of an update."""
    return map(learner.batches.assemble, learner.batches.read(steps, order, blocks))


@pytest.mark.parametrize("sequences", [False, True])
def test_blocks_of_several_shards_form_batches(fabric, sequences):
    """Blocks of several shards form batches, which the ranks divide."""
    learner = make_sac(fabric)
    parts = parts_of_shards(sequences)
    whole = join_parts(parts, order=5, n_batches=2)
    shares = []
    for rank in range(2):
        learner.batches.share = replace(learner.batches.share, rank=rank, ranks=SimpleNamespace(world=2))
        shares.append(list(batches_of(learner, 2, 5, parts)))
    for number in range(2):
        assert all(share[number]["sample_weight"].tolist() == [1 / 8] * 8 for share in shares)
        for name in ("obs", "importance"):
            found = [share[number][name].numpy() for share in shares]
            axis = 1 if sequences and name == "obs" else 0
            together = np.stack(found, axis + 1).reshape(whole[name][number].shape)
            scale = whole[name][number].max() if name == "importance" else 1
            assert np.array_equal(together, whole[name][number] / scale)
        assert max(share[number]["importance"].max().item() for share in shares) == 1.0


def test_the_seed_determines_the_order_of_samples(fabric):
    """The seed determines the order of samples."""
    learner = make_sac(fabric)
    drawn = []
    for order in (5, 5, 6):
        batches = batches_of(learner, 2, order, parts_of_shards())
        drawn.append(torch.cat([batch["index"] for batch in batches]).tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(drawn[0]) == sorted(drawn[2])


def test_an_update_reports_its_start(fabric):
    """Statistics of an update contain its start and duration."""
    learner = make_sac(fabric)
    first, _ = learner.update(2, 0.0, 5, *parts_of_shards())
    second, _ = learner.update(1, 0.0, None, transitions())
    assert second.gradient_steps == 3
    assert second.began >= first.began + first.seconds


# ---------------------------------------------------------------------------- what a loss may give and carry


class Carrying(Algorithm):
    """Algorithm with two phases over two numbers; the second reads the first one's step and carry, and writes back."""

    def build_agent(self):
        """Return the agent."""
        agent = nn.Module()
        agent.policy, agent.head = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        agent.unused = nn.Linear(1, 1)
        for layer in (agent.policy, agent.head):
            nn.init.ones_(layer.weight)
        return agent

    def optimizers(self):
        """Return one optimizer per number."""
        return {
            "first": OptimizerSpec(("policy", "unused"), lambda parameters: torch.optim.SGD(parameters, lr=0.5)),
            "second": OptimizerSpec(("head",), lambda parameters: torch.optim.SGD(parameters, lr=1.0)),
        }

    def act(self, policy, row, state, mode, generator):
        """Raise: it isn't used."""
        return PolicyOutput(torch.zeros(len(row.reward), dtype=torch.int64))

    def phases(self, step):
        """Return both phases."""
        second = Phase("second", self.second, scalars={"bonus": 10.0 + step.gradient_step}, lr_scale=0.25)
        return [Phase("first", self.first), second]

    def first(self, agent, batch, noise, carry):
        """Return the first loss."""
        return Loss((batch["sample_weight"] * agent.policy.weight.squeeze()).sum(), carry={"latent": torch.tensor(3.0)})

    def second(self, agent, batch, noise, carry):
        """Return the second loss."""
        # the policy's weight is 1 − 0.5 by now, then 0
        slope = agent.policy.weight.detach().squeeze() * carry["latent"] + carry["bonus"]
        loss = slope * agent.head.weight.squeeze()
        return Loss(loss, {"Loss/second": loss.detach()}, write={"reward": batch["reward"].double() * 2})


class Steep(Carrying):
    """Algorithm whose first loss is 0 with an infinite gradient."""

    def first(self, agent, batch, noise, carry):
        """Return the loss."""
        return Loss((agent.policy.weight - 1).sqrt().squeeze())


@pytest.fixture
def make_learner_of(fabric, monkeypatch):
    """Return a function that makes a learner of another algorithm."""

    def make(algorithm):
        """Make a learner."""
        made = partial(algorithm, spaces=Spaces(OBS, spaces.Discrete(2)))
        monkeypatch.setattr(learner_module, "build_algorithm", lambda args, spaces: made(args))
        return make_sac(fabric)

    return make


def test_a_non_finite_gradient_is_rejected(make_learner_of):
    """A non-finite gradient is rejected."""
    learner = make_learner_of(Steep)
    before = parameters_of(learner.agent)
    with pytest.raises(NonFiniteError, match="the gradient of the loss of 'first' is not finite at gradient step 0"):
        learner.update(1, 0.0, None, transitions(size=4))
    assert_same(learner.agent, before)


def test_a_phase_sees_earlier_steps_and_carries(make_learner_of):
    """A phase sees the steps and the carry of earlier phases."""
    learner = make_learner_of(Carrying)
    block = transitions(batches=2, size=4)
    info, writes = learner.update(2, 0.0, None, block)
    assert learner.agent.policy.weight.item() == 0.0
    # slopes 0.5·3 + 10 = 11.5 and 0·3 + 11 = 11, at a quarter of the rate 1
    assert learner.agent.head.weight.item() == pytest.approx(1 - (11.5 + 11) / 4)
    second = pytest.approx((11.5 * 1 + 11 * (1 - 11.5 / 4)) / 2)
    assert info.metrics == {"Loss/second": second, "Grads/first": 1.0, "Grads/second": (11.5 + 11) / 2}
    assert len(writes) == 2
    for write, batch in zip(writes, range(2), strict=True):
        assert write.index.tolist() == block["index"][batch].tolist()
        assert write.values["reward"].dtype == np.float32  # as it is stored
        assert write.values["reward"].tolist() == (block["reward"][batch] * 2).tolist()
        assert write.priority is None


class Prioritizing(Carrying):
    """Algorithm that returns priorities in half precision, and no values."""

    def second(self, agent, batch, noise, carry):
        """Return the loss with priorities."""
        return replace(super().second(agent, batch, noise, carry), write={}, priority=batch["reward"].bfloat16())


def test_priorities_are_returned_with_their_rows(make_learner_of):
    """Priorities are returned with their rows."""
    learner = make_learner_of(Prioritizing)
    block = transitions(batches=2, size=4)
    _, writes = learner.update(2, 0.0, None, block)
    assert [write.index.tolist() for write in writes] == block["index"].tolist()
    assert all(write.values == {} for write in writes)
    for write, reward in zip(writes, block["reward"], strict=True):
        assert write.priority.dtype == np.float32
        assert write.priority == pytest.approx(reward, rel=0.01)


def test_an_agent_that_would_be_trained_wrongly_is_refused(make_learner_of):
    """A recurrent module of torch, and an optimizer that isn't elementwise, are refused by name."""

    class Recurrent(Carrying):
        """Algorithm with torch's LSTM."""

        def build_agent(self):
            """Return the agent with an LSTM."""
            agent = super().build_agent()
            agent.memory = nn.LSTM(1, 1)
            return agent

    class SecondOrder(Carrying):
        """Algorithm with LBFGS."""

        def optimizers(self):
            """Return LBFGS for one group."""
            return {**super().optimizers(), "second": OptimizerSpec(("head",), torch.optim.LBFGS)}

    with pytest.raises(ValueError, match=r"the agent's 'memory' is a torch\.nn\.LSTM"):
        make_learner_of(Recurrent)
    with pytest.raises(ValueError, match="builds LBFGS for 'second'"):
        make_learner_of(SecondOrder)


def test_weights_that_training_would_not_change_are_not_handed_out(fabric):
    """Weights are refused once a parameter has left its vector."""
    learner = make_ppo(fabric)
    learner.weights()
    learner.agent.critic.network[0].weight.data = torch.zeros_like(learner.agent.critic.network[0].weight)
    with pytest.raises(MovedParameterError, match=r"'critic\.network\.0\.weight' was replaced"):
        learner.weights()


class Remembering(Carrying):
    """Algorithm with a running mean of rewards in a buffer of the agent."""

    def build_agent(self):
        """Return the agent with the buffer."""
        agent = super().build_agent()
        agent.register_buffer("mean_reward", torch.zeros(()))
        return agent

    def first(self, agent, batch, noise, carry):
        """Return the loss and update the mean."""
        mean = 0.5 * agent.mean_reward + 0.5 * batch["reward"].mean()
        return Loss((batch["sample_weight"] * agent.policy.weight.squeeze()).sum(), buffers={"mean_reward": mean},
                    carry={"latent": torch.tensor(3.0)})  # fmt: skip


def test_agent_buffers_hold_running_statistics(make_learner_of):
    """Buffers of the agent hold running statistics."""
    learner = make_learner_of(Remembering)
    block = transitions(batches=2, size=4)
    learner.update(2, 0.0, None, block)
    first, second = block["reward"].mean(axis=1)
    assert learner.agent.mean_reward.item() == pytest.approx(0.25 * first + 0.5 * second)
    assert learner.agent.state_dict()["mean_reward"].item() != 0


class Slowing(Remembering):
    """Algorithm whose first loss divides its learning rate by 1 plus the buffer, and adds 1 to the buffer."""

    def first(self, agent, batch, noise, carry):
        """Return the loss with a factor on the learning rate."""
        steps = agent.mean_reward
        return Loss((batch["sample_weight"] * agent.policy.weight.squeeze()).sum(), buffers={"mean_reward": steps + 1},
                    carry={"latent": torch.tensor(3.0)}, lr_scale=1 / (1 + steps))  # fmt: skip


def test_a_loss_can_scale_its_learning_rate(make_learner_of):
    """A loss scales the learning rate of its step only."""
    learner = make_learner_of(Slowing)
    learner.update(3, 0.0, None, transitions(batches=3, size=4))
    # the gradient is 1: 1 − 0.5 · (1 + ½ + ⅓)
    assert learner.agent.policy.weight.item() == pytest.approx(1 - 0.5 * 11 / 6)


def test_a_whole_rollout_can_be_one_minibatch(fabric):
    """A minibatch can be as large as the rollout."""
    learner = make_ppo(fabric, batch_size=4, epochs=1)
    data = learner.batches.data = replace(learner.algorithm.data(), batch_size=None)
    assert data.due_gradient_steps(0, 0, rows=10) == 1
    seen = spy_on_batches(learner)
    learner.update(1, 0.0, None, rollout(ends=[(1, 0)]))
    (batch,) = seen
    assert len(batch["sample_weight"]) == 10 and int((batch["sample_weight"] > 0).sum()) == 9
    assert float(batch["sample_weight"].sum()) == pytest.approx(1.0)


# --------------------------------------------------------------------------------------- mistakes of an author


def missing_key(agent, batch, noise, carry):
    """Read a tensor that the batch doesn't have."""
    return Loss(batch["advantges"].mean())


def vector(agent, batch, noise, carry):
    """Return a value for each row."""
    return Loss(agent.critic(batch["obs"]))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (
            missing_key,
            r"^missing_key\(\) of the phase 'agent' raised KeyError: .*advantges.* \(.*test_learner.py:\d+\); "
            r"the batch has action, advantage, .*, noise has nothing, carry has clip$",
        ),
        (vector, r"^vector\(\) of the phase 'agent' returned a Loss.value of shape \[10\]; return a scalar, such as"),
        (lambda *_: None, r"<lambda>\(\) of the phase 'agent' returned NoneType; return a sheeprl.algos.base.Loss$"),
        (lambda *_: Loss(torch.zeros(())), r"that doesn't depend on any parameter of the group; compute it from"),
    ],
)
def test_a_broken_loss_is_named(fabric, loss, expected):
    """The error names the function, its phase and the tensors that exist."""
    learner = make_ppo(fabric)
    learner.algorithm.loss = loss
    with pytest.raises(AlgorithmError, match=expected):
        learner.update(1, 0.0, None, rollout())


def test_a_rollout_without_a_mask_is_named(fabric, monkeypatch):
    """The error names the function and the keys that it returned."""
    prepare = PPO.prepare_rollout
    monkeypatch.setattr(PPO, "prepare_rollout", lambda *args: prepare(*args).exclude("mask"))
    with pytest.raises(AlgorithmError, match=r"^PPO.prepare_rollout\(\) returned no boolean 'mask' but action, "):
        make_ppo(fabric).update(1, 0.0, None, rollout())


def test_an_optimizer_of_an_unknown_submodule_is_named(fabric, monkeypatch):
    """The error names the submodules that exist."""
    specs = {"agent": OptimizerSpec(("polcy",), torch.optim.Adam)}
    monkeypatch.setattr(PPO, "optimizers", lambda self: specs)
    with pytest.raises(
        AlgorithmError, match=r"^PPO.optimizers\(\)\['agent'\] names the submodule 'polcy', but .* has policy"
    ):
        make_ppo(fabric)
