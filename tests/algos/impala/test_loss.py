"""V-trace against hand-computed values, a slow computation in NumPy, and PPO's advantages."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sheeprl.algos.impala.loss import vtrace
from sheeprl.algos.ppo.loss import compute_gae


def column(*values):
    """Return one environment's values as `[T, 1]`."""
    return torch.tensor(values).unsqueeze(-1)


def run(reward, value, ratio, terminated, truncated, **settings):
    """Return V-trace targets and advantages with the paper's settings, except those given."""
    settings = {"gamma": 0.5, "trace_lambda": 1.0, "clip_rho": 1.0, "clip_c": 1.0, **settings}
    return vtrace(reward, value, torch.log(ratio), terminated, truncated, **settings)


def test_vtrace_by_hand():
    """Targets and advantages equal hand-computed values, with an end row in the middle."""
    # Rows 0 to 5: row 2 is an end row, row 3 starts the next episode, row 5 is the bootstrap row.
    reward, value = column(0.0, 1.0, 2.0, 0.0, 3.0, 4.0), column(2.0, 4.0, 8.0, 6.0, 2.0, 10.0)
    ratio = column(0.5, 2.0, 7.0, 0.25, 1.0)
    end, never = column(0, 0, 1, 0, 0, 0).bool(), column(0, 0, 0, 0, 0, 0).bool()
    targets, advantages = run(reward, value, ratio, never, end)
    # Row 4: δ = 4 + 5 − 2 = 7. Row 3: δ = 3 + 1 − 6 = −2, v − V = ¼ (−2) + ½ · ¼ · 7, A = ¼ (−2 + ½ · 7).
    assert targets[3:, 0].tolist() == [6 - 0.5 + 0.875, 9] and advantages[3:, 0].tolist() == [0.375, 7]
    # Row 1: δ = 2 + 4 − 4 = 2, with ρ = min(1, 2). Row 0: δ = 1 + 2 − 2 = 1, v − V = ½ · 1 + ½ · ½ · 2.
    assert targets[:2, 0].tolist() == [2 + 0.5 + 0.5, 6] and advantages[:2, 0].tolist() == [0.5 * (1 + 0.5 * 2), 2]
    targets, advantages = run(reward, value, ratio, end, never)
    # Row 1: δ = 2 − 4 = −2, without the value of the end row. Row 0: v − V = ½ · 1 + ½ · ½ · (−2).
    assert targets[:2, 0].tolist() == [2 + 0.5 - 0.5, 2] and advantages[:2, 0].tolist() == [0, -2]


def test_the_clips_and_lambda_limit_their_own_weights():
    """`clip_rho` limits errors, `clip_c` and λ traces."""
    reward, value, never = column(0.0, 1.0, 4.0), column(2.0, 4.0, 10.0), column(0, 0, 0).bool()
    targets, advantages = run(reward, value, column(3.0, 3.0), never, never, clip_rho=2.0, clip_c=1.5, trace_lambda=0.5)
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
    targets, advantages = run(*(torch.from_numpy(array) for array in arrays), **chosen)
    for env in range(envs):
        slow = slow_vtrace(*(array[:, env] for array in arrays), **chosen)
        np.testing.assert_allclose(targets[:, env], slow[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(advantages[:, env], slow[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trace_lambda", [0.0, 0.95, 1.0])
def test_without_lag_the_advantages_are_those_of_gae(trace_lambda):
    """Where both policies are equal, advantages and targets equal PPO's in each bit, whatever end rows hold."""
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
