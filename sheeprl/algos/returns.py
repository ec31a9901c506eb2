"""Advantages and returns of rollouts, and the rows that have an action, as pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def has_action(terminated: Tensor, truncated: Tensor) -> Tensor:
    """Return booleans, true on rows with an action, so on all rows but end rows; both flags have the same shape."""
    return ~(terminated | truncated)


def td_errors(
    reward: Tensor, value: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, trace_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return δ_t = r_{t+1} + γ V_{t+1} (1 − terminated_{t+1}) − V_t, and the factors γλ on the sum of the later errors.

    Both are 0 on end rows, which have no action. The factor is 0 on the last row with an action too, since no error
    crosses an episode.

    Args:
        reward: `[T + 1, B]`, received on arrival at each row; the last row is the bootstrap row.
        value: `[T + 1, B]`, V of each row's observation.
        terminated: `[T + 1, B]` booleans.
        truncated: `[T + 1, B]` booleans.
        gamma: discount factor γ.
        trace_lambda: trace decay λ.

    Returns:
        `[T, B]` errors and `[T, B]` factors.
    """
    continues = has_action(terminated, truncated)
    delta = (reward[1:] + gamma * value[1:] * (~terminated[1:]) - value[:-1]) * continues[:-1]
    return delta, gamma * trace_lambda * (continues[1:] & continues[:-1])


def compute_gae(
    reward: Tensor, value: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Return generalized advantage estimates, Schulman et al. 2016 (1506.02438), eq. 11 to 16.

    δ_t = r_{t+1} + γ V_{t+1} (1 − terminated_{t+1}) − V_t and A_t = δ_t + γ λ (1 − is_last_{t+1}) A_{t+1}, with
    is_last = terminated or truncated. The reward of the action in row t is in row t + 1. A truncated episode
    bootstraps from the value of its end row, a terminated one doesn't.

    Args:
        reward: `[T + 1, B]`, received on arrival at each row; the last row is the bootstrap row.
        value: `[T + 1, B]`, V of each row's observation.
        terminated: `[T + 1, B]` booleans.
        truncated: `[T + 1, B]` booleans.
        gamma: discount factor γ.
        gae_lambda: trace decay λ.

    Returns:
        `[T, B]` advantages; 0 on end rows, which have no action.
    """
    delta, decay = td_errors(reward, value, terminated, truncated, gamma, gae_lambda)
    advantage = torch.zeros_like(delta[0])
    advantages = []
    for delta_t, decay_t in zip(reversed(delta.unbind()), reversed(decay.unbind()), strict=True):
        advantage = torch.addcmul(delta_t, decay_t, advantage)  # A_t = δ_t + decay_t A_{t+1}
        advantages.append(advantage)
    return torch.stack(advantages[::-1])


def vtrace(
    reward: Tensor,
    value: Tensor,
    log_ratio: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    trace_lambda: float,
    clip_rho: float,
    clip_c: float,
) -> tuple[Tensor, Tensor]:
    """Return V-trace targets and advantages, Espeholt et al. 2018 (1802.01561), section 4.

    With ρ_t = min(ρ̄, π/μ), c_t = λ min(c̄, π/μ) and δ_t = r_{t+1} + γ V_{t+1} (1 − terminated_{t+1}) − V_t:

    - target: v_t = V_t + ρ_t δ_t + γ c_t (v_{t+1} − V_{t+1}), where the last term is 0 at the end of an episode
    - advantage: A_t = ρ_t (δ_t + γ λ (v_{t+1} − V_{t+1}))

    With λ = 1 the advantage is the paper's ρ_t (r_{t+1} + γ v_{t+1} − V_t). Where π = μ, A is PPO's `compute_gae` and
    v_t = V_t + A_t, in each bit. A truncated episode bootstraps from the value of its end row.

    Args:
        reward: `[T + 1, B]`, received on arrival at each row; the last row is the bootstrap row.
        value: `[T + 1, B]`, V of each row's observation.
        log_ratio: `[T, B]`, log π(a|s) − log μ(a|s) of the trained policy π and of μ, which chose the actions. End rows
            may hold any number.
        terminated: `[T + 1, B]` booleans.
        truncated: `[T + 1, B]` booleans.
        gamma: discount factor γ.
        trace_lambda: trace decay λ.
        clip_rho: ρ̄, the largest weight of an error.
        clip_c: c̄, the largest weight of a trace.

    Returns:
        `[T, B]` targets and `[T, B]` advantages; on end rows, which have no action, V and 0.
    """
    delta, decay = td_errors(reward, value, terminated, truncated, gamma, trace_lambda)
    ratio = torch.exp(torch.where(has_action(terminated, truncated)[:-1], log_ratio, 0.0))
    rho, c = ratio.clamp(max=clip_rho), ratio.clamp(max=clip_c)
    correction = torch.zeros_like(delta[0])  # v − V
    corrections, advantages = [], []
    rows = zip(*(reversed(part.unbind()) for part in (delta, decay, rho, c)), strict=True)
    for delta_t, decay_t, rho_t, c_t in rows:
        advantages.append(rho_t * torch.addcmul(delta_t, decay_t, correction))
        correction = torch.addcmul(rho_t * delta_t, decay_t * c_t, correction)
        corrections.append(correction)
    return torch.stack(corrections[::-1]) + value[:-1], torch.stack(advantages[::-1])


def n_step_returns(
    reward: Tensor, terminated: Tensor, truncated: Tensor, n: int, gamma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the n-step returns of a fragment's rows, as `buffer.samplers.NStep` computes those of the newest rows.

    Args:
        reward: `[T + 1, B]`, received on arrival at each row; the last row is the bootstrap row.
        terminated: `[T + 1, B]` booleans.
        truncated: `[T + 1, B]` booleans.
        n: maximum number of steps; the end of an episode or of the fragment shortens them.
        gamma: discount factor γ.

    Returns:
        `[T, B]` sums of rewards, discounts of the value of the row after the last step, and numbers of that row.
    """
    last, is_last = len(reward) - 1, terminated | truncated
    after = torch.arange(1, last + 1, device=reward.device).unsqueeze(-1).expand(-1, reward.shape[1])
    total = reward[1:]
    discount = torch.full_like(total, gamma)
    for _ in range(n - 1):
        continues = (after < last) & ~is_last.gather(0, after)
        after = after + continues
        total = total + torch.where(continues, discount * reward.gather(0, after), 0.0)
        discount = torch.where(continues, discount * gamma, discount)
    return total, discount * ~terminated.gather(0, after), after
