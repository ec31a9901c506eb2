"""Stable-Baselines3's side of whole runs: run one workload and print its timing as JSON.

The module is independent of SheepRL, so its environment needs only Stable-Baselines3.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import gymnasium
import numpy as np
import torch
from pictures import Pictures
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

PACKAGES = ("stable-baselines3", "sb3-contrib", "torch", "gymnasium", "numpy")

Builder = Callable[[int, int, str], "tuple[Any, torch.optim.Optimizer]"]


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


def build_dqn(num_envs: int, seed: int, device: str) -> tuple[Any, torch.optim.Optimizer]:
    """Return DQN on CartPole-v1, and the optimizer whose steps are counted."""
    model = DQN(
        "MlpPolicy",
        make_vec_env("CartPole-v1", num_envs, seed=seed),
        learning_rate=2.3e-3,
        buffer_size=100_000,
        learning_starts=1024,
        batch_size=64,
        gamma=0.99,
        train_freq=256,
        gradient_steps=128,
        target_update_interval=256,  # policy steps: twice the gradient steps between two copies
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
        device=device,
    )
    return model, model.policy.optimizer


class GridCNN(BaseFeaturesExtractor):
    """MinAtar's network: one convolution and one linear layer."""

    def __init__(self, space: gymnasium.spaces.Box, features: int) -> None:
        """Build the layers."""
        super().__init__(space, features)
        channels, height, width = space.shape
        flat = 16 * (height - 2) * (width - 2)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(flat, features), nn.ReLU()
        )

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return the features."""
        return self.layers(observations)


def build_pictures(size: int, network: dict[str, Any]) -> Builder:
    """Return a function that builds PPO on pictures of a size."""

    def build(num_envs: int, seed: int, device: str) -> tuple[Any, torch.optim.Optimizer]:
        """Return PPO on pictures, and the optimizer whose steps are counted."""
        model = PPO(
            "CnnPolicy",
            make_vec_env(Pictures, num_envs, seed=seed, env_kwargs={"size": size}),
            n_steps=128,
            batch_size=256,
            n_epochs=4,
            learning_rate=2.5e-4,
            gamma=0.99,
            gae_lambda=0.95,
            clip_range=0.1,
            ent_coef=0.01,
            vf_coef=0.5,
            max_grad_norm=0.5,
            policy_kwargs={"net_arch": [], **network},
            seed=seed,
            device=device,
        )
        return model, model.policy.optimizer

    return build


class WithoutVelocities(gymnasium.ObservationWrapper):
    """CartPole's observation with its velocities set to zero."""

    def observation(self, observation: Any) -> Any:
        """Return the observation without its velocities."""
        return observation * np.array([1, 0, 1, 0], observation.dtype)


def build_recurrent(num_envs: int, seed: int, device: str) -> tuple[Any, torch.optim.Optimizer]:
    """Return recurrent PPO on CartPole-v1 without velocities, and the optimizer whose steps are counted.

    One LSTM serves actor and critic, and sequences have up to 32 rows, as in SheepRL.
    """
    model = RecurrentPPO(
        "MlpLstmPolicy",
        make_vec_env("CartPole-v1", num_envs, seed=seed, wrapper_class=WithoutVelocities),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        learning_rate=1e-3,
        gamma=0.98,
        gae_lambda=0.8,
        clip_range=0.2,
        vf_coef=0.5,
        max_grad_norm=0.5,
        policy_kwargs={
            "lstm_hidden_size": 64,
            "shared_lstm": True,
            "enable_critic_lstm": False,
            "net_arch": {"pi": [64], "vf": [64]},
        },
        seed=seed,
        device=device,
    )
    return model, model.policy.optimizer


BUILDERS = {
    "ppo_cartpole": build_ppo,
    "sac_halfcheetah": build_sac,
    "dqn_cartpole": build_dqn,
    "ppo_grid": build_pictures(
        10, {"features_extractor_class": GridCNN, "features_extractor_kwargs": {"features": 128}}
    ),
    "ppo_pictures": build_pictures(84, {}),
    "ppo_recurrent": build_recurrent,
}
DEFAULT_ENVS = {"dqn_cartpole": 1, "ppo_grid": 8, "ppo_pictures": 8, "ppo_recurrent": 8}


def main() -> None:
    """Run the workload and print its timing as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workload", choices=BUILDERS)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--num-envs", type=int, help="default: that of the workload")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    num_envs = given.num_envs or DEFAULT_ENVS.get(given.workload, 4)
    model, optimizer = BUILDERS[given.workload](num_envs, given.seed, given.device)
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
