"""Gradient steps on a CUDA device, recorded and one operation after the other, and beside those on the CPU."""

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric

from sheeprl.actors.learner import NonFiniteError
from sheeprl.learning.compile.cuda_graph import CudaGraphLibrary
from tests.actors.test_learner import assert_same, parameters_of, transitions
from tests.learning.compile.test_cache import (
    ARGS,
    Everything,
    block,
    check_that_a_restored_one_goes_on,
    folder,
    learner_of,
    make,
    update,
)

__all__ = ["folder"]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def fabric_on(accelerator):
    fabric = Fabric(accelerator=accelerator, devices=1)
    fabric.launch()
    return fabric


@pytest.fixture(scope="module")
def cuda():
    return fabric_on("cuda")


@pytest.mark.parametrize("algo", ARGS)
def test_a_recorded_step_does_what_an_eager_one_does_and_what_the_cpu_does(cuda, algo):
    recorded, eager, on_cpu = make(cuda, algo), make(cuda, algo, compiled=False), make(fabric_on("cpu"), algo, False)
    for seed in range(4):
        expected = update(on_cpu, algo, seed)[0].metrics
        assert update(eager, algo, seed)[0].metrics == pytest.approx(expected, rel=1e-3, abs=1e-5)
        info = update(recorded, algo, seed)[0]
        assert info.metrics == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert not any("aren't compiled" in note for note in info.notes), info.notes
    assert recorded.compiled is not None
    assert all(isinstance(step._run, CudaGraphLibrary) for step in recorded.compiled._compiled.values())
    for name, values in on_cpu.agent.state_dict().items():
        for learner in (eager, recorded):
            torch.testing.assert_close(learner.agent.state_dict()[name].cpu(), values, rtol=1e-3, atol=1e-5)
    for name, array in recorded.weights()[1].items():
        assert array.tolist() == recorded.agent.policy.state_dict()[name].tolist()


@pytest.mark.parametrize("algo", ARGS)
def test_a_restored_one_goes_on_to_the_bit(cuda, algo):
    check_that_a_restored_one_goes_on(cuda, algo)


@pytest.mark.parametrize("algo", ARGS)
def test_a_loss_that_is_not_finite_is_refused_and_nothing_changed(cuda, algo):
    learner = make(cuda, algo)
    update(learner, algo, 0)
    before = parameters_of(learner.agent)
    bad = block(algo, 1)
    bad["reward"][:] = np.nan
    with pytest.raises(NonFiniteError, match=r"Loss/value_loss is nan.* at gradient step 6"):
        learner.update(6, 0.0, None, bad)
    assert_same(learner.agent, before)
    counted = {int(s["step"]) for group in learner.step.groups.values() for s in group.optimizer.state.values()}
    assert counted == {6} and learner.gradient_steps == 6


def test_what_losses_give_comes_back(cuda, monkeypatch):
    learner = learner_of(cuda, Everything, monkeypatch)
    data = transitions(batches=4, size=4)
    writes = learner.update(4, 0.0, None, data)[1]
    assert learner.compiled is not None
    for number, write in enumerate(writes):
        assert write.index.tolist() == data["index"][number].tolist()
        assert write.values["reward"] == pytest.approx(data["reward"][number] * 2)
        assert write.priority == pytest.approx(np.abs(data["reward"][number]))
