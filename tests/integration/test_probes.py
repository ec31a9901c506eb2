"""Test every algorithm in coupled mode on probe environments, each of which has one thing to learn."""

import pytest
import torch

from sheeprl import load_config, train
from sheeprl.algos.build import build_algorithm
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.config.checks import check
from sheeprl.evaluate import evaluate_checkpoint

PPO = [
    "algo.learning_rate=3e-3",
    "algo.rollout_steps=32",
    "algo.epochs=5",
    "algo.hidden_sizes=[32]",
    "run.total_steps=3000",
]
REPLAY = ["algo.hidden_sizes=[32]", "algo.batch_size=64", "algo.actor_lr=3e-3", "algo.critic_lr=3e-3", "algo.tau=0.05"]
REPLAY += ["run.total_steps=1500", "buffer.size=5000"]
ENTROPY = ["algo.alpha_lr=3e-3", "algo.alpha=0.1", "algo.learn_alpha=false"]
ARGUMENTS = {
    "ppo": PPO,
    "sac": [*REPLAY, *ENTROPY],
    "td3": [*REPLAY, "algo.exploration_noise=0.5"],
    "droq": [*REPLAY, *ENTROPY, "algo.replay_ratio=1", "algo.policy_delay=2"],
}


def learn(tmp_path, algorithm, env, *overrides):
    """Train and return the agent, its algorithm and the folder."""
    arguments = ARGUMENTS[algorithm]
    common = [
        "run.mode=coupled",
        f"run.dir={tmp_path / 'run'}",
        "eval.episodes=0",
        "log.level=error",
        "trainer.threads=1",
    ]
    kwargs = f"env.kwargs={{continuous: {str(algorithm != 'ppo').lower()}}}"
    config = load_config(algorithm, [f"env.id=tests.helpers.probe_envs:{env}", kwargs, *arguments, *common, *overrides])
    result = train(config)
    built = build_algorithm(config.algo, check(config.model_dump(mode="json")).spaces)
    agent = built.build_agent()
    agent.load_state_dict(torch.load(checkpoints(result.run_dir)[-1] / "agent.pt", weights_only=True)["agent"])
    return agent, result.run_dir


def values(agent, observations, actions=None):
    """V of observations, or min Q of observations and actions; the entropy term of SAC is small at alpha 0.1 and 0."""
    obs = torch.tensor(observations, dtype=torch.float32)
    with torch.no_grad():
        if hasattr(agent, "critic_target"):
            return agent.critic(obs, torch.tensor(actions, dtype=torch.float32)).min(0).values.tolist()
        return agent.critic(obs).tolist()


@pytest.fixture(params=["ppo", "sac", *(pytest.param(name, marks=pytest.mark.slow) for name in ("td3", "droq"))])
def algorithm(request):
    """Return the name of an algorithm."""
    return request.param


def without_entropy(algorithm):
    """Q and V as plain returns: SAC's entropy bonus would add to both."""
    return ["algo.alpha=1e-6"] if algorithm in ("sac", "droq") else []


def test_value_of_a_constant_reward(tmp_path, algorithm):
    """One step, reward 1: V = Q = 1."""
    agent, _ = learn(tmp_path, algorithm, "Constant-v0", *without_entropy(algorithm))
    assert values(agent, [[0.0]], [[0.3]]) == pytest.approx([1.0], abs=0.1)


def test_reward_predicted_from_the_observation(tmp_path, algorithm):
    """One step, reward = observation, -1 or 1."""
    agent, _ = learn(tmp_path, algorithm, "Predict-v0", *without_entropy(algorithm))
    assert values(agent, [[-1.0], [1.0]], [[0.0], [0.0]]) == pytest.approx([-1.0, 1.0], abs=0.15)


def test_discounting_over_two_steps(tmp_path, algorithm):
    """Reward 1 on the second of two steps: V(0) = gamma, V(1) = 1."""
    agent, _ = learn(tmp_path, algorithm, "Discount-v0", "algo.gamma=0.5", *without_entropy(algorithm))
    assert values(agent, [[0.0], [1.0]], [[0.0], [0.0]]) == pytest.approx([0.5, 1.0], abs=0.1)


def test_truncation_bootstraps(tmp_path, algorithm):
    """Reward 1 for ever, truncated after 5 steps: V = 1 / (1 - gamma) = 2, which no sum of 5 rewards can teach."""
    steps = "run.total_steps=4000" if algorithm == "ppo" else "run.total_steps=2500"
    agent, _ = learn(tmp_path, algorithm, "Endless-v0", "algo.gamma=0.5", steps, *without_entropy(algorithm))
    assert values(agent, [[0.0]], [[0.0]]) == pytest.approx([2.0], abs=0.2)


def test_action_that_matters(tmp_path, algorithm):
    """Reward 1 for one of two actions (or for actions above 0), -1 for the other."""
    _, run_dir = learn(tmp_path, algorithm, "Act-v0")
    assert evaluate_checkpoint(str(run_dir), episodes=20).mean_return == 1.0


def test_action_that_depends_on_the_observation(tmp_path, algorithm):
    """Reward 1 if the action's sign is the observation's."""
    _, run_dir = learn(tmp_path, algorithm, "ActOnObs-v0")
    assert evaluate_checkpoint(str(run_dir), episodes=20).mean_return == 1.0
