"""Gradient steps that are due for the replay ratio and for rollouts."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sheeprl.algos.args import OffPolicy, OnPolicy


def off_policy(ratio, learning_starts=0, pretrain_steps=0):
    """Return off-policy settings."""
    return OffPolicy(8, replay_ratio=ratio, learning_starts=learning_starts, pretrain_steps=pretrain_steps)


@pytest.mark.parametrize(
    ("ratio", "policy_steps", "due"),
    [
        (1.0, 7, 7),
        (1, 7, 7),
        (0.5, 7, 3),
        (0.5, 8, 4),
        (0.3, 3, 0),
        (0.3, 4, 1),
        (0.3, 10, 3),
        (0.7, 10, 7),
        (0.7, 1_000_000, 700_000),
        (4.0, 5, 20),
        (0.0, 1000, 0),
        (1e-05, 99_999, 0),
        (1e-05, 100_000, 1),
        (0.29, 100, 29),  # 0.29 * 100 == 28.999999999999996
        (0.57, 100, 57),  # 0.57 * 100 == 56.99999999999999
        (4.35, 100, 435),  # 4.35 * 100 == 434.99999999999994
        (1.1, 10**15, 11 * 10**14),
    ],
)
def test_due_gradient_steps_are_exact(ratio, policy_steps, due):
    """Test ratios whose product in floating point is inexact."""
    assert off_policy(ratio).total_gradient_steps(policy_steps) == due


@pytest.mark.parametrize(("policy_steps", "due"), [(0, 0), (99, 0), (100, 0), (101, 0), (104, 1), (110, 3)])
def test_nothing_is_due_before_learning_starts(policy_steps, due):
    """Test that the ratio applies to the steps after `learning_starts`."""
    assert off_policy(0.3, learning_starts=100).total_gradient_steps(policy_steps) == due


@pytest.mark.parametrize(("policy_steps", "due"), [(0, 0), (100, 0), (101, 7), (104, 8), (110, 10)])
def test_pretraining_is_due_when_training_starts(policy_steps, due):
    """The first gradient steps come with the first policy step after `learning_starts`."""
    data = off_policy(0.3, learning_starts=100, pretrain_steps=7)
    assert data.total_gradient_steps(policy_steps) == due
    assert data.due_gradient_steps(policy_steps, gradient_steps=3, rows=1) == max(0, due - 3)


@given(
    digits=st.integers(1, 10**9), decimals=st.integers(0, 9), steps=st.integers(0, 10**12), starts=st.integers(0, 10**6)
)
def test_due_gradient_steps_follow_the_decimal_ratio(digits, decimals, steps, starts):
    """Test against exact fractions of the decimal notation."""
    due = off_policy(float(f"{digits}e-{decimals}"), starts).total_gradient_steps(steps)
    assert due == digits * max(0, steps - starts) // 10**decimals
    assert due == math.floor(Fraction(digits, 10**decimals) * max(0, steps - starts))


@given(thousandths=st.integers(0, 5000), rounds=st.lists(st.integers(0, 97), max_size=60), starts=st.integers(0, 300))
def test_due_gradient_steps_add_up_over_rounds(thousandths, rounds, starts):
    """Test that the total does not depend on the sizes of rounds."""
    data = off_policy(thousandths / 1000, starts)
    policy_steps = gradient_steps = 0
    for steps in rounds:
        policy_steps += steps
        gradient_steps += data.due_gradient_steps(policy_steps, gradient_steps, rows=steps)
        assert gradient_steps == thousandths * max(0, policy_steps - starts) // 1000


def test_due_gradient_steps_exclude_those_done():
    """Test that surplus gradient steps give 0."""
    assert off_policy(0.5).due_gradient_steps(policy_steps=21, gradient_steps=4, rows=99) == 6
    assert off_policy(0.5).due_gradient_steps(policy_steps=21, gradient_steps=12, rows=99) == 0


@pytest.mark.parametrize(("rows", "minibatches"), [(1, 1), (63, 1), (64, 1), (65, 2), (128, 2), (129, 3)])
def test_on_policy_runs_epochs_of_minibatches(rows, minibatches):
    """Test that a partial minibatch counts as one."""
    data = OnPolicy(rollout_steps=128, batch_size=64, epochs=10)
    assert data.minibatches(rows) == minibatches
    assert data.due_gradient_steps(policy_steps=12345, gradient_steps=678, rows=rows) == 10 * minibatches


def test_on_policy_fragment_is_a_rollout():
    """Test that a fragment has `rollout_steps` rows."""
    assert OnPolicy(rollout_steps=128, batch_size=64, epochs=10).fragment_rows == 128
