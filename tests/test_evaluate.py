from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

from sheeprl import ConfigError
from sheeprl.actors.evaluation import describe_cut, eval_seeds, play_episodes
from sheeprl.algos.base import PolicyOutput
from sheeprl.envs.timeout import StepWatch, StoppedError, StopRequest
from sheeprl.envs.transforms import action_space, observation_space
from sheeprl.evaluate import evaluate_checkpoint
from tests.helpers.envs import Counting
from tests.helpers.runs import run

SEEDS = [11, 5, 23, 8, 2, 40, 17]


class Remembering:
    """A policy with a state: action 1 on every second step of an episode, found by counting rows."""

    def __init__(self, env):
        """Store the spaces and start without rows."""
        self.spaces = SimpleNamespace(observation=observation_space(env.observation_space))
        self.modes, self.progress, self.rewards, self.observations = set(), set(), [], []

    def act(self, policy, row, state, mode, generator):
        """Record the row and count the actions of each lane."""
        count = state.get("count", torch.zeros(len(row.reward), dtype=torch.int64))
        count = torch.where(row.is_first, torch.zeros_like(count), count + 1)
        self.modes.add(mode)
        self.progress.add(row.progress)
        self.rewards.append(row.reward)
        self.observations.append(row.obs)
        return PolicyOutput(count % 2, rnn_state={"count": count})


def play(lanes, seeds=SEEDS, env_id="Counting-v0", **kwargs):
    """Play episodes in `lanes` environments; return the evaluation and the algorithm."""
    envs = [gymnasium.make(f"tests.helpers.envs:{env_id}", **kwargs) for _ in range(lanes)]
    algorithm = Remembering(envs[0])
    return play_episodes(algorithm, None, envs, list(seeds)), algorithm


def one_by_hand(seed, **kwargs):
    """Play one episode in a loop; return its return and length."""
    env = Counting(**kwargs)
    env.reset(seed=seed)
    total, length, over = 0.0, 0, False
    while not over:
        _, reward, terminated, truncated, _ = env.step(length % 2)
        total, length, over = total + reward, length + 1, terminated or truncated
    return total, length


@pytest.mark.parametrize("lanes", [1, 2, 3, 5, 7])
def test_results_do_not_depend_on_the_number_of_lanes(lanes):
    """Results don't depend on the number of lanes."""
    kwargs = {"lengths": (), "ends": ("truncated",)}  # the seed determines the lengths
    evaluation, algorithm = play(lanes, **kwargs)
    expected = [one_by_hand(seed, **kwargs) for seed in SEEDS]
    assert len({length for _, length in expected}) > 1
    assert evaluation.returns == [total for total, _ in expected]
    assert evaluation.lengths == [length for _, length in expected]
    assert evaluation.mean_return == pytest.approx(np.mean(evaluation.returns))
    assert evaluation.std_return == pytest.approx(np.std(evaluation.returns, ddof=1))
    assert algorithm.modes == {"greedy"} and algorithm.progress == {1.0}


def test_lanes_that_have_finished_wait_for_the_others():
    """Finished lanes wait for the others."""
    evaluation, _ = play(2, seeds=[1, 2, 3], lengths=(6,))
    assert evaluation.lengths == [6, 6, 6]
    # steps 1 to 6, and 100 for each of the actions after the second, fourth and sixth row
    assert evaluation.returns == [321, 321, 321]


def test_one_episode_has_no_spread():
    """The deviation of one episode is 0."""
    evaluation, _ = play(1, seeds=[3], lengths=(2,))
    assert (evaluation.mean_return, evaluation.std_return) == (103.0, 0.0)
    assert evaluation.returns == [103.0] and evaluation.lengths == [2]


def test_episodes_that_do_not_end_are_cut_and_reported():
    """Episodes that don't end are cut and reported."""
    envs = [gymnasium.make("tests.helpers.envs:Counting-v0", lengths=(length,)) for length in (3, 9)]
    evaluation = play_episodes(Remembering(envs[0]), None, envs, [1, 2, 3, 4], max_steps=5)
    assert evaluation.lengths == [3, 5, 3, 5] and evaluation.cut == 2
    assert describe_cut(evaluation) == (
        "2 of 4 evaluation episodes didn't end within 5 steps and were cut (eval.step_limit=5)"
    )


def test_an_episode_that_ends_at_the_limit_is_not_cut():
    """An episode that ends at the limit isn't cut."""
    envs = [gymnasium.make("tests.helpers.envs:Counting-v0", lengths=(5,))]
    evaluation = play_episodes(Remembering(envs[0]), None, envs, [1], max_steps=5)
    assert evaluation.lengths == [5] and evaluation.cut == 0 and not describe_cut(evaluation)


def test_a_stop_request_ends_an_evaluation():
    """A stop request ends an evaluation."""
    stop = StopRequest()
    stop.make(patience=0.0)
    envs = [gymnasium.make("tests.helpers.envs:Counting-v0")]
    with pytest.raises(StoppedError):
        play_episodes(Remembering(envs[0]), None, envs, [1], watch=StepWatch(None, stop=stop))


def test_rows_are_as_in_training():
    """The policy receives the same rows as in training."""
    _, algorithm = play(1, seeds=[3, 4], lengths=(2,))
    assert torch.cat(algorithm.rewards).tolist() == [0, 1, 0, 1]  # 0 on a first row
    assert torch.cat(algorithm.observations)[:, 2].tolist() == [0, 1, 0, 1]
    assert algorithm.observations[0].dtype == torch.float32


def test_dict_observations():
    """Dict observations are converted part by part."""
    evaluation, algorithm = play(2, seeds=[3, 4, 5], env_id="Nested-v0", lengths=(2,))
    assert evaluation.lengths == [2, 2, 2]
    obs = algorithm.observations[1]
    assert obs["where"].dtype == torch.float32 and obs["where"].tolist() == [[0.125, -0.125]] * 2
    assert obs["picture"].dtype == torch.uint8 and obs["picture"].shape == (2, 2, 2, 1)
    assert obs["inner"]["phase"].tolist() == [2, 2]


def test_environments_are_closed():
    """Environments are closed after an evaluation."""
    closed = []

    class Closing(Counting):
        def close(self):
            """Record the call."""
            closed.append(self)

    envs = [Closing(), Closing()]
    play_episodes(Remembering(envs[0]), None, envs, [1, 2, 3])
    assert closed == envs


def test_actions_are_converted_for_the_environment():
    """Actions are converted for the environment."""
    env = gymnasium.make("tests.helpers.envs:Echo-v0", kind="discrete", max_episode_steps=3)
    assert action_space(env.action_space).start == 0
    algorithm = Remembering(env)
    evaluation = play_episodes(algorithm, None, [env], [0])
    assert evaluation.returns == [5 + 6 + 5]


def test_eval_seeds_are_fixed_and_all_different():
    """Seeds of evaluations are reproducible and distinct."""
    assert eval_seeds(7, 20) == eval_seeds(7, 20)
    assert eval_seeds(7, 20)[:5] == eval_seeds(7, 5)  # more episodes keep the first ones
    assert len(set(eval_seeds(7, 1000))) == 1000
    assert not set(eval_seeds(7, 20)) & set(eval_seeds(8, 20))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return the folder of a run."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    run(folder, "ppo", "run.mode=coupled", "run.total_steps=64", "algo.rollout_steps=32", "env.num_envs=2")
    return str(folder)


def test_settings_of_the_environment_differ_from_those_of_the_run(checkpoint):
    """Settings of the environment differ from those of the run."""
    changed = evaluate_checkpoint(checkpoint, 2, settings=["env.max_episode_steps=5", "env.id=CartPole-v0"])
    assert changed.lengths == [5, 5]
    with pytest.raises(ConfigError, match="nonsense"):
        evaluate_checkpoint(checkpoint, 2, settings=["env.kwargs.nonsense=3"])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("env.id=Pendulum-v1", "env.id: the observations are Box"),
        ("env.wrappers=[gymnasium.wrappers:FrameStackObservation]", "env.wrappers"),
        ("env.wrapers=[]", "env.wrapers: unknown setting; did you mean env.wrappers?"),
        ("env.num_envs=3", "env.num_envs: can't change in an evaluation; it takes env.id, env.kwargs, env.wrappers, "),
        ("algo.gamma=3", "algo.gamma: can't change in an evaluation; it takes env.id, "),
        ("eval.episodes=3", "eval.episodes: use --episodes"),
        ("gravity", "'gravity': isn't a setting; use key=value"),
    ],
)
def test_settings_that_an_evaluation_refuses(checkpoint, setting, said):
    """Settings that an evaluation refuses."""
    with pytest.raises(ConfigError) as caught:
        evaluate_checkpoint(checkpoint, 2, settings=[setting])
    assert caught.value.mistakes[0].startswith(said)
