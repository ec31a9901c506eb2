"""APPO: PPO without lag, and a ratio to the first policy of the round with it."""

import torch
from gymnasium import spaces
from tensordict import TensorDict

from sheeprl.algos.appo.appo import APPO
from sheeprl.algos.appo.args import APPOArgs
from sheeprl.algos.base import Spaces
from sheeprl.algos.ppo.args import PPOArgs
from tests.actors.test_learner import assert_same, fabric, make_learner, parameters_of, rollout
from tests.algos.impala.test_impala import ENDS, without_lag

__all__ = ["fabric"]

SIZES = {"hidden_sizes": [8], "rollout_steps": 5, "batch_size": 4, "epochs": 2}


def test_without_lag_a_round_equals_one_of_ppo(fabric):
    """A round of several epochs on a rollout of the trained policy gives PPO's parameters in each bit."""
    learners = [make_learner(fabric, name, spaces.Discrete(3), **SIZES) for name in ("ppo", "appo")]
    for learner in learners:
        for seed in range(2):
            learner.update(6, 0.0, None, without_lag(learner.agent, rollout(seed, ends=ENDS)))
    assert_same(learners[1].agent, parameters_of(learners[0].agent))


def test_the_ratio_is_to_the_first_policy_of_the_round(fabric):
    """With lag, the clipped ratio starts at 1, and the advantages carry the weight of the lag."""
    space = Spaces(spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(3))
    algorithm = APPO(APPOArgs(name="appo", hidden_sizes=(8,), gae_lambda=0.0), space)
    agent = algorithm.build_agent()
    block = without_lag(agent, rollout(ends=ENDS))
    rows = TensorDict({name: torch.from_numpy(values) for name, values in block.items()}, [6, 2])
    lagging = rows.clone()
    lagging["logprob"][:-1] += torch.log(torch.tensor(2.0))
    with torch.no_grad():
        one, half = (algorithm.prepare_rollout(agent, each) for each in (rows, lagging))
    assert torch.equal(half["logprob"], one["logprob"])
    torch.testing.assert_close(half["advantage"], one["advantage"] / 2)


def test_arguments_and_data():
    """Arguments besides V-trace's are PPO's, apart from the epochs; sequences are read with a memory only."""
    ours, theirs = APPOArgs(name="appo"), PPOArgs(name="ppo")
    assert all(getattr(ours, name) == getattr(theirs, name) for name in set(PPOArgs.model_fields) - {"name", "epochs"})
    assert ours.data().sequence is None and ours.data().standardize == ("advantage",)
    assert APPOArgs(name="appo", memory="gru", sequence=8).data().sequence == 8
