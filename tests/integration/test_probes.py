"""Test every algorithm in coupled mode on probe environments, each of which has one thing to learn.

An algorithm takes part in the probes of the observations that its arguments declare, and in those of its memory if it
trains on sequences.
"""

import pytest
import torch

from sheeprl import load_config, train
from sheeprl.algos import registry
from sheeprl.algos.build import build_algorithm
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.config.checks import check
from sheeprl.config.loading import apply_overrides, validate
from sheeprl.evaluate import evaluate_checkpoint
from tests.helpers.algorithms import WORLD_MODEL, every_algorithm, is_discrete, is_off_policy, is_recurrent, supported
from tests.helpers.probe_envs import Follow

ON_POLICY = {"learning_rate": "3e-3", "rollout_steps": "32", "epochs": "5"}
ONE_PASS = {"learning_rate": "1e-2"}  # one gradient step per rollout, which is short
OFF_POLICY = {
    "batch_size": "64", "learning_rate": "3e-3", "actor_lr": "3e-3", "critic_lr": "3e-3", "model_lr": "3e-3",
    "alpha_lr": "3e-3",
    "alpha": "0.1", "learn_alpha": "false", "tau": "0.05", "replay_ratio": "1", "policy_delay": "2",
    "exploration_noise": "0.5", "target_every": "1", "exploration_fraction": "0.5",
    "sequence": "8", "burn_in": "2", "memory_size": "32", "adam_eps": "1e-5",
} | WORLD_MODEL  # fmt: skip
PICTURE = {"learning_rate": "1e-3", "cnn_features": "64"}  # convolutional networks need a lower rate
NEAR = {"gamma": "0.9"}  # the reward of a move comes soon, and large values slow down networks that policies share
QUIET = ["run.mode=coupled", "eval.episodes=0", "log.level=error", "trainer.threads=1", "env.num_envs=4"]


def arguments(algorithm):
    """Return the settings of an algorithm that learn a probe within seconds."""
    if is_off_policy(algorithm):
        return [*supported(algorithm, OFF_POLICY), "run.total_steps=1500", "buffer.size=5000"]
    has_epochs = "epochs" in registry.args_class(algorithm).model_fields
    steps = 3000 if has_epochs else 10_000
    return [*supported(algorithm, ON_POLICY if has_epochs else ONE_PASS), f"run.total_steps={steps}"]


def longer(algorithm, factor=6):
    """Return a longer run than that of the other probes."""
    (steps,) = [int(word.partition("=")[2]) for word in arguments(algorithm) if word.startswith("run.total_steps=")]
    return [f"run.total_steps={factor * steps}", *(["buffer.size=20000"] if is_off_policy(algorithm) else [])]


def learn(tmp_path, algorithm, env, *overrides, **kwargs):
    """Train and return the folder of the run."""
    folder = tmp_path / "run"
    module = "toy_envs" if env == "Recall-v0" else "probe_envs"
    kwargs.setdefault("continuous", not is_discrete(algorithm))
    settings = [
        f"env.id=tests.helpers.{module}:{env}",
        f"env.kwargs={kwargs}",
        f"run.dir={folder}",
        *QUIET,
        *arguments(algorithm),
    ]
    tree = {"algo": {"name": algorithm}, "env": {}}
    apply_overrides(tree, [*settings, *supported(algorithm, {"hidden_sizes": "[32]"}), *overrides])
    train(validate(tree))
    return folder


def agent_of(run_dir):
    """Return the trained agent of a run."""
    config = load_config(run_dir / "config.yaml")
    agent = build_algorithm(config.algo, check(config.model_dump(mode="json")).spaces).build_agent()
    agent.load_state_dict(torch.load(checkpoints(run_dir)[-1] / "agent.pt", weights_only=True)["agent"])
    return agent


def values(run_dir, observations, actions=None):
    """V of observations, min Q of observations and actions, or max Q; SAC's entropy term is small."""
    agent, obs = agent_of(run_dir), torch.tensor(observations, dtype=torch.float32)
    with torch.no_grad():
        if hasattr(agent, "critic_target") and actions is None:
            return agent.critic(obs, None).min(0).values.tolist()
        if hasattr(agent, "critic_target"):
            return agent.critic(obs, torch.tensor(actions, dtype=torch.float32)).min(0).values.tolist()
        return (agent.critic(obs) if hasattr(agent, "critic") else agent.policy(obs).max(-1).values).tolist()


def mean_return(run_dir, episodes=20):
    """Return the mean return of the final policy without exploration noise."""
    return evaluate_checkpoint(str(run_dir), episodes=episodes).mean_return


VECTORS = every_algorithm(kinds=("vector",))
MEMORIES = [each for each in VECTORS if is_recurrent(each.values[0])]
OTHERS = [each for each in VECTORS if not is_recurrent(each.values[0])]


TWO_KINDS = [  # off-policy algorithms that the other probes give continuous actions
    each
    for each in OTHERS
    if not is_discrete(each.values[0]) and "discrete" in registry.args_class(each.values[0]).actions
]


@pytest.fixture(params=VECTORS)
def algorithm(request):
    """Return the name of an algorithm."""
    return request.param


@pytest.fixture(params=OTHERS)
def valued(request):
    """Return the name of an algorithm whose critic needs no memory."""
    return request.param


def without_entropy(algorithm):
    """Q and V as plain returns: SAC's entropy bonus would add to both."""
    return supported(algorithm, {"alpha": "1e-6"})


def test_value_of_a_constant_reward(tmp_path, valued):
    """One step, reward 1: V = Q = 1."""
    run_dir = learn(tmp_path, valued, "Constant-v0", *without_entropy(valued))
    assert values(run_dir, [[0.0]], [[0.3]]) == pytest.approx([1.0], abs=0.1)


def test_reward_predicted_from_the_observation(tmp_path, valued):
    """One step, reward = observation, -1 or 1."""
    run_dir = learn(tmp_path, valued, "Predict-v0", *without_entropy(valued))
    assert values(run_dir, [[-1.0], [1.0]], [[0.0], [0.0]]) == pytest.approx([-1.0, 1.0], abs=0.15)


def test_discounting_over_two_steps(tmp_path, valued):
    """Reward 1 on the second of two steps: V(0) = gamma, V(1) = 1."""
    run_dir = learn(tmp_path, valued, "Discount-v0", "algo.gamma=0.5", *without_entropy(valued))
    assert values(run_dir, [[0.0], [1.0]], [[0.0], [0.0]]) == pytest.approx([0.5, 1.0], abs=0.1)


def test_truncation_bootstraps(tmp_path, valued):
    """Reward 1 for ever, truncated after 5 steps: V = 1 / (1 - gamma) = 2, which no sum of 5 rewards can teach."""
    steps = ["run.total_steps=2500"] if is_off_policy(valued) else ["run.total_steps=4000"]
    run_dir = learn(tmp_path, valued, "Endless-v0", "algo.gamma=0.5", *steps, *without_entropy(valued))
    assert values(run_dir, [[0.0]], [[0.0]]) == pytest.approx([2.0], abs=0.2)


def test_action_that_matters(tmp_path, algorithm):
    """Reward 1 for one of two actions (or for actions above 0), -1 for the other."""
    assert mean_return(learn(tmp_path, algorithm, "Act-v0")) == 1.0


def test_action_that_depends_on_the_observation(tmp_path, algorithm):
    """Reward 1 if the action's sign is the observation's."""
    assert mean_return(learn(tmp_path, algorithm, "ActOnObs-v0")) == 1.0


@pytest.mark.parametrize("algorithm", TWO_KINDS)
def test_discrete_actions_of_an_algorithm_for_both_kinds(tmp_path, algorithm):
    """Reward 1 if the action is the observation's: the values of both actions and the policy are learned."""
    run_dir = learn(tmp_path, algorithm, "ActOnObs-v0", *without_entropy(algorithm), continuous=False)
    assert mean_return(run_dir) == 1.0
    (down, up), (also_down, also_up) = values(run_dir, [[-1.0], [1.0]])
    assert [down, up, also_down, also_up] == pytest.approx([1.0, -1.0, -1.0, 1.0], abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", every_algorithm(("sac",), ("pixels",), ()))  # the next test is harder
def test_action_that_depends_on_the_colour_of_a_picture(tmp_path, algorithm):
    """Reward 1 for the action that the picture's colour names."""
    run_dir = learn(tmp_path, algorithm, "Colours-v0", *supported(algorithm, PICTURE))
    assert mean_return(run_dir, episodes=50) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", every_algorithm(kinds=("pixels",), quick=("ppo",)))
def test_action_that_depends_on_positions_in_a_picture(tmp_path, algorithm):
    """Reward 1 while a marker follows a moving dot; half of that without looking."""
    run_dir = learn(tmp_path, algorithm, "Follow-v0", *supported(algorithm, PICTURE | NEAR), *longer(algorithm))
    assert mean_return(run_dir) > 0.8 * Follow.STEPS


@pytest.mark.slow
@pytest.mark.parametrize("decisions", [pytest.param(2, marks=pytest.mark.every), 8])
@pytest.mark.parametrize("algorithm", MEMORIES)
def test_action_that_depends_on_an_earlier_observation(tmp_path, algorithm, decisions):
    """A recurrent policy names the cue of the first row in its last action."""
    run_dir = learn(tmp_path, algorithm, "Recall-v0", *longer(algorithm), decisions=decisions)
    assert mean_return(run_dir, episodes=50) > 0.95


@pytest.mark.parametrize(
    "algorithm", [each for each in every_algorithm(("ppo",), ("vector",), ()) if not is_recurrent(each.values[0])]
)
def test_a_policy_without_memory_cannot_recall(tmp_path, algorithm):
    """A policy without memory guesses the cue of the first row: the probe of memory needs one."""
    run_dir = learn(tmp_path, algorithm, "Recall-v0", decisions=4)
    assert 0.3 < mean_return(run_dir, episodes=100) < 0.7
