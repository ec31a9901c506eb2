"""Distributions of actions, and action masks."""

import math

import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import tensor
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from sheeprl.models.actions import Actions, action_mask

DISCRETE, MULTI, BITS = spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)
BOX, UNBOUNDED = spaces.Box(-1.0, 1.0, (2,)), spaces.Box(-math.inf, math.inf, (2,))
SPACES = [DISCRETE, MULTI, BITS, BOX, UNBOUNDED]


def generator(seed=0):
    """Return a seeded generator."""
    return torch.Generator().manual_seed(seed)


def outputs_of(actions, n):
    """Return random outputs and a log standard deviation."""
    return torch.randn(n, actions.outputs, generator=generator(7)) * 2, tensor([-0.5, 0.25])


def reference(space, output, log_std):
    """Return torch's distribution, or a list of them."""
    if isinstance(space, spaces.Box):
        return [Independent(Normal(output, log_std.exp()), 1)]
    if isinstance(space, spaces.MultiBinary):
        return [Independent(Bernoulli(logits=output), 1)]
    sizes = [3] if isinstance(space, spaces.Discrete) else space.nvec.tolist()
    return [Categorical(logits=part) for part in output.split(sizes, -1)]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_log_probability_and_entropy_equal_those_of_torch(space):
    """Components are independent, so both are sums."""
    actions = Actions(space)
    output, log_std = outputs_of(actions, 64)
    parts = reference(space, output, log_std)
    action = actions.sample(output, generator(), log_std=log_std)
    columns = action.unbind(-1) if len(parts) > 1 else [action.float() if actions.is_binary else action]
    expected = sum(part.log_prob(column) for part, column in zip(parts, columns, strict=True))
    assert torch.allclose(actions.logprob(output, action, log_std=log_std), expected, atol=1e-5)
    assert torch.allclose(actions.entropy(output, log_std=log_std), sum(part.entropy() for part in parts), atol=1e-5)


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("n", [1, 5])
def test_actions_are_in_the_space(space, n):
    """Sampled, greedy and random actions have the space's shape and dtype."""
    actions = Actions(space)
    output, log_std = outputs_of(actions, n)
    for action in (
        actions.sample(output.clamp(-0.1, 0.1), generator(), log_std=log_std - 5),
        actions.greedy(output.clamp(-0.1, 0.1)),
        actions.random(n, generator()),
    ):
        assert action.shape == (n, *space.shape) and action.dtype == getattr(torch, str(space.dtype))
        assert all(space.contains(row.numpy()) for row in action)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_the_generator_determines_the_actions(space):
    """Equal seeds give equal actions, and another seed other ones."""
    actions = Actions(space)
    output, log_std = outputs_of(actions, 64)
    for sample in (
        lambda seed: actions.sample(output, generator(seed), log_std=log_std),
        lambda seed: actions.random(64, generator(seed)),
    ):
        assert torch.equal(sample(1), sample(1)) and not torch.equal(sample(1), sample(2))


def test_bits_have_their_probabilities():
    """Sampled pairs of bits have the frequencies of the product distribution (χ² test)."""
    one = tensor([0.2, 0.7])
    output = (one / (1 - one)).log().expand(20_000, 2)
    bits = Actions(BITS).sample(output, generator()).long()
    joint = torch.stack([1 - one, one])  # [bit, component]
    expected = 20_000 * (joint[:, :1] * joint[:, 1]).flatten()
    counts = (bits[:, 0] * 2 + bits[:, 1]).bincount(minlength=4)
    assert ((counts - expected) ** 2 / expected).sum() < 16  # 3 degrees of freedom


def test_hand_computed_values():
    """Logits log 1, log 1, log 2 have the probabilities 1/4, 1/4, 1/2."""
    actions, output = Actions(DISCRETE), tensor([[1.0, 1.0, 2.0]]).log()
    assert actions.logprob(output, tensor([2])).item() == pytest.approx(math.log(0.5))
    assert actions.entropy(output).item() == pytest.approx(1.5 * math.log(2))
    bits = Actions(BITS)
    output = tensor([[0.0, math.log(3)]])  # probabilities 1/2 and 3/4
    assert bits.logprob(output, tensor([[1, 0]], dtype=torch.int8)).item() == pytest.approx(math.log(1 / 8))
    assert bits.greedy(output).tolist() == [[0, 1]]
    entropy = math.log(2) - 0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert bits.entropy(output).item() == pytest.approx(entropy)


def test_an_unsupported_space():
    """The error names the space."""
    with pytest.raises(TypeError, match=r"Text.* aren't supported"):
        Actions(spaces.Text(3))


def test_continuous_actions_need_a_deviation():
    """The error names the argument."""
    with pytest.raises(TypeError, match="log_std"):
        Actions(BOX).entropy(torch.zeros(1, 2))


# ------------------------------------------------------------------------------------------- masks


def test_the_mask_of_observations():
    """The key `action_mask` is read from mappings of any kind and dtype."""
    mask = tensor([[1, 0]], dtype=torch.int8)
    assert action_mask(torch.zeros(1, 2)) is None and action_mask({"state": mask}) is None
    for obs in ({"action_mask": mask}, TensorDict({"action_mask": mask.float(), "a": mask}, [1])):
        assert action_mask(obs).tolist() == [[True, False]]


MASKED = {  # space: masks that permit at least one choice of each component
    "discrete": (DISCRETE, tensor([[1, 0, 1], [0, 1, 0], [1, 1, 1]]).bool()),
    "multi-discrete": (MULTI, tensor([[1, 0, 0, 1, 1], [1, 1, 0, 0, 1], [1, 1, 1, 1, 1]]).bool()),
    "multi-binary": (BITS, tensor([[1, 0, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]]).bool()),
}


def is_permitted(space, action, mask):
    """Return for each action `[N]` whether the mask permits all its components."""
    sizes = Actions(space).choices
    columns = (action.unsqueeze(-1) if action.dim() == 1 else action).long().split(1, -1)
    parts = [part.gather(-1, column) for part, column in zip(mask.split(sizes, -1), columns, strict=True)]
    return torch.cat(parts, -1).all(-1)


def every_action(space):
    """Return all actions of a space."""
    actions = torch.cartesian_prod(*[torch.arange(size) for size in Actions(space).choices])
    return actions.to(torch.int8) if isinstance(space, spaces.MultiBinary) else actions


@pytest.mark.parametrize(("space", "masks"), MASKED.values(), ids=MASKED)
def test_forbidden_actions_have_probability_0(space, masks):
    """Probabilities of the permitted actions sum to 1 and keep their ratios; the entropy is theirs."""
    actions, every = Actions(space), every_action(space)
    output, _ = outputs_of(actions, 3)
    for row, mask in zip(output, masks, strict=True):
        rows, mask_rows = row.expand(len(every), -1), mask.expand(len(every), -1)
        permitted = is_permitted(space, every, mask_rows)
        prob = actions.logprob(rows, every, mask=mask_rows).exp()
        free = actions.logprob(rows, every).exp() * permitted
        assert torch.all(prob[~permitted] == 0)
        assert torch.allclose(prob, free / free.sum(), atol=1e-6)
        expected = -(prob * prob.clamp_min(1e-30).log()).sum()
        assert actions.entropy(row[None], mask=mask[None]).item() == pytest.approx(expected.item(), abs=1e-5)
        greedy = actions.greedy(row[None], mask=mask[None])
        assert actions.logprob(row[None], greedy, mask=mask[None]).exp().item() == pytest.approx(prob.max().item())


@pytest.mark.parametrize(("space", "masks"), MASKED.values(), ids=MASKED)
def test_sampling_and_random_play_honour_the_mask(space, masks):
    """Random actions are uniform over the permitted ones."""
    actions = Actions(space)
    masks = masks.repeat(4000, 1)
    output, _ = outputs_of(actions, 12_000)
    assert is_permitted(space, actions.sample(output * 10, generator(), mask=masks), masks).all()
    action = actions.random(12_000, generator(), mask=masks)
    assert is_permitted(space, action, masks).all()
    _, counts = action[::3].unique(dim=0, return_counts=True)  # the rows of the first mask
    assert torch.all((counts - counts.float().mean()).abs() < 4 * counts.float().mean().sqrt())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("space", "masks"), MASKED.values(), ids=MASKED)
def test_masked_gradients_are_finite_and_0_where_forbidden(space, masks, dtype):
    """Large logits of forbidden choices don't matter."""
    actions = Actions(space)
    output = (outputs_of(actions, 3)[0] * 50).to(dtype).requires_grad_()
    action = actions.greedy(output, mask=masks)
    (actions.logprob(output, action, mask=masks) + actions.entropy(output, mask=masks)).sum().backward()
    free = masks if actions.outputs == masks.shape[1] else masks.unflatten(-1, (-1, 2)).all(-1)
    assert output.grad.isfinite().all() and torch.all(output.grad[~free] == 0)


@pytest.mark.parametrize(("space", "masks"), MASKED.values(), ids=MASKED)
def test_a_mask_that_permits_everything_changes_nothing(space, masks):
    """A mask that permits all actions gives results that are bit-identical to those without a mask."""
    actions = Actions(space)
    output, _ = outputs_of(actions, 64)
    mask = torch.ones(64, masks.shape[1], dtype=torch.bool)
    action = actions.sample(output, generator())
    assert torch.equal(actions.sample(output, generator(), mask=mask), action)
    assert torch.equal(actions.logprob(output, action, mask=mask), actions.logprob(output, action))
    assert torch.equal(actions.entropy(output, mask=mask), actions.entropy(output))


@given(st.lists(st.booleans(), min_size=3, max_size=3), st.integers(0, 2**31))
def test_masked_samples_over_sequences(bits, seed):
    """Any mask with a permitted choice is honoured over any number of batch axes."""
    bits[0] |= not any(bits)
    mask = tensor(bits).expand(2, 5, 3)
    action = Actions(DISCRETE).sample(torch.zeros(2, 5, 3), generator(seed), mask=mask)
    assert action.shape == (2, 5) and all(bits[choice] for choice in action.flatten().tolist())


def test_continuous_actions_ignore_a_mask():
    """A mask has no meaning for a Box."""
    output = torch.zeros(1, 2)
    assert Actions(BOX).masked(output, torch.zeros(1, 2, dtype=torch.bool)) is output


@pytest.mark.parametrize("space", [DISCRETE, MULTI, BITS], ids=str)
def test_a_mask_without_permitted_choices_is_finite(space):
    """Final observations often permit nothing; their rows have no action, but pass through the loss."""
    actions = Actions(space)
    output = outputs_of(actions, 4)[0].requires_grad_()
    mask = torch.zeros(4, sum(actions.choices), dtype=torch.bool)
    action = actions.sample(output, generator(), mask=mask)
    assert all(space.contains(row.numpy()) for row in action)
    total = actions.logprob(output, action, mask=mask) + actions.entropy(output, mask=mask)
    total.sum().backward()
    assert total.isfinite().all() and output.grad.isfinite().all()


def test_vectors_of_actions():
    """Choices become joined one-hot vectors; bits and real numbers are unchanged."""
    assert Actions(spaces.Discrete(3)).vector(tensor([2, 0])).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert Actions(spaces.MultiDiscrete([2, 3])).vector(tensor([[1, 2]])).tolist() == [[0, 1, 0, 0, 1]]
    assert Actions(spaces.MultiBinary(2)).vector(tensor([[1, 0]], dtype=torch.int8)).tolist() == [[1.0, 0.0]]
    assert Actions(spaces.Box(-1, 1, (2,))).vector(tensor([[0.5, -2.0]])).tolist() == [[0.5, -2.0]]
