"""Stable-Baselines3's side of `benchmarks.speed`: run one workload and print its timing as JSON.

The module is independent of SheepRL, so its environment needs only Stable-Baselines3.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from typing import Any

import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env

PACKAGES = ("stable-baselines3", "torch", "gymnasium", "numpy")


def build_ppo(num_envs: int, seed: int, device: str) -> tuple[Any, torch.optim.Optimizer]:
    """Return PPO on CartPole-v1, and the optimizer whose steps are counted."""
    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", num_envs, seed=seed),
        n_steps=128,
        batch_size=64,
        n_epochs=10,
        learning_rate=3e-4,
        gamma=0.99,
        gae_lambda=0.95,
        clip_range=0.2,
        vf_coef=0.5,
        max_grad_norm=0.5,
        seed=seed,
        device=device,
    )
    return model, model.policy.optimizer


def build_sac(num_envs: int, seed: int, device: str) -> tuple[Any, torch.optim.Optimizer]:
    """Return SAC on HalfCheetah-v5, and the optimizer whose steps are counted."""
    model = SAC(
        "MlpPolicy",
        make_vec_env("HalfCheetah-v5", num_envs, seed=seed),
        learning_rate=3e-4,
        buffer_size=1_000_000,
        learning_starts=100,
        batch_size=256,
        gamma=0.99,
        tau=0.005,
        train_freq=1,
        gradient_steps=-1,  # one per policy step of the last vector step
        seed=seed,
        device=device,
    )
    return model, model.critic.optimizer


BUILDERS = {"ppo_cartpole": build_ppo, "sac_halfcheetah": build_sac}


def main() -> None:
    """Run the workload and print its timing as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workload", choices=BUILDERS)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--num-envs", type=int, default=4)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, optimizer = BUILDERS[given.workload](given.num_envs, given.seed, given.device)
    updates = 0

    def count(*_: Any) -> None:
        """Count an update."""
        nonlocal updates
        updates += 1

    optimizer.register_step_post_hook(count)
    began = time.perf_counter()
    model.learn(given.steps)
    loop = time.perf_counter() - began
    versions = {package: version(package) for package in PACKAGES}
    print(json.dumps({"loop": loop, "updates": updates, "policy_steps": model.num_timesteps, "versions": versions}))


if __name__ == "__main__":
    main()
