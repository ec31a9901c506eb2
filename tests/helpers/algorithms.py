"""Small runs of every registered algorithm, chosen from its arguments."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sheeprl import train
from sheeprl.algos import registry
from sheeprl.algos.args import OffPolicy, OnPolicy
from sheeprl.config.loading import apply_overrides, validate
from sheeprl.config.schema import Config

QUICK = ("ppo", "sac")  # algorithms that every test includes
SLOW = ("dqn", "ppo_recurrent")  # algorithms with other mechanisms, which most tests of the slow suite include
MORE = (*SLOW, "dreamer_v3")  # with a world model, for mechanisms that depend on the kind of algorithm

# Overrides of those arguments that an algorithm has.
WORLD_MODEL = {
    "sequence_length": "8", "horizon": "3", "deter": "32", "hidden": "16", "classes": "4", "categoricals": "8",
    "units": "32", "layers": "2", "stoch": "8", "depth": "2", "blocks": "4", "warmup": "50",
    "ensemble": "3", "ensemble_units": "16", "ensemble_layers": "2",
}  # fmt: skip
ARGUMENTS = {"hidden_sizes": "[32,32]", "batch_size": "32"} | WORLD_MODEL
ON_POLICY = {"rollout_steps": "32", "epochs": "2"}
OFF_POLICY = {"learning_starts": "50", "pretrain_steps": "2", "replay_ratio": "1", "sequence": "6", "burn_in": "3"}
SEQUENCES = {"replay_ratio": "0.25"}  # a gradient step on sequences takes ten times as long
QUIET = ("eval.episodes=0", "log.level=error", "trainer.threads=1", "env.num_envs=2")


def every_algorithm(
    slow: tuple[str, ...] = SLOW, kinds: tuple[str, ...] = ("vector", "pixels"), quick: tuple[str, ...] = QUICK
) -> list:
    """Return every registered algorithm as a parameter; all but the quick ones have a mark.

    Args:
        slow: algorithms of the slow suite; those that are in neither suite run with `--every`.
        kinds: kinds of observations, of which an algorithm must support one.
        quick: algorithms without a mark.
    """
    marks = {**dict.fromkeys(slow, pytest.mark.slow), **dict.fromkeys(quick, ())}
    return [
        pytest.param(name, marks=marks.get(name, pytest.mark.every))
        for name in registry.registered()
        if set(kinds) & set(registry.args_class(name).observations)
    ]


def reading(name: str) -> OnPolicy | OffPolicy:
    """Return how an algorithm reads its data with default arguments."""
    return registry.args_class(name)(name=name).data()


def is_off_policy(name: str) -> bool:
    """Return True if an algorithm samples from the replay buffer."""
    return reading(name).is_off_policy


def is_recurrent(name: str) -> bool:
    """Return True if an algorithm trains on sequences, so that its policy has a memory."""
    data = reading(name)
    length = getattr(data, "sequence", None) if isinstance(data, OnPolicy) else getattr(data.sampler, "length", None)
    return (length or 1) > 1


def is_discrete(name: str) -> bool:
    """Return True if an algorithm gets environments with discrete actions: on-policy with both kinds, or no others."""
    actions = registry.args_class(name).actions
    return "discrete" in actions and not (is_off_policy(name) and "continuous" in actions)


def supported(name: str, arguments: dict[str, str]) -> list[str]:
    """Return the overrides of those arguments that an algorithm has."""
    fields = registry.args_class(name).model_fields
    return [f"algo.{key}={value}" for key, value in arguments.items() if key in fields]


@dataclass(frozen=True)
class Small:
    """Smallest suitable run of an algorithm.

    Args:
        name: registered name.
    """

    name: str

    @property
    def env(self) -> str:
        """Return an environment with actions and observations that the algorithm supports."""
        if "vector" not in registry.args_class(self.name).observations:
            return "tests.helpers.probe_envs:Follow-v0"
        return "CartPole-v1" if is_discrete(self.name) else "Pendulum-v1"

    @property
    def overrides(self) -> list[str]:
        """Return the settings of a run of a few hundred steps."""
        env = [f"env.id={self.env}", *QUIET]
        if self.env.startswith("tests."):
            env.append(f"env.kwargs={{continuous: {str(not is_discrete(self.name)).lower()}, noise: 255}}")
            env.append("checkpoint.envs=true")  # a resumed run continues their episodes, as those of Gymnasium
        if is_off_policy(self.name):
            sizes = ["buffer.size=20000", "players.fragment_rows=8"]
            rate = SEQUENCES if is_recurrent(self.name) else {}
            return [*env, *sizes, *supported(self.name, ARGUMENTS | OFF_POLICY | rate)]
        return [*env, *supported(self.name, ARGUMENTS | ON_POLICY)]

    def config(self, folder, *overrides: str) -> Config:
        """Return the configuration of a run in a folder."""
        tree = {"algo": {"name": self.name}, "env": {}}
        apply_overrides(tree, [f"run.dir={folder}", *self.overrides, *overrides])
        return validate(tree)

    def run(self, folder, *overrides: str):
        """Train in a folder and return the result."""
        return train(self.config(folder, *overrides))


def assert_exact_ratio(config: Config, policy_steps: int, gradient_steps: int) -> None:
    """Check that a run has taken the gradient steps that its policy steps require, none more and none less."""
    data = config.algo.data()
    if data.is_off_policy:
        assert gradient_steps == data.total_gradient_steps(policy_steps) > 0
        return
    rows = data.rollout_steps * config.env.num_envs * (config.players.num or 1)
    rounds, rest = divmod(gradient_steps, data.due_gradient_steps(0, 0, rows))
    assert rest == 0
    assert 0.8 * rounds * rows <= policy_steps <= rounds * rows  # end rows of episodes are no policy steps
