"""R2D2's memory, stored states, burn-in, loss and settings."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict

from sheeprl.algos.base import PolicyInput, Spaces, Step
from sheeprl.algos.r2d2.args import R2D2Args
from sheeprl.algos.r2d2.loss import rescale, unscale
from sheeprl.algos.r2d2.r2d2 import R2D2
from sheeprl.buffer import ReplayBuffer

VECTOR = spaces.Box(-1.0, 1.0, (3,))
MIXED = spaces.Dict(
    {
        "rgb": spaces.Box(0, 255, (8, 8, 3), np.uint8),
        "state": VECTOR,
        "action_mask": spaces.MultiBinary(4),
    }
)
SMALL = {"hidden_sizes": (8,), "memory_size": 5, "cnn_features": 4, "sequence": 4, "burn_in": 3, "n_step": 2}
ENVS = 2


def built(observation=VECTOR, **args):
    """Return R2D2 for 4 actions, and its agent with a target network of other weights."""
    algorithm = R2D2(R2D2Args(name="r2d2", **{**SMALL, **args}), Spaces(observation, spaces.Discrete(4)))
    torch.manual_seed(0)
    agent = algorithm.build_agent()
    agent.target.load_state_dict(algorithm.build_agent().policy.state_dict())
    return algorithm, agent


def observed(space):
    """Return random observations of all environments."""
    if isinstance(space, spaces.Dict):
        return {name: observed(part) for name, part in space.items()}
    if isinstance(space, spaces.MultiBinary):
        return torch.tensor([1, 0, 1, 1], dtype=torch.int8).expand(ENVS, 4)
    if space.dtype == np.uint8:
        return torch.randint(256, (ENVS, *space.shape), dtype=torch.uint8)
    return torch.rand(ENVS, *space.shape) - 0.5


def played(algorithm, agent, steps, ends=(), mode="explore"):
    """Return rows `[steps + 1, B]` in which the policy has acted; `ends` are the (row, env) of truncated end rows."""
    torch.manual_seed(1)
    generator, state, rows = torch.Generator().manual_seed(0), {}, []
    truncated = torch.zeros(steps + 1, ENVS, dtype=torch.bool)
    for end in ends:
        truncated[end] = True
    is_first = truncated.roll(1, 0)
    is_first[0] = True
    for t in range(steps + 1):
        obs, reward = observed(algorithm.spaces.observation), torch.rand(ENVS) * ~is_first[t]
        with torch.no_grad():
            output = algorithm.act(agent.policy, PolicyInput(obs, reward, is_first[t]), state, mode, generator)
        never = torch.zeros(ENVS, dtype=torch.bool)
        flags = {"is_first": is_first[t], "truncated": truncated[t], "terminated": never}
        row = {"obs": obs, "action": output.action, "reward": reward, **flags, **output.extras}
        rows.append(TensorDict(row, [ENVS]))
        state = output.rnn_state
    return torch.stack(rows)


def sampled(algorithm, rows, count=6, **settings):
    """Return a batch of sequences from a buffer with these rows, as the learner gets it."""
    buffer = ReplayBuffer(1000, algorithm.data().sampler, seed=1, **settings)
    buffer.add(rows)
    sequences = buffer.sample(count)[0]
    batch = TensorDict({name: values for name, values in sequences.items()}, [])
    if batch.get("importance", None) is not None:
        batch["importance"] = batch["importance"][-1]
    return batch.update({"sample_weight": torch.full((count,), 1 / count)})


def values_of(algorithm, agent, batch):
    """Return the trained network's values of the rows after the burn-in."""
    outputs = agent.policy.unroll_rows(batch, algorithm.args.burn_in)
    return agent.policy.outputs_of(outputs).squeeze(-1)


@pytest.mark.parametrize("observation", [VECTOR, MIXED], ids=["vector", "mixed"])
@pytest.mark.parametrize("mode", ["explore", "greedy", "random"])
def test_sequences_reproduce_what_the_player_computed(observation, mode):
    """From the stored state of a sequence's first row, the learner computes the states that the player had."""
    algorithm, agent = built(observation)
    rows = played(algorithm, agent, 14, ends=((4, 0), (9, 1)), mode=mode)
    batch = sampled(algorithm, rows)
    outputs = agent.policy.unroll_rows(batch, 3)
    # The output of a row is the state before the next one, unless that begins an episode.
    stored = torch.where(batch["is_first"][5:].unsqueeze(-1), outputs[:-1], batch["hidden"][5:])
    torch.testing.assert_close(outputs[:-1], stored)
    if observation is MIXED:
        assert not (rows["action"] == 1).any()  # the mask forbids it


def test_the_gradient_stops_at_the_burn_in():
    """The loss trains the network on the sequence only, but the burn-in changes its state."""
    algorithm, agent = built()
    batch = sampled(algorithm, played(algorithm, agent, 14), count=3)
    obs = batch["obs"].requires_grad_()
    values_of(algorithm, agent, batch)[0].sum().backward()
    assert obs.grad[4].abs().sum() > 0 and not obs.grad[:4].any() and not obs.grad[5:].any()
    changed = batch.clone()
    changed["obs"] = batch["obs"].detach().clone()
    changed["obs"][3] += 1.0
    assert not torch.allclose(values_of(algorithm, agent, changed)[0], values_of(algorithm, agent, batch)[0])


def test_an_episode_forgets_what_was_before():
    """Rows before an episode, its previous action and the stored state don't matter."""
    algorithm, agent = built(burn_in=0)
    batch = sampled(algorithm, played(algorithm, agent, 14), count=3)
    batch["is_first"][1] = True
    changed = batch.clone()
    changed["hidden"][1] += 1.0
    changed["action"][0] = (changed["action"][0] + 1) % 4
    assert torch.equal(values_of(algorithm, agent, changed), values_of(algorithm, agent, batch))


def test_the_loss_by_hand():
    """Targets are rescaled n-step double Q targets; end rows have no error; priorities mix maximum and mean."""
    algorithm, agent = built(gamma=0.9, rescaling=0.01, priority_max=0.75)
    rows = played(algorithm, agent, 14, ends=((5, 0), (9, 0), (7, 1), (10, 1)))
    batch = sampled(algorithm, rows, prioritized=algorithm.data().prioritized)
    batch["importance"] = torch.linspace(0.1, 1.0, 6)
    with torch.no_grad():
        loss = algorithm.loss(agent, batch, {}, {})
        values = values_of(algorithm, agent, batch)
        target_values = agent.target.outputs_of(agent.target.unroll_rows(batch, 3)).squeeze(-1)
    part = {name: batch[name][4:] for name in ("action", "reward", "truncated")}
    total = 0.0
    assert part["truncated"][:-1].any()
    for n in range(6):
        errors = []
        for t in range(4):
            if part["truncated"][t, n]:
                continue
            last = t + 1
            target = part["reward"][last, n].item()
            if last < 4 and not part["truncated"][last, n]:
                last += 1
                target += 0.9 * part["reward"][last, n].item()
            choice = values[last, n].argmax()
            target += 0.9 ** (last - t) * unscale(target_values[last, n, choice], 0.01).item()
            errors.append(rescale(torch.tensor(target), 0.01).item() - values[t, n, part["action"][t, n]].item())
        total += batch["importance"][n].item() * sum(error**2 for error in errors) / 4 / 2 / 6
        sizes = [abs(error) for error in errors]
        priority = 0.75 * max(sizes) + 0.25 * sum(sizes) / len(sizes)
        assert loss.priority[n].item() == pytest.approx(priority, rel=1e-4)
    assert loss.value.item() == pytest.approx(total, rel=1e-4)


def test_a_batch_without_priorities_is_unweighted():
    """Uniform batches return no priorities, and importance weights scale each sequence's loss."""
    algorithm, agent = built(prioritized=False)
    assert algorithm.data().prioritized is None
    batch = sampled(algorithm, played(algorithm, agent, 14))
    plain = algorithm.loss(agent, batch, {}, {})
    batch["importance"] = torch.full((6,), 0.5)
    weighted = algorithm.loss(agent, batch, {}, {})
    assert plain.priority is None and weighted.value.item() == pytest.approx(plain.value.item() / 2)
    assert weighted.priority.shape == (6,) and not weighted.priority.requires_grad


def test_every_parameter_is_trained():
    """The gradient reaches the memory, both streams and, with pictures, the encoder."""
    algorithm, agent = built(MIXED)
    algorithm.loss(agent, sampled(algorithm, played(algorithm, agent, 14)), {}, {}).value.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in agent.policy.parameters())
    assert all(parameter.grad is None for parameter in agent.target.parameters())


def test_data_and_target_updates():
    """Samples hold the burn-in, the sequence and a bootstrap row; the exponents of the priorities don't change."""
    algorithm, _ = built(target_every=2, tau=0.5, alpha=0.7, beta=0.3)
    data = algorithm.data()
    assert data.sampler.length == 8 and data.sampler.context
    assert (data.prioritized.alpha, data.prioritized.beta_at(0.0), data.prioritized.beta_at(1.0)) == (0.7, 0.3, 0.3)
    updates = [[update.tau for update in algorithm.phases(Step(step, 0.0))[0].target_updates] for step in range(4)]
    assert updates == [[], [0.5], [], [0.5]]
