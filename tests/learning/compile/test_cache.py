"""Compiled gradient steps against the same ones taken one operation after the other."""

import os
import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import SGD, Adagrad, Adam

from sheeprl.actors import learner as learner_module
from sheeprl.actors.learner import Learner, NonFiniteError
from sheeprl.algos.base import Loss, OptimizerSpec, Spaces
from sheeprl.config import defaults
from sheeprl.config.loading import validate
from sheeprl.learning.compile import cache
from sheeprl.learning.compile.allreduce import SUM, sum_over_ranks
from sheeprl.learning.compile.tracing import CompiledStep
from tests.actors.test_learner import (
    OBS,
    Carrying,
    Remembering,
    assert_same,
    fabric,
    parameters_of,
    rollout,
    transitions,
)
from tests.actors.test_learner import spaces as gym_spaces

__all__ = ["fabric"]

pytestmark = pytest.mark.skipif(not defaults.has_compiler(), reason="there is no C++ compiler")

ARGS = {
    "ppo": {"hidden_sizes": [8], "rollout_steps": 5, "batch_size": 4, "epochs": 2, "anneal": True},
    "sac": {"hidden_sizes": [8], "batch_size": 16, "tau": 0.1},
}
ACTIONS = {"ppo": gym_spaces.Discrete(3), "sac": gym_spaces.Box(-1.0, 1.0, (2,))}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Where these tests keep what they compile."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHEEPRL_CACHE", str(folder))
        yield folder


def make(fabric, algo, compiled=True):
    tree = {"algo": {"name": algo, **ARGS[algo]}, "env": {"id": "none"}, "trainer": {"threads": 1, "compile": compiled}}
    return Learner(defaults.fill_in(validate(tree)), Spaces(OBS, ACTIONS[algo]), fabric)


def block(algo, seed):
    return rollout(seed=seed, ends=[(1, 0)]) if algo == "ppo" else transitions(seed=seed, batches=6)


def update(learner, algo, seed):
    return learner.update(6, seed / 10, None, block(algo, seed))


@pytest.mark.parametrize("algo", ["ppo", pytest.param("sac", marks=pytest.mark.slow)])
def test_a_compiled_learner_learns_what_an_eager_one_does(fabric, algo, folder):
    eager, compiled = make(fabric, algo, compiled=False), make(fabric, algo)
    for seed in range(3):
        expected, found = update(eager, algo, seed)[0], update(compiled, algo, seed)[0]
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-6)
        assert found.gradient_steps == expected.gradient_steps
        assert len(found.notes) == (seed == 0)
    for name, values in eager.agent.state_dict().items():
        torch.testing.assert_close(compiled.agent.state_dict()[name], values, rtol=1e-4, atol=1e-6)
    # Another learner finds what this one has compiled, and has the same bits.
    kept = set(folder.rglob("*.pt2"))
    again = make(fabric, algo)
    for seed in range(3):
        assert not update(again, algo, seed)[0].notes
    assert_same(again.agent, compiled.agent.state_dict())
    assert set(folder.rglob("*.pt2")) == kept


def check_that_a_restored_one_goes_on(fabric, algo):
    """To the bit."""
    learner, restored = make(fabric, algo), make(fabric, algo)
    for seed in range(2):
        update(learner, algo, seed)
        update(restored, algo, seed + 5)  # has compiled, and learned something else
    restored.restore(learner.snapshot()[1])
    for seed in range(2, 4):
        update(learner, algo, seed)
        update(restored, algo, seed)
    assert_same(restored.agent, learner.agent.state_dict())


@pytest.mark.parametrize("algo", ARGS)
def test_a_restored_one_goes_on_to_the_bit(fabric, algo):
    check_that_a_restored_one_goes_on(fabric, algo)


@pytest.mark.parametrize("algo", ARGS)
def test_a_loss_that_is_not_finite_is_refused_and_nothing_changed(fabric, algo):
    learner = make(fabric, algo)
    update(learner, algo, 0)
    before, snapshot = parameters_of(learner.agent), learner.snapshot()[1]
    bad = block(algo, 1)
    bad["reward"][:] = np.nan
    with pytest.raises(NonFiniteError, match=r"Loss/value_loss is nan.* at gradient step 6"):
        learner.update(6, 0.0, None, bad)
    assert_same(learner.agent, before)
    for name, group in learner.step.groups.items():
        for state in group.optimizer.state.values():
            assert all(torch.isfinite(value).all() for value in state.values() if torch.is_tensor(value)), name
            assert state["step"] == 6
    assert len(snapshot) == len(learner.snapshot()[1])


def test_steps_after_one_that_was_refused_change_nothing(fabric):
    learner = make(fabric, "sac")
    update(learner, "sac", 0)
    good, bad = (block("sac", seed) for seed in (1, 1))
    bad["reward"][2:3] = np.nan
    twin = make(fabric, "sac")
    update(twin, "sac", 0)
    twin.update(2, 0.1, None, {name: values[:2] for name, values in good.items()})
    with pytest.raises(NonFiniteError, match="at gradient step 8"):
        learner.update(6, 0.1, None, bad)
    assert learner.gradient_steps == 8
    assert_same(learner.agent, parameters_of(twin.agent))
    for name, group in learner.step.groups.items():
        others = twin.step.groups[name].optimizer.state.values()
        for state, other in zip(group.optimizer.state.values(), others, strict=True):
            assert all(torch.equal(values, other[key]) for key, values in state.items())
    learner.restore(twin.snapshot()[1])
    for one in (learner, twin):
        one.update(6, 0.2, None, good)
    assert_same(learner.agent, parameters_of(twin.agent))


class Halves:
    """Stands for the first of two ranks, the other of which brings nothing."""

    world = 2

    def __init__(self, fabric):
        self.sums = 0

    def sum(self, value):
        self.sums += 1
        return sum_over_ranks(value.detach())


@pytest.fixture
def alone():
    """A process group of nobody else."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_ranks_sum_between_the_parts_of_a_graph(fabric, monkeypatch, alone, algo):
    monkeypatch.setattr(learner_module, "FabricRanks", Halves)
    opened = []
    open_part = CompiledStep._open
    monkeypatch.setattr(CompiledStep, "_open", lambda *args: opened.append(args[1]) or open_part(*args))
    learners = [make(fabric, algo, compiled) for compiled in (True, False)]
    for learner in learners:
        for seed in range(3):
            update(learner, algo, seed)
    assert learners[0].compiled is not None and len(opened) > 1
    assert not any(node.target is SUM for graph in opened for node in graph.graph.nodes)
    for name, values in parameters_of(learners[0].agent).items():
        torch.testing.assert_close(values, parameters_of(learners[1].agent)[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_what_another_rank_cannot_compile_none_compiles(fabric, monkeypatch, alone):
    class Other(Halves):
        def sum(self, value):
            return super().sum(value) + (1.0 if value.ndim == 0 and not isinstance(value, FakeTensor) else 0.0)

    monkeypatch.setattr(learner_module, "FabricRanks", Other)
    learner = make(fabric, "sac")
    (note,) = update(learner, "sac", 0)[0].notes
    assert note == "gradient steps aren't compiled: another rank can't compile them"
    assert learner.compiled is None and learner.gradient_steps == 6


# ------------------------------------------------------------------------- what losses give, and what can't be compiled


def learner_of(fabric, algorithm, monkeypatch):
    made = Spaces(OBS, gym_spaces.Discrete(2))
    monkeypatch.setattr(learner_module, "build_algorithm", lambda args, spaces: algorithm(args, made))
    return make(fabric, "sac")


class Everything(Remembering):
    """Writes back, gives priorities, keeps statistics, carries."""

    def second(self, agent, batch, noise, carry):
        loss = super().second(agent, batch, noise, carry)
        return Loss(loss.value, loss.metrics, write=loss.write, priority=batch["reward"].abs())


@pytest.mark.slow
def test_what_losses_give_comes_out_of_the_graph(fabric, monkeypatch):
    learner = learner_of(fabric, Everything, monkeypatch)
    data = transitions(batches=4, size=4)
    info, writes = learner.update(4, 0.0, None, data)
    assert learner.compiled is not None and len(info.notes) == 1
    mean = 0.0
    for number, write in enumerate(writes):
        assert write.index.tolist() == data["index"][number].tolist()
        assert write.values["reward"].dtype == np.float32
        assert write.values["reward"] == pytest.approx(data["reward"][number] * 2)
        assert write.priority == pytest.approx(np.abs(data["reward"][number]))
        mean = 0.5 * mean + 0.5 * data["reward"][number].mean()
    assert learner.agent.mean_reward.item() == pytest.approx(mean)
    assert learner.agent.policy.weight.item() == pytest.approx(1 - 4 * 0.5)


class Twice(Carrying):
    """Its optimizer, which counts its steps, takes two in each gradient step."""

    def optimizers(self):
        return {
            "both": OptimizerSpec(("policy", "head"), lambda parameters: Adam(parameters, lr=0.1, betas=(0.5, 0.8)))
        }

    def phases(self, step):
        return [replace(phase, optimizer="both") for phase in super().phases(step)]


@pytest.mark.slow
def test_an_optimizer_may_take_several_steps_in_one(fabric, monkeypatch):
    learner, eager = (learner_of(fabric, Twice, monkeypatch) for _ in range(2))
    eager.compiled = None
    for one in (learner, eager):
        one.update(4, 0.0, None, transitions(batches=4, size=4))
    assert learner.compiled is not None
    for name in ("policy", "head"):
        assert getattr(learner.agent, name).weight.item() == pytest.approx(getattr(eager.agent, name).weight.item())


class Backwards(Carrying):
    """Its optimizer has its parameters in another order than it was given them, each with a rate of its own."""

    def build_agent(self):
        agent = super().build_agent()
        agent.head.double()  # so that it gets a vector of its own
        return agent

    def optimizers(self):
        def build(parameters):
            groups = [{"params": [each], "lr": 10.0**-number} for number, each in enumerate(parameters)]
            return SGD(groups[::-1], lr=1.0)

        return {"both": OptimizerSpec(("policy", "head"), build)}

    def phases(self, step):
        return [replace(phase, optimizer="both") for phase in super().phases(step)]


@pytest.mark.slow
def test_an_optimizer_may_have_its_parameters_in_an_order_of_its_own(fabric, monkeypatch):
    learner, eager = (learner_of(fabric, Backwards, monkeypatch) for _ in range(2))
    eager.compiled = None
    for one in (learner, eager):
        assert len(one.step.groups["both"].vectors) == 2
        one.update(3, 0.0, None, transitions(batches=3, size=4))
    assert learner.compiled is not None
    for name in ("policy", "head"):
        assert getattr(learner.agent, name).weight.item() == pytest.approx(getattr(eager.agent, name).weight.item())


def test_steps_that_always_differ_are_not_compiled_for_ever(fabric, monkeypatch):
    monkeypatch.setattr(cache, "MAX_VARIANTS", 1)
    learner = make(fabric, "sac")
    update(learner, "sac", 0)
    (note,) = learner.update(2, 0.0, None, transitions(batches=2, size=12))[0].notes
    assert note == "gradient steps aren't compiled: they come in more than 1 kinds, by shapes of batches or by losses"
    assert learner.gradient_steps == 8


class Undecided(Carrying):
    """Its loss looks at a number."""

    def first(self, agent, batch, noise, carry):
        sign = 1.0 if batch["reward"].sum() > 0 else -1.0
        return Loss(sign * agent.policy.weight.squeeze(), carry={"latent": torch.tensor(3.0)})


class Unknown(Carrying):
    """Its optimizer is one that only torch knows."""

    def optimizers(self):
        return {
            "first": OptimizerSpec(("policy", "unused"), lambda parameters: Adagrad(parameters, lr=0.5)),
            "second": OptimizerSpec(("head",), lambda parameters: SGD(parameters, lr=1.0)),
        }


@pytest.mark.parametrize(("algorithm", "told"), [(Undecided, "data-dependent"), (Unknown, "Adagrad is none of")])
def test_what_cannot_be_compiled_runs_and_says_so_once(fabric, monkeypatch, algorithm, told):
    learner = learner_of(fabric, algorithm, monkeypatch)
    data = transitions(batches=3, size=4)
    (note,) = learner.update(3, 0.0, None, data)[0].notes
    assert note.startswith("gradient steps aren't compiled") and told in note
    found = learner.agent.policy.weight.item()
    assert learner.update(1, 0.0, None, transitions(seed=1, size=4))[0].notes == ()
    assert learner.gradient_steps == 4 and learner.agent.policy.weight.item() != found
    monkeypatch.setattr(defaults, "pays_to_compile", lambda *_: False)
    eager = learner_of(fabric, algorithm, monkeypatch)
    eager.compiled = None
    eager.update(3, 0.0, None, data)
    assert eager.agent.policy.weight.item() == found


def test_a_module_is_left_as_it_was(fabric):
    learner = make(fabric, "sac")
    update(learner, "sac", 0)
    assert all(isinstance(parameter, nn.Parameter) for parameter in learner.agent.parameters())
    assert learner.agent.critic.training


@pytest.mark.slow
def test_a_library_that_was_cut_short_is_made_anew(fabric, folder):
    learner = make(fabric, "ppo")
    update(learner, "ppo", 0)
    for path in folder.rglob("*.pt2"):
        path.write_bytes(path.read_bytes()[:1000])
    again = make(fabric, "ppo")
    (note,) = update(again, "ppo", 0)[0].notes
    assert note.startswith("compiled")
    assert_same(again.agent, learner.agent.state_dict())


def test_what_is_unpacked_to_load_a_library_is_removed(fabric, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    learner = make(fabric, "ppo")
    update(learner, "ppo", 0)
    assert learner.compiled is not None
    assert not list(tmp_path.iterdir())
    assert os.environ["TMPDIR"] == str(tmp_path)
