"""SAC's policies on the output of the actor's network."""

import math

import pytest
import torch
from gymnasium import spaces
from torch import tensor

from sheeprl.algos.sac.args import SACArgs
from sheeprl.algos.sac.heads import Categorical, SquashedGaussian, head_of


def head(space, **args):
    """Return the head for an action space."""
    return head_of(space, SACArgs(name="sac", **args))


BOX, CHOICES = spaces.Box(-1.0, 1.0, (2,)), spaces.Discrete(4)
MASK = {"action_mask": tensor([[1, 0, 1, 0], [0, 1, 0, 0]])}
LOGITS = tensor([[0.0, 9.0, math.log(3), 9.0], [0.0, 0.0, 0.0, 0.0]])


def test_the_action_space_chooses_the_head():
    """Boxes have a squashed normal distribution, discrete actions probabilities."""
    assert type(head(BOX)) is SquashedGaussian and type(head(CHOICES)) is Categorical
    assert (head(BOX).outputs, head(BOX).choices) == (4, None)
    assert (head(CHOICES).outputs, head(CHOICES).choices) == (4, 4)


def test_log_std_is_clamped():
    """The log standard deviation is clamped to [−20, 2]."""
    mean, log_std = head(BOX).distribution(tensor([[0.5, -0.5, -100.0, 100.0]]))
    assert mean.tolist() == [[0.5, -0.5]] and log_std.tolist() == [[-20.0, 2.0]]


def test_probabilities_of_all_choices():
    """Losses get probabilities and their logarithms, which are those of a softmax."""
    logits = tensor([[0.0, math.log(3), math.log(4), 0.0]])
    decision = head(CHOICES).decide(logits, torch.zeros(1, 3), {})
    assert decision.action is None
    expected = tensor([[1.0, 3.0, 4.0, 1.0]]) / 9
    torch.testing.assert_close(decision.probability, expected)
    torch.testing.assert_close(decision.logprob, expected.log())


def test_forbidden_choices_have_probability_and_gradient_0():
    """A mask excludes choices; losses and their gradients remain finite."""
    logits = LOGITS.clone().requires_grad_()
    decision = head(CHOICES).decide(logits, MASK, {})
    torch.testing.assert_close(decision.probability, tensor([[0.25, 0.0, 0.75, 0.0], [0.0, 1.0, 0.0, 0.0]]))
    torch.testing.assert_close(decision.logprob[0, ::2].exp(), tensor([0.25, 0.75]))
    (100.0 * decision.probability * decision.logprob).sum().backward()
    assert logits.grad.isfinite().all() and (logits.grad[0, 1::2] == 0).all() and (logits.grad[1] == 0).all()


def test_target_entropy():
    """The default is −dim(A), or a fraction of log |A| of the permitted choices; an argument replaces it."""
    obs = torch.zeros(2, 3)
    assert head(BOX).target_entropy(obs) == -2 and head(BOX, target_entropy=-0.5).target_entropy(obs) == -0.5
    half = head(CHOICES, target_entropy_scale=0.5)
    assert half.target_entropy(obs) == pytest.approx(math.log(2))
    assert half.target_entropy(MASK).tolist() == pytest.approx([0.5 * math.log(2), 0.0])
    assert head(CHOICES, target_entropy=0.3).target_entropy(MASK) == 0.3


def test_discrete_actions():
    """Random actions are uniform over the permitted choices, explored ones have the policy's probabilities."""
    generator, count = torch.Generator().manual_seed(0), 4000
    chosen = head(CHOICES)
    mask = {"action_mask": MASK["action_mask"][:1].expand(count, 4)}
    for counts, expected in (
        (chosen.random(mask, count, generator), [0.5, 0.0, 0.5, 0.0]),
        (chosen.act(LOGITS[:1].expand(count, 4), mask, "explore", generator), [0.25, 0.0, 0.75, 0.0]),
    ):
        assert counts.dtype == torch.int64
        torch.testing.assert_close(counts.bincount(minlength=4) / count, tensor(expected), atol=0.03, rtol=0)
    assert chosen.act(LOGITS, MASK, "greedy", generator).tolist() == [2, 1]
    assert chosen.act(LOGITS, torch.zeros(2, 3), "greedy", generator).tolist() == [1, 0]
