"""Advantages against hand-computed values, and the rows that have an action."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from sheeprl.algos.returns import compute_gae, has_action


def gae(reward, value, terminated=(), truncated=(), gamma=0.5, gae_lambda=0.5):
    """Return the advantages of one environment; `terminated` and `truncated` list its end rows."""

    def flags(end_rows):
        """Return `[T + 1, 1]` booleans, true on the end rows."""
        return tensor([[t in end_rows] for t in range(len(reward))])

    columns = [tensor(values, dtype=torch.float64)[:, None] for values in (reward, value)]
    return compute_gae(*columns, flags(terminated), flags(truncated), gamma, gae_lambda).squeeze(1).tolist()


def test_gae_without_end_rows():
    """Advantages inside of one episode equal hand-computed values."""
    # Rewards are received on arrival, so the reward of row 0 belongs to the previous fragment.
    # δ1 = 6 + 0.5·8 − 2 = 8; δ0 = 2 + 0.5·2 − 4 = −1; A1 = 8; A0 = −1 + 0.25·8
    assert gae(reward=[99, 2, 6], value=[4, 2, 8]) == [1, 8]


def test_gae_does_not_bootstrap_a_terminated_episode():
    """The value of a terminated episode's end row is ignored."""
    # δ1 = 6 − 2 = 4, independent of V of the end row; A0 = −1 + 0.25·4
    assert gae(reward=[99, 2, 6], value=[4, 2, 1000], terminated=[2]) == [0, 4]


def test_gae_bootstraps_a_truncated_episode_from_its_end_row():
    """A truncated episode bootstraps from the value of its end row."""
    # Equal to the case without end rows: the value of the end row replaces the returns that follow.
    assert gae(reward=[99, 2, 6], value=[4, 2, 8], truncated=[2]) == [1, 8]


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        # rows:   0  1  2=end  3=first  4=bootstrap row
        # δ3 = 2 + 0.5·4 − 8 = −4; A2 = 0, since row 2 has no action; A1 doesn't depend on rows after 2
        # terminated: δ1 = 6 − 2 = 4;             A0 = (2 + 0.5·2 − 4) + 0.25·4 = 0
        ([2], [], [0, 4, 0, -4]),
        # truncated:  δ1 = 6 + 0.5·16 − 2 = 12;   A0 = −1 + 0.25·12 = 2
        ([], [2], [2, 12, 0, -4]),
        # both flags: terminated
        ([2], [2], [0, 4, 0, -4]),
    ],
)
def test_gae_with_an_end_row_in_the_middle(terminated, truncated, expected):
    """An end row separates the advantages of two episodes."""
    assert gae([99, 2, 6, 0, 2], [4, 2, 16, 8, 4], terminated, truncated) == expected


def test_gae_of_a_fragment_that_starts_with_an_end_row():
    """The flags of the first row don't affect later rows."""
    # Row 0 was the bootstrap row of the previous fragment; its flags don't concern row 1.
    assert gae(reward=[5, 0, 4], value=[7, 2, 4], terminated=[0]) == [0, 4]


def test_gae_of_two_environments():
    """Environments have independent advantages."""
    reward = tensor([[99.0, 99.0], [2, 2], [6, 6]])
    value = tensor([[4.0, 4.0], [2, 2], [8, 8]])
    terminated = tensor([[False, False], [False, False], [False, True]])
    never = torch.zeros(3, 2, dtype=torch.bool)
    advantage = compute_gae(reward, value, terminated, never, gamma=0.5, gae_lambda=0.5)
    assert advantage.tolist() == [[1, 0], [8, 4]]


def test_gae_with_lambda_0_is_the_td_error_and_with_1_the_discounted_return():
    """λ = 0 gives the TD error, λ = 1 the discounted return minus the value."""
    reward, value = [0, 1, 2, 3], [10, 20, 30, 40]
    assert gae(reward, value, gamma=0.5, gae_lambda=0.0) == [1 + 10 - 10, 2 + 15 - 20, 3 + 20 - 30]
    assert gae(reward, value, gamma=0.5, gae_lambda=1.0) == [1 + 1 + 0.75 + 5 - 10, 2 + 1.5 + 10 - 20, 3 + 20 - 30]


def lambda_return_advantage(reward, value, terminated, truncated, gamma, gae_lambda, t):
    """Return (1 − λ) Σ_n λ^(n−1) G_n − V from the n-step returns G_n; the longest G_n has the remaining weight."""
    if terminated[t] or truncated[t]:
        return 0.0
    horizon = next((s for s in range(t + 1, len(reward)) if terminated[s] or truncated[s]), len(reward) - 1)

    def n_step(n):
        """Return G_n of row t."""
        rewards = sum(gamma**k * reward[t + 1 + k] for k in range(n))
        return rewards + (0.0 if terminated[t + n] else gamma**n * value[t + n])

    longest = horizon - t
    mixed = sum((1 - gae_lambda) * gae_lambda ** (n - 1) * n_step(n) for n in range(1, longest))
    return mixed + gae_lambda ** (longest - 1) * n_step(longest) - value[t]


SIXTEENTHS = st.integers(0, 16).map(lambda number: number / 16)  # exact floating-point numbers


@given(
    data=st.lists(
        st.tuples(st.floats(-10, 10), st.floats(-10, 10), st.sampled_from([(0, 0), (0, 0), (1, 0), (0, 1), (1, 1)])),
        min_size=2,
        max_size=12,
    ),
    gamma=SIXTEENTHS,
    gae_lambda=SIXTEENTHS,
)
@settings(deadline=None, max_examples=80)
def test_gae_is_the_weighted_sum_of_n_step_returns(data, gamma, gae_lambda):
    """GAE equals its definition by n-step returns, for random data."""
    reward, value, ends = zip(*data, strict=True)
    terminated, truncated = zip(*ends, strict=True)
    end_rows = [[t for t, flag in enumerate(flags) if flag] for flags in (terminated, truncated)]
    advantages = gae(reward, value, *end_rows, gamma, gae_lambda)
    for t, advantage in enumerate(advantages):
        expected = lambda_return_advantage(reward, value, terminated, truncated, gamma, gae_lambda, t)
        assert advantage == pytest.approx(expected, abs=1e-9)


def test_all_rows_but_end_rows_have_an_action():
    """A row has an action unless its episode ended there."""
    terminated, truncated = tensor([False, True, False, True]), tensor([False, False, True, True])
    assert has_action(terminated, truncated).tolist() == [True, False, False, False]
