"""Test phases that step several parameter groups from one loss, eagerly and as a traced graph."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.optim import SGD, Adam, RMSprop

from sheeprl.actors import learner as learner_module
from sheeprl.actors.learner import NonFiniteError
from sheeprl.algos.base import Loss, OptimizerSpec, Phase
from sheeprl.config import defaults
from sheeprl.learning.compile import tracing
from sheeprl.learning.compile.allreduce import sum_over_ranks
from sheeprl.models.optimizers import LaProp, RMSpropTF
from tests.actors.test_learner import assert_same, fabric, make_learner, parameters_of, rollout
from tests.actors.test_learner import spaces as gym_spaces
from tests.helpers.graphs import run_graph
from tests.helpers.toy_stop import ToyStop

__all__ = ["fabric"]

KINDS = [False, pytest.param(True, marks=pytest.mark.skipif(not defaults.has_compiler(), reason="no C++ compiler"))]
RATES, NORMS = {"encoder": 0.1, "head": 0.5}, {"encoder": 0.25, "head": None}


class Joint(ToyStop):
    """Toy whose only phase steps an encoder and a head, each with its own optimizer and clipping."""

    groups = ("encoder", "head")
    modules = (("policy",), ("head",))

    def optimizers(self):
        """Return one optimizer per group."""
        builds = (lambda parameters: Adam(parameters, lr=0.1)), (lambda parameters: SGD(parameters, lr=0.5))
        parts = zip(RATES, self.modules, builds, strict=True)
        return {name: OptimizerSpec(modules, build, NORMS[name]) for name, modules, build in parts}

    def phases(self, step):
        """Return the only phase."""
        return [Phase(self.groups, self.joint, lr_scale=0.5)]

    def joint(self, agent, batch, noise, carry):
        """Return the squared error of the product of both weights."""
        product = agent.policy.weight.squeeze() * agent.head.weight.squeeze()
        loss = (product - 3 * (batch["sample_weight"] > 0).any()) ** 2
        return Loss(loss, {"Loss/joint": loss.detach()})


@pytest.fixture
def make(fabric, monkeypatch):
    """Return a function that makes a learner of a toy class; compiled steps run their graph node by node."""
    monkeypatch.setattr(tracing, "open_graph", run_graph)

    def made(algorithm, compiled):
        """Make a learner of rollouts of ten rows, in five minibatches."""
        build = learner_module.build_algorithm
        with monkeypatch.context() as patch:
            patch.setattr(learner_module, "build_algorithm", lambda *args: _as(algorithm, build(*args)))
            sizes = {"rollout_steps": 5, "batch_size": 2, "epochs": 1, "compile": compiled}
            return make_learner(fabric, "tests.helpers.toy_stop:ToyStop", gym_spaces.Discrete(2), **sizes)

    return made


def _as(algorithm, instance):
    """Return an instance of another class with the same attributes."""
    instance.__class__ = algorithm
    return instance


def reference(steps):
    """Return the weights, and the mean norms, of the same steps in plain torch."""
    weights = {name: nn.Parameter(torch.ones(())) for name in RATES}
    optimizers = [Adam([weights["encoder"]], lr=0.05), SGD([weights["head"]], lr=0.25)]
    norms = {name: [] for name in weights}
    for _ in range(steps):
        loss = (weights["encoder"] * weights["head"] - 3) ** 2
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for name, weight in weights.items():
            norms[name].append(abs(weight.grad.item()))
        nn.utils.clip_grad_norm_([weights["encoder"]], NORMS["encoder"])
        for optimizer in optimizers:
            optimizer.step()
    return [weight.item() for weight in weights.values()], {f"Grads/{name}": np.mean(norms[name]) for name in norms}


@pytest.mark.parametrize("compiled", KINDS)
def test_a_phase_steps_several_groups(make, compiled):
    """Both groups step from gradients before their steps, with their own rates and norms, which are logged."""
    learner = make(Joint, compiled)
    info, _ = learner.update(4, 0.0, None, rollout())
    weights, norms = reference(4)
    assert [learner.agent.policy.weight.item(), learner.agent.head.weight.item()] == pytest.approx(weights)
    found = {name: value for name, value in info.metrics.items() if name.startswith("Grads/")}
    assert found == pytest.approx(norms)
    assert info.notes == () and (learner.compiled is not None) == compiled
    twin = make(Joint, compiled)
    twin.restore(learner.snapshot()[1])
    for one in (learner, twin):
        one.update(4, 0.0, None, rollout(seed=1))
    assert_same(twin.agent, parameters_of(learner.agent))


@pytest.mark.parametrize("compiled", KINDS)
def test_adaptive_clipping_limits_each_parameter(make, compiled):
    """Steps are limited to a fraction of each parameter's norm; the logged norm is that before clipping."""

    class Adaptive(Joint):
        """Both groups clip by parameter."""

        def optimizers(self):
            """Return SGD for both groups."""
            build, limits = (lambda parameters: SGD(parameters, lr=1.0)), {"encoder": 0.01, "head": 100.0}
            parts = zip(limits.items(), self.modules, strict=True)
            return {name: OptimizerSpec(modules, build, adaptive_clip=limit) for (name, limit), modules in parts}

    learner = make(Adaptive, compiled)
    info, _ = learner.update(2, 0.0, None, rollout())
    encoder, head, norms = 1.0, 1.0, []
    for _ in range(2):  # the phase halves the learning rate
        error = 2 * (encoder * head - 3)
        norms.append(abs(error * head))
        step = max(-0.01 * abs(encoder), min(0.01 * abs(encoder), error * head))
        encoder, head = encoder - 0.5 * step, head - 0.5 * error * encoder
    assert [learner.agent.policy.weight.item(), learner.agent.head.weight.item()] == pytest.approx([encoder, head])
    assert info.metrics["Grads/encoder"] == pytest.approx(np.mean(norms))


@pytest.mark.parametrize("compiled", KINDS)
def test_groups_of_a_phase_may_share_a_module(make, compiled):
    """Each group steps the shared parameters by the same gradient."""

    class Shared(Joint):
        """Both groups train the head."""

        modules = (("head",), ("head",))

    learner = make(Shared, compiled)
    learner.update(2, 0.0, None, rollout())
    weight = nn.Parameter(torch.ones(()))
    optimizers = [Adam([weight], lr=0.05), SGD([weight], lr=0.25)]
    for _ in range(2):
        (gradient,) = torch.autograd.grad((weight - 3) ** 2, [weight])
        for optimizer, factor in zip(optimizers, [min(1.0, 0.25 / abs(gradient.item())), 1.0], strict=True):
            weight.grad = gradient * factor
            optimizer.step()
    assert learner.agent.head.weight.item() == pytest.approx(weight.item())


@pytest.mark.parametrize("compiled", KINDS)
def test_no_group_steps_if_one_gradient_is_not_finite(make, compiled):
    """If one group's gradient isn't finite, no group of the phase changes, and no step is counted."""

    class Faulty(Joint):
        """The head's gradient is infinite once the reward is."""

        def joint(self, agent, batch, noise, carry):
            """Return the loss."""
            loss = super().joint(agent, batch, noise, carry)
            return Loss(loss.value + agent.head.weight.squeeze() * batch["reward"].mean())

    learner = make(Faulty, compiled)
    learner.update(2, 0.0, None, rollout())
    before, states = parameters_of(learner.agent), _optimizer_states(learner)
    block = rollout(seed=1)
    block["reward"][:] = np.inf
    with pytest.raises(
        NonFiniteError, match="the gradient of the loss of 'encoder' and 'head' is not finite at gradient step 2"
    ):
        learner.update(2, 0.0, None, block)
    assert_same(learner.agent, before)
    assert _optimizer_states(learner) == states and learner.gradient_steps == 2


def _optimizer_states(learner):
    """Return the optimizers' state as text."""
    return [repr(group.optimizer.state_dict()["state"]) for group in learner.step.groups.values()]


class EqualRanks:
    """Two ranks with the same gradients."""

    world = 2

    def __init__(self, fabric):
        """Count the sums."""
        self.sums = 0

    def sum(self, value):
        """Return the sum."""
        self.sums += 1
        return 2 * sum_over_ranks(value.detach())


@pytest.mark.parametrize("compiled", KINDS)
def test_all_gradients_of_a_phase_are_summed_at_once(make, monkeypatch, compiled):
    """Two ranks with equal gradients take the steps of one rank, with one sum per phase."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        alone = make(Joint, compiled)
        monkeypatch.setattr(learner_module, "FabricRanks", EqualRanks)
        two = make(Joint, compiled)
        for learner in (alone, two):
            learner.update(3, 0.0, None, rollout())
        assert_same(two.agent, parameters_of(alone.agent))
        if not compiled:
            assert two.step.ranks.sums == 3 * 2  # gradients, and the minibatch's count of actions
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("groups", [("encoder", "encoder"), ()])
def test_a_phase_names_each_group_once(make, groups):
    """A group that is named twice, or a phase without groups, is refused."""

    class Wrong(Joint):
        """Toy with wrong groups."""

    Wrong.groups = groups
    with pytest.raises(ValueError, match="name at least one, and each only once"):
        make(Wrong, False).update(1, 0.0, None, rollout())


@pytest.mark.skipif(not defaults.has_compiler(), reason="no C++ compiler")
@pytest.mark.parametrize(
    "build",
    [
        lambda parameters: SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
        lambda parameters: RMSprop(parameters, lr=0.01, centered=True, momentum=0.5),
        lambda parameters: RMSpropTF(parameters, lr=0.01, eps=1e-5),
        lambda parameters: LaProp(parameters, lr=0.01),
    ],
)
def test_traced_optimizers_equal_eager_ones(make, build):
    """Steps of these optimizers are traced, with their whole state, and equal the eager steps, also when restored."""

    class Chosen(Joint):
        """Toy with this optimizer for both groups."""

        def optimizers(self):
            """Return one optimizer per group."""
            return {name: OptimizerSpec(part, build) for name, part in zip(RATES, self.modules, strict=True)}

    eager, traced, restored = make(Chosen, False), make(Chosen, True), make(Chosen, True)
    for learner in (eager, traced):
        assert learner.update(4, 0.0, None, rollout())[0].notes == ()
    restored.restore(traced.snapshot()[1])
    for learner in (eager, traced, restored):
        learner.update(4, 0.0, None, rollout(seed=1))
    assert traced.compiled is not None
    assert_same(restored.agent, parameters_of(traced.agent))
    for name, values in eager.agent.state_dict().items():
        torch.testing.assert_close(traced.agent.state_dict()[name], values, rtol=1e-5, atol=1e-6)
