"""Test that a loss can stop the round, eagerly and compiled, on one rank and on two."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from sheeprl.actors import learner as learner_module
from sheeprl.actors.learner import NonFiniteError
from sheeprl.algos.base import Loss
from sheeprl.config import defaults
from sheeprl.learning.compile import tracing
from sheeprl.learning.compile.allreduce import sum_over_ranks
from tests.actors.test_learner import assert_same, fabric, make_learner, make_learner_of, rollout, transitions
from tests.actors.test_learner import spaces as gym_spaces
from tests.helpers.graphs import run_graph
from tests.helpers.toy_stop import ToyStop

__all__ = ["fabric", "make_learner_of"]

KINDS = [False, pytest.param(True, marks=pytest.mark.skipif(not defaults.has_compiler(), reason="no C++ compiler"))]


@pytest.fixture
def make(fabric, monkeypatch):
    """Return a function that makes a learner of the toy; compiled steps run their graph without a C++ compiler."""
    monkeypatch.setattr(tracing, "open_graph", run_graph)

    def made(compiled, **args):
        """Make a learner for rollouts of ten rows, in five minibatches per epoch."""
        sizes = {"rollout_steps": 5, "batch_size": 2, "epochs": 2}
        name = "tests.helpers.toy_stop:ToyStop"
        learner = make_learner(fabric, name, gym_spaces.Discrete(2), compile=compiled, **{**sizes, **args})
        assert (learner.compiled is not None) == compiled
        return learner

    return made


@pytest.mark.parametrize("compiled", KINDS)
def test_a_stopped_round_equals_a_shorter_one(make, compiled):
    """A round that stops at its fifth step leaves all as a round of four steps does, and reports four steps."""
    stopped, shorter = make(compiled), make(compiled, least=-100.0)
    info, _ = stopped.update(10, 0.0, None, rollout())
    expected, _ = shorter.update(4, 0.0, None, rollout())
    assert stopped.agent.policy.weight.item() == -1.0
    assert info.gradient_steps == stopped.gradient_steps == expected.gradient_steps == 4
    assert info.metrics["Loss/weight"] == pytest.approx(np.mean([1, 0.5, 0, -0.5, -1]))  # with the stopping step's
    assert info.notes == expected.notes == ()
    assert_same(stopped.agent, shorter.agent.state_dict())
    for name, group in stopped.step.groups.items():
        states = group.optimizer.state_dict()["state"], shorter.step.groups[name].optimizer.state_dict()["state"]
        assert repr(states[0]) == repr(states[1])


@pytest.mark.parametrize("compiled", KINDS)
def test_the_next_round_begins_without_a_stop(make, compiled):
    """A stop ends with its round: the next one takes steps until its own stop."""
    learner = make(compiled)
    learner.update(10, 0.0, None, rollout())
    assert learner.update(10, 0.0, None, rollout(seed=1))[0].gradient_steps == 4  # stops at once
    with torch.no_grad():
        learner.agent.policy.weight.fill_(0.0)
    info, _ = learner.update(10, 0.0, None, rollout(seed=2))
    assert info.gradient_steps == 6 and learner.agent.steps.item() == 6
    twin = make(compiled)
    twin.restore(learner.snapshot()[1])
    for one in (learner, twin):
        with torch.no_grad():
            one.agent.policy.weight.fill_(0.25)
        one.update(10, 0.0, None, rollout(seed=3))
    assert_same(twin.agent, learner.agent.state_dict())


@pytest.mark.parametrize("compiled", KINDS)
def test_a_gradient_that_is_not_finite_counts_before_a_stop(make, compiled):
    """If the stopping step's gradient isn't finite, the step fails, and the optimizers count the steps before it."""

    class Faulty(ToyStop):
        """Toy whose gradient becomes infinite at the stop."""

        def first(self, agent, batch, noise, carry):
            """Return the loss."""
            loss = super().first(agent, batch, noise, carry)
            return Loss(loss.value / (~loss.stop).float(), stop=loss.stop)

    learner = make(compiled)
    learner.algorithm.__class__ = Faulty
    with pytest.raises(NonFiniteError, match="gradient step 4"):
        learner.update(10, 0.0, None, rollout())
    assert learner.gradient_steps == 4
    (state,) = learner.step.groups["second"].optimizer.state.values()
    assert state["step"].item() == 4


class OtherStops:
    """First of two ranks. The second one has the same gradients, and always stops."""

    world = 2

    def __init__(self, fabric):
        """Take no arguments from the Fabric."""

    def sum(self, value):
        """Return the sum; one element after the single gradient is the stop."""
        both = 2 * sum_over_ranks(value.detach())
        return both + torch.tensor([0.0, 1.0]) if value.shape == (2,) else both


@pytest.mark.parametrize("compiled", KINDS)
def test_any_rank_stops_all_ranks(make, monkeypatch, compiled):
    """If another rank stops the round, this rank takes no step, although its own loss doesn't stop."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        learner = make(compiled)
        learner.update(2, 0.0, None, rollout())  # creates the optimizers' state
        monkeypatch.setattr(learner_module, "FabricRanks", OtherStops)
        other = make(compiled)
        other.restore(learner.snapshot()[1])
        assert other.update(10, 0.0, None, rollout())[0].gradient_steps == 2
        assert_same(other.agent, learner.agent.state_dict())
    finally:
        dist.destroy_process_group()


def test_only_the_first_phase_of_an_on_policy_algorithm_may_stop(make, make_learner_of):
    """A stop by a later phase, or by an off-policy algorithm, is refused."""

    class Late(ToyStop):
        """Toy whose second phase stops."""

        def second(self, agent, batch, noise, carry):
            """Return the loss."""
            return Loss(agent.head.weight.squeeze(), stop=torch.tensor(True))

    learner = make(False)
    learner.algorithm.__class__ = Late
    with pytest.raises(ValueError, match=r"phase 2 returned Loss\.stop; return it from the first phase"):
        learner.update(1, 0.0, None, rollout())
    with pytest.raises(ValueError, match="only OnPolicy rounds can be stopped"):
        from sheeprl.algos.args import OffPolicy

        class Replaying(ToyStop):
            """Off-policy toy."""

            def data(self):
                """Return off-policy settings."""
                return OffPolicy(4, 1.0)

            def first(self, agent, batch, noise, carry):
                """Return the loss with a stop."""
                return Loss(agent.policy.weight.squeeze(), stop=torch.tensor(False))

        make_learner_of(Replaying).update(1, 0.0, None, transitions(size=4))
