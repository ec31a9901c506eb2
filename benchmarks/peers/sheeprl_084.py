"""The original SheepRL's side of `benchmarks.speed`: run one workload and print its timing as JSON.

The module runs in a separate environment, because the original package has the same name as this one.

The loop's time is the time between the first reset and the closing of its vector environment. Its environments run in
its process, which is faster on the measured machines. Logging is off, and PPO has the two networks of two layers that
the other programs have.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from typing import Any

import gymnasium
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

PACKAGES = ("sheeprl", "torch", "lightning", "gymnasium", "numpy")

COMMON = (
    *(
        "env.num_envs=4",
        "env.sync_env=True",
        "env.capture_video=False",
        "algo.run_test=False",
        "algo.mlp_keys.encoder=[state]",
    ),
    *("buffer.memmap=False", "checkpoint.every=1000000000", "checkpoint.save_last=False"),
    *("metric.log_level=0", "metric.disable_timer=True", "fabric.devices=1"),
)
WORKLOADS = {
    "ppo_cartpole": (
        *("exp=ppo", "env.id=CartPole-v1", *COMMON),
        *("algo.rollout_steps=128", "algo.per_rank_batch_size=64", "algo.update_epochs=10", "algo.gamma=0.99"),
        *("algo.gae_lambda=0.95", "algo.clip_coef=0.2", "algo.vf_coef=0.5", "algo.max_grad_norm=0.5"),
        *("algo.normalize_advantages=True", "algo.optimizer.lr=3e-4", "algo.optimizer.eps=1e-5"),
        *("algo.encoder.mlp_layers=0", "algo.actor.ortho_init=True", "algo.critic.ortho_init=True"),
    ),
    "sac_halfcheetah": (
        *("exp=sac", "env=mujoco", "env.id=HalfCheetah-v5", *COMMON),
        # Its due gradient steps count from one vector step before, so 104 gives as many as 100 does elsewhere.
        *("algo.replay_ratio=1.0", "algo.learning_starts=104", "algo.per_rank_batch_size=256", "algo.gamma=0.99"),
        *("algo.tau=0.005", "algo.hidden_size=256", "buffer.size=1000000", "buffer.checkpoint=False"),
    ),
    # The widths of the size 1M. SheepRL 0.8.4's recurrent cell is dense, without blocks.
    "dreamer_v3_cartpole": (
        *(
            "exp=dreamer_v3",
            "env=gym",
            "env.id=CartPole-v1",
            *COMMON,
            "algo.cnn_keys.encoder=[]",
            "algo.cnn_keys.decoder=[]",
        ),
        *("algo.replay_ratio=0.5", "algo.learning_starts=480", "algo.horizon=15", "algo.dense_units=64"),
        *("algo.per_rank_batch_size=16", "algo.per_rank_sequence_length=64", "algo.mlp_layers=3"),
        *("algo.world_model.stochastic_size=32", "algo.world_model.discrete_size=4"),
        "algo.world_model.recurrent_model.recurrent_state_size=512",
        *(f"algo.world_model.{part}_model.hidden_size=64" for part in ("transition", "representation")),
        *(f"algo.world_model.{part}_model.mlp_layers=1" for part in ("reward", "discount")),
        *("buffer.size=100000", "buffer.checkpoint=False"),
    ),
}


class Watch:
    """Records the first reset and the closing of the vector environment, its steps, and the optimizers' steps."""

    def __init__(self) -> None:
        """Register the hooks."""
        self.began = self.ended = 0.0
        self.policy_steps = 0
        self.steps: Counter[int] = Counter()  # by optimizer; SAC has three, each of which takes one an update
        register_optimizer_step_post_hook(lambda optimizer, *_: self.steps.update([id(optimizer)]))
        self._wrap(gymnasium.vector.SyncVectorEnv)

    @property
    def updates(self) -> int:
        """Return the number of gradient steps."""
        return max(self.steps.values(), default=0)

    def _wrap(self, envs: Any) -> None:
        """Wrap the methods of a vector environment class."""
        reset, step, close = envs.reset, envs.step, envs.close

        def reset_seen(env: Any, *args: Any, **kwargs: Any) -> Any:
            """Record the first reset."""
            self.began = self.began or time.perf_counter()
            return reset(env, *args, **kwargs)

        def step_seen(env: Any, actions: Any) -> Any:
            """Count the policy steps."""
            self.policy_steps += env.num_envs
            return step(env, actions)

        def close_seen(env: Any, *args: Any, **kwargs: Any) -> Any:
            """Record the closing."""
            self.ended = self.ended or time.perf_counter()
            return close(env, *args, **kwargs)

        envs.reset, envs.step, envs.close = reset_seen, step_seen, close_seen


def main() -> None:
    """Run the workload and print its timing as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="let it compile its losses (SAC)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    watch = Watch()
    with tempfile.TemporaryDirectory(prefix="sheeprl_084_") as folder:
        words = [*WORKLOADS[given.workload], f"algo.total_steps={given.steps}", f"num_threads={given.threads}"]
        words += [
            f"fabric.accelerator={given.device}",
            f"log_root={folder}",
            f"hydra.run.dir={folder}",
            "hydra.output_subdir=null",
        ]
        words += ["algo.compile.enabled=True", "algo.compile.mode=default"] if given.compile else []
        sys.argv = ["sheeprl", *words]
        from sheeprl.cli import run  # imported here, because the import changes settings of PyTorch as the command does

        run()
    versions = {package: version(package) for package in PACKAGES}
    loop = watch.ended - watch.began
    result = {"loop": loop, "updates": watch.updates, "policy_steps": watch.policy_steps, "versions": versions}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
