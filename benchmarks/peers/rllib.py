"""RLlib's side of `benchmarks.speed`: run one workload and print its timing as JSON.

The module is independent of SheepRL, so its environment needs only RLlib. Learning runs in this process, and so does
sampling, except IMPALA's; this is RLlib's fastest setting on two cores. Because it is slow, `--updates` can end it
early; then its rate counts.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from importlib.metadata import version
from typing import Any

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import torch
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from torch.optim.optimizer import register_optimizer_step_post_hook

PACKAGES = ("ray", "torch", "gymnasium", "numpy")


def build_ppo(seed: int) -> Any:
    """Return the configuration of PPO on CartPole-v1, with a rollout of 128 rows and 4 environments an iteration."""
    model = DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh", vf_share_layers=False)
    config = PPOConfig().environment("CartPole-v1").debugging(seed=seed)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=4, rollout_fragment_length=128)
    config.rl_module(model_config=model)
    config.training(
        train_batch_size_per_learner=512,
        minibatch_size=64,
        num_epochs=10,
        lr=3e-4,
        gamma=0.99,
        lambda_=0.95,
        clip_param=0.2,
        vf_loss_coeff=0.5,
        grad_clip=0.5,
        use_kl_loss=False,
        entropy_coeff=0.0,
    )
    return config


def build_sac(seed: int) -> Any:
    """Return the configuration of SAC on HalfCheetah-v5, with one update per policy step."""
    model = DefaultModelConfig(
        fcnet_hiddens=[256, 256], fcnet_activation="relu", head_fcnet_hiddens=[], head_fcnet_activation=None
    )
    config = SACConfig().environment("HalfCheetah-v5").debugging(seed=seed)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=4, rollout_fragment_length=1)
    config.reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=1)
    config.rl_module(model_config=model)
    config.training(
        train_batch_size_per_learner=256,
        training_intensity=256,
        num_steps_sampled_before_learning_starts=100,
        replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": 1_000_000},
        actor_lr=3e-4,
        critic_lr=3e-4,
        alpha_lr=3e-4,
        gamma=0.99,
        tau=0.005,
        n_step=1,
        twin_q=True,
    )
    return config


def build_impala(seed: int) -> Any:
    """Return the configuration of IMPALA on CartPole-v1, with two runners of 4 environments and updates of 400 rows."""
    model = DefaultModelConfig(fcnet_hiddens=[64, 64], fcnet_activation="tanh", vf_share_layers=False)
    config = IMPALAConfig().environment("CartPole-v1").debugging(seed=seed)
    config.env_runners(num_env_runners=2, num_envs_per_env_runner=4, rollout_fragment_length=50)
    config.reporting(min_time_s_per_iteration=1)
    config.rl_module(model_config=model)
    config.training(train_batch_size_per_learner=400, lr=7e-4, gamma=0.99, vf_loss_coeff=0.5, entropy_coeff=0.0)
    return config


BUILDERS = {"ppo_cartpole": build_ppo, "sac_halfcheetah": build_sac, "impala_cartpole": build_impala}


def main() -> None:
    """Run the workload and print its timing as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workload", choices=BUILDERS)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--updates", type=int, help="end after so many, if that is sooner")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    steps: Counter[int] = Counter()  # by optimizer; SAC has several, each of which takes one an update
    register_optimizer_step_post_hook(lambda optimizer, *_: steps.update([id(optimizer)]))
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    config = BUILDERS[given.workload](given.seed)
    config.learners(num_learners=0, num_gpus_per_learner=int(given.device == "cuda"))
    algorithm = config.build_algo()
    torch.set_num_threads(given.threads)
    began, played, updates = time.perf_counter(), 0, 0
    while played < given.steps and (given.updates is None or updates < given.updates):
        result = algorithm.train()
        played = int(result["num_env_steps_sampled_lifetime"])
        updates = max(steps.values(), default=0)
    loop = time.perf_counter() - began
    algorithm.stop()
    ray.shutdown()
    versions = {package: version(package) for package in PACKAGES}
    print(json.dumps({"loop": loop, "updates": updates, "policy_steps": played, "versions": versions}))


if __name__ == "__main__":
    main()
