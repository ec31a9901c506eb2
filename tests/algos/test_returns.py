"""Advantages and returns against hand-computed values and slow computations, and the rows that have an action."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from sheeprl.algos.returns import compute_gae, has_action, n_step_returns, vtrace


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


def column(*values):
    """Return one environment's values as `[T, 1]`."""
    return torch.tensor(values).unsqueeze(-1)


def traced(reward, value, ratio, terminated, truncated, **settings):
    """Return V-trace targets and advantages with the paper's settings, except those given."""
    settings = {"gamma": 0.5, "trace_lambda": 1.0, "clip_rho": 1.0, "clip_c": 1.0, **settings}
    return vtrace(reward, value, torch.log(ratio), terminated, truncated, **settings)


def test_vtrace_by_hand():
    """Targets and advantages equal hand-computed values, with an end row in the middle."""
    # Rows 0 to 5: row 2 is an end row, row 3 starts the next episode, row 5 is the bootstrap row.
    reward, value = column(0.0, 1.0, 2.0, 0.0, 3.0, 4.0), column(2.0, 4.0, 8.0, 6.0, 2.0, 10.0)
    ratio = column(0.5, 2.0, 7.0, 0.25, 1.0)
    end, never = column(0, 0, 1, 0, 0, 0).bool(), column(0, 0, 0, 0, 0, 0).bool()
    targets, advantages = traced(reward, value, ratio, never, end)
    # Row 4: δ = 4 + 5 − 2 = 7. Row 3: δ = 3 + 1 − 6 = −2, v − V = ¼ (−2) + ½ · ¼ · 7, A = ¼ (−2 + ½ · 7).
    assert targets[3:, 0].tolist() == [6 - 0.5 + 0.875, 9] and advantages[3:, 0].tolist() == [0.375, 7]
    # Row 1: δ = 2 + 4 − 4 = 2, with ρ = min(1, 2). Row 0: δ = 1 + 2 − 2 = 1, v − V = ½ · 1 + ½ · ½ · 2.
    assert targets[:2, 0].tolist() == [2 + 0.5 + 0.5, 6] and advantages[:2, 0].tolist() == [0.5 * (1 + 0.5 * 2), 2]
    targets, advantages = traced(reward, value, ratio, end, never)
    # Row 1: δ = 2 − 4 = −2, without the value of the end row. Row 0: v − V = ½ · 1 + ½ · ½ · (−2).
    assert targets[:2, 0].tolist() == [2 + 0.5 - 0.5, 2] and advantages[:2, 0].tolist() == [0, -2]


def test_the_clips_and_lambda_limit_their_own_weights():
    """`clip_rho` limits errors, `clip_c` and λ traces."""
    reward, value, never = column(0.0, 1.0, 4.0), column(2.0, 4.0, 10.0), column(0, 0, 0).bool()
    targets, advantages = traced(
        reward, value, column(3.0, 3.0), never, never, clip_rho=2.0, clip_c=1.5, trace_lambda=0.5
    )
    # Row 1: δ = 4 + 5 − 4 = 5, v − V = 2 · 5. Row 0: δ = 1 + 2 − 2 = 1, v − V = 2 · 1 + ½ · ½ · 1.5 · 10.
    assert targets[:, 0].tolist() == [2 + 2 + 3.75, 14]
    assert advantages[:, 0].tolist() == [2 * (1 + 0.25 * 10), 10]


def slow_vtrace(reward, value, ratio, terminated, truncated, gamma, trace_lambda, clip_rho, clip_c):
    """Return the targets and advantages of one environment by the sums of the paper, eq. 1."""
    is_last, steps = terminated | truncated, len(ratio)
    rho = np.minimum(clip_rho, ratio)
    c = trace_lambda * np.minimum(clip_c, ratio)
    next_value = np.where(terminated[1:], 0.0, value[1:])
    delta = reward[1:] + gamma * next_value - value[:-1]
    targets, advantages = value[:-1].copy(), np.zeros(steps)
    for s in (step for step in range(steps) if not is_last[step]):
        factor = 1.0
        for t in range(s, steps):
            targets[s] += factor * rho[t] * delta[t]
            if is_last[t + 1]:
                break
            factor *= gamma * c[t]
    for s in (step for step in range(steps) if not is_last[step]):
        later = 0.0 if is_last[s + 1] or s + 1 == steps else targets[s + 1] - value[s + 1]
        advantages[s] = rho[s] * (delta[s] + gamma * trace_lambda * later)
    return targets, advantages


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1), st.floats(0.5, 2), st.floats(0.1, 2))
def test_vtrace_equals_the_sums_of_the_paper(seed, gamma, trace_lambda, clip_rho, clip_c):
    """The recursion equals the paper's sums, for random ends of episodes."""
    rng = np.random.default_rng(seed)
    steps, envs = 7, 3
    reward, value = rng.normal(size=(2, steps + 1, envs))
    ratio = np.exp(rng.normal(size=(steps, envs)))
    is_last = rng.random((steps + 1, envs)) < 0.3
    terminated = is_last & (rng.random((steps + 1, envs)) < 0.5)
    arrays = (reward, value, ratio, terminated, is_last & ~terminated)
    chosen = {"gamma": gamma, "trace_lambda": trace_lambda, "clip_rho": clip_rho, "clip_c": clip_c}
    targets, advantages = traced(*(torch.from_numpy(array) for array in arrays), **chosen)
    for env in range(envs):
        slow = slow_vtrace(*(array[:, env] for array in arrays), **chosen)
        np.testing.assert_allclose(targets[:, env], slow[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(advantages[:, env], slow[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trace_lambda", [0.0, 0.95, 1.0])
def test_without_lag_the_advantages_are_those_of_gae(trace_lambda):
    """With equal policies, advantages and targets equal PPO's in each bit, whatever end rows hold."""
    torch.manual_seed(0)
    reward, value = torch.randn(2, 9, 4)
    is_last = torch.rand(9, 4) < 0.3
    terminated = is_last & (torch.rand(9, 4) < 0.5)
    flags = (terminated, is_last & ~terminated)
    log_ratio = torch.where(is_last[:-1], math.nan, 0.0)
    settings = {"gamma": 0.99, "trace_lambda": trace_lambda, "clip_rho": 1.0, "clip_c": 1.0}
    targets, advantages = vtrace(reward, value, log_ratio, *flags, **settings)
    gae = compute_gae(reward, value, *flags, 0.99, trace_lambda)
    assert torch.equal(advantages, gae) and torch.equal(targets, gae + value[:-1])


def test_n_step_returns_by_hand():
    """Returns end with the episode, with the fragment or after n steps, and bootstrap unless terminated."""
    # Rows 0 to 5: row 3 is an end row, row 4 starts the next episode, row 5 is the bootstrap row.
    reward = tensor([0.0, 1.0, 2.0, 4.0, 0.0, 8.0]).unsqueeze(-1)
    end, never = tensor([0, 0, 0, 1, 0, 0]).bool().unsqueeze(-1), torch.zeros(6, 1, dtype=torch.bool)
    total, discount, after = n_step_returns(reward, never, end, n=2, gamma=0.5)
    rows = [0, 1, 2, 4]  # row 3 has no action
    assert total[rows, 0].tolist() == [1 + 0.5 * 2, 2 + 0.5 * 4, 4, 8]
    assert discount[rows, 0].tolist() == [0.25, 0.25, 0.5, 0.5] and after[rows, 0].tolist() == [2, 3, 3, 5]
    assert n_step_returns(reward, end, never, n=2, gamma=0.5)[1][rows, 0].tolist() == [0.25, 0, 0, 0.5]
