"""V-trace, as a pure function. IMPALA's losses are A2C's."""

from __future__ import annotations

import torch
from torch import Tensor


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
    continues = ~(terminated | truncated)
    is_action = continues[:-1]
    ratio = torch.exp(torch.where(is_action, log_ratio, 0.0))
    rho, c = ratio.clamp(max=clip_rho), ratio.clamp(max=clip_c)
    delta = (reward[1:] + gamma * value[1:] * (~terminated[1:]) - value[:-1]) * is_action
    decay = gamma * trace_lambda * (continues[1:] & is_action)
    correction = torch.zeros_like(delta[0])  # v − V
    corrections, advantages = [], []
    rows = zip(*(reversed(part.unbind()) for part in (delta, decay, rho, c)), strict=True)
    for delta_t, decay_t, rho_t, c_t in rows:
        advantages.append(rho_t * torch.addcmul(delta_t, decay_t, correction))
        correction = torch.addcmul(rho_t * delta_t, decay_t * c_t, correction)
        corrections.append(correction)
    return torch.stack(corrections[::-1]) + value[:-1], torch.stack(advantages[::-1])
