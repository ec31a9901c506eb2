"""Compiled gradient steps compared with eager ones."""

import os
import tempfile
from collections import defaultdict
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
from sheeprl.learning.compile import cache, tracing
from sheeprl.learning.compile.allreduce import SUM, sum_over_ranks
from sheeprl.learning.compile.tracing import CompiledStep
from tests.actors.test_learner import (
    OBS,
    Carrying,
    Remembering,
    assert_same,
    fabric,
    parameters_of,
    parts_of_shards,
    rollout,
    transitions,
)
from tests.actors.test_learner import spaces as gym_spaces
from tests.helpers.graphs import run_graph

__all__ = ["fabric"]

pytestmark = pytest.mark.skipif(not defaults.has_compiler(), reason="there is no C++ compiler")

ARGS = {
    "ppo": {"hidden_sizes": [8], "rollout_steps": 5, "batch_size": 4, "epochs": 2, "anneal": True},
    "sac": {"hidden_sizes": [8], "batch_size": 16, "tau": 0.1},
}
DELAYED = {  # the actor learns in every second step, so a run has two variants of steps
    "droq": {**ARGS["sac"], "dropout": 0.3, "policy_delay": 2},
    "td3": ARGS["sac"],
    "dqn": {
        **{"hidden_sizes": [8, 8], "batch_size": 16, "target_every": 2, "dueling": True, "n_step": 3},
        **{"head": "c51", "atoms": 5, "prioritized": True, "noisy": True},
    },
}
ON_POLICY = {"pqn": {"hidden_sizes": [8], "rollout_steps": 5, "batch_size": 4, "epochs": 2}}
ACTIONS = defaultdict(
    lambda: gym_spaces.Box(-1.0, 1.0, (2,)), {name: gym_spaces.Discrete(3) for name in ("ppo", "dqn", "pqn")}
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """Return the cache folder of these tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHEEPRL_CACHE", str(folder))
        yield folder


def make_learner(fabric, algo, compiled=True, trainer=(), **args):
    """Return a learner of an algorithm with a small network."""
    tree = {
        "algo": {"name": algo, **{**ARGS, **DELAYED, **ON_POLICY}[algo], **args},
        "env": {"id": "none"},
        "trainer": {"threads": 1, "compile": compiled, **dict(trainer)},
    }
    return Learner(defaults.fill_in(validate(tree)), Spaces(OBS, ACTIONS[algo]), fabric)


def make_block(algo, seed):
    """Return the data of one update: a rollout on-policy, six batches off-policy."""
    if algo in ("ppo", *ON_POLICY):
        return rollout(seed=seed, ends=[(1, 0)])
    block = transitions(seed=seed, batches=6)
    if algo == "dqn":
        rng = np.random.default_rng(seed)
        block["action"] = rng.integers(0, 3, block["reward"].shape)
        block["importance"] = rng.uniform(0.1, 1.0, block["reward"].shape).astype(np.float32)
        block["discount"] = (0.97 * ~block["terminated"]).astype(np.float32)
    return block


def update(learner, algo, seed):
    """Take six gradient steps on seeded data."""
    return learner.update(6, seed / 10, None, make_block(algo, seed))


def test_traced_and_eager_noise_agree(fabric, monkeypatch):
    """A traced step takes the noise that all samples share as an input."""
    monkeypatch.setattr(tracing, "open_graph", run_graph)
    eager, traced = make_learner(fabric, "dqn", compiled=False), make_learner(fabric, "dqn")
    taken = count_compiled_steps(monkeypatch)
    for seed in range(2):
        for learner in (eager, traced):
            update(learner, "dqn", seed)
    assert len(taken) == 11  # the first step is eager
    for name, values in eager.agent.state_dict().items():
        torch.testing.assert_close(traced.agent.state_dict()[name], values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "algo",
    [
        "ppo",
        pytest.param("sac", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.every) for name in ("dqn", "droq", "td3", "pqn")),
    ],
)
def test_compiled_and_eager_learners_agree(fabric, algo, folder):
    """Compiled and eager learners agree closely, and a second compiled one is bit-identical."""
    eager, compiled = make_learner(fabric, algo, compiled=False), make_learner(fabric, algo)
    for seed in range(3):
        expected, found = update(eager, algo, seed)[0], update(compiled, algo, seed)[0]
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-6)
        assert found.gradient_steps == expected.gradient_steps
        assert len(found.notes) == (0 if seed else 1 + (algo in DELAYED))
    for name, values in eager.agent.state_dict().items():
        torch.testing.assert_close(compiled.agent.state_dict()[name], values, rtol=1e-4, atol=1e-6)
    # Another learner loads the compiled libraries and is bit-identical.
    libraries = set(folder.rglob("*.pt2"))
    again = make_learner(fabric, algo)
    for seed in range(3):
        assert not update(again, algo, seed)[0].notes
    assert_same(again.agent, compiled.agent.state_dict())
    assert set(folder.rglob("*.pt2")) == libraries


@pytest.mark.slow
def test_compiled_and_eager_steps_agree_with_options_of_ppo(fabric):
    """Compiled steps scale the learning rate, stop and normalize as eager ones do."""
    args = {"anneal": False, "desired_kl": 1e-6, "learning_rate": 1e-2, "clip_value": 0.1, "final_entropy_coef": 0.1}
    args |= {"normalize_obs": True, "target_kl": 0.14}  # the block's random policy has divergences of 0.05 to 0.26
    learners = [make_learner(fabric, "ppo", compiled, **args) for compiled in (False, True)]
    for learner in learners:
        for seed in range(3):
            update(learner, "ppo", seed)
    eager, compiled = learners
    assert compiled.compiled is not None and eager.agent.lr_scale < 0.5
    assert compiled.gradient_steps == eager.gradient_steps < 18
    for name, values in eager.agent.state_dict().items():
        torch.testing.assert_close(compiled.agent.state_dict()[name], values, rtol=1e-4, atol=1e-6)


def check_restored_learner(fabric, algo):
    """Check that a learner restored from a snapshot stays bit-identical to the original."""
    learner, restored = make_learner(fabric, algo), make_learner(fabric, algo)
    for seed in range(2):
        update(learner, algo, seed)
        update(restored, algo, seed + 5)  # compiled, with other parameters
    restored.restore(learner.snapshot()[1])
    for seed in range(2, 4):
        update(learner, algo, seed)
        update(restored, algo, seed)
    assert_same(restored.agent, learner.agent.state_dict())


@pytest.mark.parametrize("algo", ARGS)
def test_a_restored_learner_is_bit_identical(fabric, algo):
    """A restored learner, compiled before, continues bit-identically."""
    check_restored_learner(fabric, algo)


@pytest.mark.parametrize("algo", ARGS)
def test_a_non_finite_loss_raises_and_changes_nothing(fabric, algo):
    """A loss that isn't finite raises an error and changes neither agent nor optimizers."""
    learner = make_learner(fabric, algo)
    update(learner, algo, 0)
    before, snapshot = parameters_of(learner.agent), learner.snapshot()[1]
    bad = make_block(algo, 1)
    bad["reward"][:] = np.nan
    with pytest.raises(NonFiniteError, match=r"Loss/value_loss is nan.* at gradient step 6"):
        learner.update(6, 0.0, None, bad)
    assert_same(learner.agent, before)
    for name, group in learner.step.groups.items():
        for state in group.optimizer.state.values():
            assert all(torch.isfinite(value).all() for value in state.values() if torch.is_tensor(value)), name
            assert state["step"] == 6
    assert len(snapshot) == len(learner.snapshot()[1])


def test_steps_after_a_non_finite_one_change_nothing(fabric):
    """After a step with a gradient that isn't finite, later steps of the update change nothing."""
    learner = make_learner(fabric, "sac")
    update(learner, "sac", 0)
    good, bad = (make_block("sac", seed) for seed in (1, 1))
    bad["reward"][2:3] = np.nan
    twin = make_learner(fabric, "sac")
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


class TwoRanks:
    """First of two ranks. The second one contributes zeros."""

    world = 2

    def __init__(self, fabric):
        """Start with zero sums."""
        self.sums = 0

    def sum(self, value):
        """Count the sum and return this rank's value."""
        self.sums += 1
        return sum_over_ranks(value.detach())


@pytest.fixture
def process_group():
    """Make this process the only rank of a process group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ppo", pytest.param("sac", marks=pytest.mark.every)])
def test_sums_over_ranks_run_between_libraries(fabric, monkeypatch, process_group, algo):
    """With two ranks, sums run between libraries and the result equals that of eager steps."""
    monkeypatch.setattr(learner_module, "FabricRanks", TwoRanks)
    opened = []
    open_part = CompiledStep._open
    monkeypatch.setattr(CompiledStep, "_open", lambda *args: opened.append(args[1]) or open_part(*args))
    learners = [make_learner(fabric, algo, compiled) for compiled in (True, False)]
    for learner in learners:
        for seed in range(3):
            update(learner, algo, seed)
    assert learners[0].compiled is not None and len(opened) > 1
    assert not any(node.target is SUM for graph in opened for node in graph.graph.nodes)
    for name, values in parameters_of(learners[0].agent).items():
        torch.testing.assert_close(values, parameters_of(learners[1].agent)[name], rtol=1e-4, atol=1e-6)


def test_no_rank_compiles_if_another_one_fails(fabric, monkeypatch, process_group):
    """If another rank fails to compile, this rank runs eagerly too."""

    class Other(TwoRanks):
        """Ranks of which the other one fails to compile."""

        def sum(self, value):
            """Return one failure more than this rank has."""
            return super().sum(value) + (1.0 if value.ndim == 0 and not isinstance(value, FakeTensor) else 0.0)

    monkeypatch.setattr(learner_module, "FabricRanks", Other)
    monkeypatch.setattr(tracing, "open_graph", run_graph)
    learner = make_learner(fabric, "sac")
    (note,) = update(learner, "sac", 0)[0].notes
    assert note == "gradient steps aren't compiled: another rank can't compile the gradient step"
    assert learner.compiled is None and learner.gradient_steps == 6


# ------------------------------------------------------ outputs of losses, and steps that can't be compiled


def make_learner_of(fabric, algorithm, monkeypatch):
    """Return a learner of a test algorithm."""
    discrete = Spaces(OBS, gym_spaces.Discrete(2))
    monkeypatch.setattr(learner_module, "build_algorithm", lambda args, spaces: algorithm(args, discrete))
    return make_learner(fabric, "sac")


class UsesAllOutputs(Remembering):
    """Uses every output of a loss: `write`, `priority`, `buffers` and `carry`."""

    def second(self, agent, batch, noise, carry):
        """Return the loss with values and priorities to write back."""
        loss = super().second(agent, batch, noise, carry)
        return Loss(loss.value, loss.metrics, write=loss.write, priority=batch["reward"].abs())


def test_all_outputs_of_losses_leave_the_graph(fabric, monkeypatch):
    """A traced step returns values and priorities to write back, and sets buffers."""
    monkeypatch.setattr(tracing, "open_graph", run_graph)
    learner = make_learner_of(fabric, UsesAllOutputs, monkeypatch)
    data = transitions(batches=4, size=4)
    info, writes = learner.update(4, 0.0, None, data)
    assert learner.compiled is not None and not info.notes
    mean = 0.0
    for number, write in enumerate(writes):
        assert write.index.tolist() == data["index"][number].tolist()
        assert write.values["reward"].dtype == np.float32
        assert write.values["reward"] == pytest.approx(data["reward"][number] * 2)
        assert write.priority == pytest.approx(np.abs(data["reward"][number]))
        mean = 0.5 * mean + 0.5 * data["reward"][number].mean()
    assert learner.agent.mean_reward.item() == pytest.approx(mean)
    assert learner.agent.policy.weight.item() == pytest.approx(1 - 4 * 0.5)


class SharedOptimizer(Carrying):
    """Both phases share one optimizer, so it takes two steps in each gradient step."""

    def optimizers(self):
        """Return one group with Adam, which counts its steps."""
        return {
            "both": OptimizerSpec(("policy", "head"), lambda parameters: Adam(parameters, lr=0.1, betas=(0.5, 0.8)))
        }

    def phases(self, step):
        """Return both phases with the same optimizer."""
        return [replace(phase, optimizer="both") for phase in super().phases(step)]


def test_an_optimizer_can_step_twice_per_gradient_step(fabric, monkeypatch):
    """An optimizer can take several steps in one traced gradient step."""
    monkeypatch.setattr(tracing, "open_graph", run_graph)
    learner, eager = (make_learner_of(fabric, SharedOptimizer, monkeypatch) for _ in range(2))
    eager.compiled = None
    for one in (learner, eager):
        one.update(4, 0.0, None, transitions(batches=4, size=4))
    assert learner.compiled is not None
    for name in ("policy", "head"):
        assert getattr(learner.agent, name).weight.item() == pytest.approx(getattr(eager.agent, name).weight.item())


class ReversedGroups(Carrying):
    """Its optimizer has the parameters in reverse order, each in a group with another learning rate."""

    def build_agent(self):
        """Return an agent whose head is float64, so it gets a separate vector."""
        agent = super().build_agent()
        agent.head.double()  # another dtype, so a separate vector
        return agent

    def optimizers(self):
        """Return one group whose optimizer reverses the parameters."""

        def build(parameters):
            """Return SGD with one reversed group per parameter."""
            groups = [{"params": [each], "lr": 10.0**-number} for number, each in enumerate(parameters)]
            return SGD(groups[::-1], lr=1.0)

        return {"both": OptimizerSpec(("policy", "head"), build)}

    def phases(self, step):
        """Return both phases with the same optimizer."""
        return [replace(phase, optimizer="both") for phase in super().phases(step)]


def test_an_optimizer_can_reorder_its_parameters(fabric, monkeypatch):
    """An optimizer can hold its parameters in another order than it got them, also in a traced step."""
    monkeypatch.setattr(tracing, "open_graph", run_graph)
    learner, eager = (make_learner_of(fabric, ReversedGroups, monkeypatch) for _ in range(2))
    eager.compiled = None
    for one in (learner, eager):
        assert len(one.step.groups["both"].vectors) == 2
        one.update(3, 0.0, None, transitions(batches=3, size=4))
    assert learner.compiled is not None
    for name in ("policy", "head"):
        assert getattr(learner.agent, name).weight.item() == pytest.approx(getattr(eager.agent, name).weight.item())


def test_steps_of_too_many_variants_are_eager(fabric, monkeypatch):
    """Variants beyond the maximum run eagerly, which is noted once; the compiled ones stay compiled."""
    monkeypatch.setattr(cache, "MAX_VARIANTS", 1)
    monkeypatch.setattr(tracing, "open_graph", run_graph)
    learner, eager = make_learner(fabric, "sac"), make_learner(fabric, "sac", compiled=False)
    taken = count_compiled_steps(monkeypatch)
    update(learner, "sac", 0)
    (note,) = learner.update(2, 0.0, None, transitions(batches=2, size=12))[0].notes
    assert "more than 1 variants of gradient steps; use fewer batch shapes and phases" in note
    assert note.startswith("some gradient steps aren't compiled: ")
    assert learner.update(2, 0.0, None, transitions(batches=2, size=10))[0].notes == ()
    assert len(taken) == 5  # the first step is eager
    assert update(learner, "sac", 1)[0].notes == () and len(taken) == 11
    assert learner.gradient_steps == 16
    update(eager, "sac", 0)
    for size in (12, 10):
        eager.update(2, 0.0, None, transitions(batches=2, size=size))
    update(eager, "sac", 1)
    for name, values in eager.agent.state_dict().items():
        torch.testing.assert_close(learner.agent.state_dict()[name], values, rtol=1e-4, atol=1e-6)
    optimizers = [[group.optimizer for group in one.step.groups.values()] for one in (learner, eager)]
    steps = [[state["step"] for each in ours for state in each.state.values()] for ours in optimizers]
    assert steps[0] == steps[1]


def count_compiled_steps(monkeypatch):
    """Return a list with an element for each compiled step that is taken from now on."""
    taken, take = [], CompiledStep.take
    monkeypatch.setattr(CompiledStep, "take", lambda self, inputs: taken.append(self) or take(self, inputs))
    return taken


def test_a_variant_that_fails_leaves_the_others(fabric, monkeypatch):
    """If a later variant can't be compiled, only its steps are eager, and one note gives the reason."""
    monkeypatch.setattr(tracing, "open_graph", run_graph)
    learner = make_learner(fabric, "sac")
    update(learner, "sac", 0)
    with monkeypatch.context() as patch:
        patch.setattr(tracing, "open_graph", lambda graph, open_part: 1 / 0)
        (note,) = learner.update(2, 0.0, None, transitions(batches=2, size=12))[0].notes
    assert note.startswith("some gradient steps aren't compiled: ") and "division by zero" in note
    taken = count_compiled_steps(monkeypatch)
    assert learner.update(2, 0.0, None, transitions(batches=2, size=12))[0].notes == ()
    assert not taken
    assert update(learner, "sac", 1)[0].notes == () and len(taken) == 6


def test_chunks_of_several_shards_are_one_variant(fabric, monkeypatch):
    """Batches that are joined from shards have the same strides, however many batches a chunk has."""
    for sequences in (False, True):
        parts = parts_of_shards(sequences)
        strides = set()
        for n_batches in (1, 2, 4):
            learner = make_learner(fabric, "sac", compiled=False)
            halves = [{name: values[..., :4, :] if values.ndim > 2 + sequences else values[..., :4]
                       for name, values in part.items()} for part in parts]  # fmt: skip
            several = halves * n_batches  # two shards give eight samples of each batch
            for tensors in learner.batches.read(n_batches, 0, several):
                strides.add(tuple((name, values.shape, values.stride()) for name, values in tensors["rows"].items()))
        assert len(strides) == 1


class ValueDependent(Carrying):
    """The loss branches on a value of the batch, so it can't be traced."""

    def first(self, agent, batch, noise, carry):
        """Return a loss whose sign depends on the rewards."""
        sign = 1.0 if batch["reward"].sum() > 0 else -1.0
        return Loss(sign * agent.policy.weight.squeeze(), carry={"latent": torch.tensor(3.0)})


def test_a_graph_above_the_limit_is_not_compiled(fabric):
    """A step with too many operations runs eagerly, and one note gives their number and the limit."""
    learner = make_learner(fabric, "sac", trainer={"compile_limit": 100})
    (note,) = update(learner, "sac", 0)[0].notes
    assert note.startswith("gradient steps aren't compiled: they have ")
    assert "operations, more than trainer.compile_limit=100; " in note
    assert learner.compiled is None and learner.gradient_steps == 6


class UnknownOptimizer(Carrying):
    """One optimizer has no update rule in SheepRL."""

    def optimizers(self):
        """Return a group with Adagrad and one with SGD."""
        return {
            "first": OptimizerSpec(("policy", "unused"), lambda parameters: Adagrad(parameters, lr=0.5)),
            "second": OptimizerSpec(("head",), lambda parameters: SGD(parameters, lr=1.0)),
        }


class Excluding(Carrying):
    """The second phase must not be compiled."""

    def phases(self, step):
        """Return both phases."""
        first, second = super().phases(step)
        return [first, replace(second, compile=False)]


@pytest.mark.parametrize(
    ("algorithm", "reason"),
    [
        (ValueDependent, "data-dependent"),
        (UnknownOptimizer, "Adagrad is none of"),
        (Excluding, "the algorithm excludes its phase 'second'"),
    ],
)
def test_a_step_that_cannot_be_compiled_runs_eagerly(fabric, monkeypatch, algorithm, reason):
    """A step that can't be compiled runs eagerly, and one note gives the reason."""
    learner = make_learner_of(fabric, algorithm, monkeypatch)
    data = transitions(batches=3, size=4)
    (note,) = learner.update(3, 0.0, None, data)[0].notes
    assert note.startswith("gradient steps aren't compiled") and reason in note
    found = learner.agent.policy.weight.item()
    assert learner.update(1, 0.0, None, transitions(seed=1, size=4))[0].notes == ()
    assert learner.gradient_steps == 4 and learner.agent.policy.weight.item() != found
    monkeypatch.setattr(defaults, "pays_to_compile", lambda *_: False)
    eager = make_learner_of(fabric, algorithm, monkeypatch)
    eager.compiled = None
    eager.update(3, 0.0, None, data)
    assert eager.agent.policy.weight.item() == found


def test_compilation_leaves_the_modules_unchanged(fabric):
    """After compiled steps, the agent still has parameters and is in training mode."""
    learner = make_learner(fabric, "sac")
    update(learner, "sac", 0)
    assert all(isinstance(parameter, nn.Parameter) for parameter in learner.agent.parameters())
    assert learner.agent.critic.training


@pytest.mark.slow
def test_a_truncated_library_is_compiled_again(fabric, folder):
    """A truncated library in the cache folder is compiled again."""
    learner = make_learner(fabric, "ppo")
    update(learner, "ppo", 0)
    for path in folder.rglob("*.pt2"):
        path.write_bytes(path.read_bytes()[:1000])
    again = make_learner(fabric, "ppo")
    (note,) = update(again, "ppo", 0)[0].notes
    assert note.startswith("compiled")
    assert_same(again.agent, learner.agent.state_dict())


def test_unpacked_files_of_a_library_are_removed(fabric, tmp_path, monkeypatch):
    """Loading a library leaves no temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    learner = make_learner(fabric, "ppo")
    update(learner, "ppo", 0)
    assert learner.compiled is not None
    assert not list(tmp_path.iterdir())
    assert os.environ["TMPDIR"] == str(tmp_path)
