"""IMPALA: A2C without lag, importance weights with it, and its memory."""

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict

from sheeprl.algos.a2c.args import A2CArgs
from sheeprl.algos.base import Spaces
from sheeprl.algos.impala.args import ImpalaArgs
from sheeprl.algos.impala.impala import Impala
from sheeprl.config import defaults
from sheeprl.config.loading import validate
from tests.actors.test_learner import assert_same, fabric, make_learner, parameters_of, rollout

__all__ = ["fabric"]

SIZES = {"hidden_sizes": [8], "rollout_steps": 5, "entropy_coef": 0.1, "learning_rate": 1e-3, "rmsprop_eps": 1e-5}
ENDS = ((2, 0), (3, 1))


def built(**args):
    """Return IMPALA for observations of 3 numbers and 3 actions, and its agent."""
    space = Spaces(spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(3))
    algorithm = Impala(ImpalaArgs(name="impala", rollout_steps=5, hidden_sizes=(8,), **args), space)
    torch.manual_seed(0)
    return algorithm, algorithm.build_agent()


def without_lag(agent, block):
    """Return the block with the agent's log probabilities, as if a player with its weights had collected it."""
    rows = {name: torch.from_numpy(values[:-1]).flatten(0, 1) for name, values in block.items()}
    with torch.no_grad():
        logprob = agent.policy.logprob(agent.policy(rows["obs"]), rows["action"])
    stored = block["logprob"].copy()
    stored[:-1] = logprob.view(stored[:-1].shape).numpy()
    return {**block, "logprob": stored}


def test_without_lag_a_round_equals_one_of_a2c(fabric):
    """A round on rollouts of the trained policy gives A2C's parameters in each bit."""
    learners = [make_learner(fabric, name, spaces.Discrete(3), **SIZES) for name in ("a2c", "impala")]
    for learner in learners:
        for seed in range(3):
            learner.update(1, 0.0, None, without_lag(learner.agent, rollout(seed, ends=ENDS)))
    assert_same(learners[1].agent, parameters_of(learners[0].agent))
    lagging = make_learner(fabric, "impala", spaces.Discrete(3), **SIZES)
    lagging.update(1, 0.0, None, rollout(0, ends=ENDS))
    assert not torch.equal(*(one.step.flat.vectors[0] for one in (lagging, learners[0])))


def test_lag_weights_the_advantages():
    """The advantage of an action that the policy takes half as often as the player did has half the weight."""
    algorithm, agent = built(gae_lambda=0.0)
    block = without_lag(agent, rollout(ends=ENDS))
    rows = TensorDict({name: torch.from_numpy(values) for name, values in block.items()}, [6, 2])
    lagging = rows.clone()
    lagging["logprob"][:-1] += torch.log(torch.tensor(2.0))
    likelier = rows.clone()
    likelier["logprob"][:-1] -= 1.0
    with torch.no_grad():
        one, half, clipped = (algorithm.prepare_rollout(agent, each) for each in (rows, lagging, likelier))
    torch.testing.assert_close(half["advantage"], one["advantage"] / 2)
    torch.testing.assert_close(half["returns"] - half["value"], (one["returns"] - one["value"]) / 2)
    assert torch.equal(clipped["advantage"], one["advantage"])  # weights are at most 1


@pytest.mark.parametrize("memory", ["lstm", "gru"])
def test_a_memory_trains_on_whole_rollouts(fabric, memory):
    """With a memory, one gradient step reads the sequences of all rows, from the stored states."""
    learner = make_learner(fabric, "impala", spaces.Discrete(3), **SIZES, memory=memory, memory_size=4)
    data = learner.algorithm.data()
    assert (data.sequence, data.due_gradient_steps(0, 0, rows=10)) == (5, 1)
    block = rollout(ends=ENDS)
    states = {name: block["reward"][..., None].repeat(4, -1) for name in learner.agent.policy.memory.names}
    before = parameters_of(learner.agent)
    info, _ = learner.update(1, 0.0, None, {**block, **states})
    assert info.gradient_steps == 1
    changed = [name for name, values in parameters_of(learner.agent).items() if not torch.equal(values, before[name])]
    assert {"policy.memory.hidden.weight", "critic.network.0.weight"} <= set(changed)


def test_collection_overlaps_training_by_default():
    """Decoupled runs collect one version behind training, unless a setting changes that; those of A2C don't."""
    tree = {"algo": {"name": "impala"}, "env": {"id": "none"}, "run": {}}
    assert defaults.fill_in(validate(tree)).max_staleness == 1
    assert defaults.fill_in(validate({**tree, "run": {"max_staleness": 4}})).max_staleness == 4
    assert defaults.fill_in(validate({**tree, "run": {"mode": "coupled"}})).max_staleness == 0
    assert defaults.fill_in(validate({**tree, "algo": {"name": "a2c"}})).max_staleness == 0


def test_arguments():
    """Arguments besides V-trace's are A2C's, and a clip of traces above that of errors is refused."""
    shared = set(A2CArgs.model_fields) - {"name", "learning_rate", "rollout_steps", "entropy_coef", "rmsprop_eps"}
    ours, theirs = ImpalaArgs(name="impala"), A2CArgs(name="a2c")
    assert all(getattr(ours, name) == getattr(theirs, name) for name in shared)
    with pytest.raises(ValueError, match=r"clip_c=2 is above clip_rho=1\.5; use at most clip_c=1\.5"):
        ImpalaArgs(name="impala", clip_c=2.0, clip_rho=1.5)
