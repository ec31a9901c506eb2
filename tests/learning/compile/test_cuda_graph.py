"""Captured gradient steps on a CUDA device compared with eager ones and with the CPU."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from sheeprl.actors.learner import NonFiniteError
from sheeprl.learning.compile.cuda_graph import CudaGraphLibrary
from tests.actors.test_learner import assert_same, parameters_of, transitions
from tests.learning.compile.test_cache import (
    ARGS,
    UsesAllOutputs,
    check_restored_learner,
    folder,
    make_block,
    make_learner,
    make_learner_of,
    update,
)
from tests.learning.compile.test_recorded import check_that_recorded_and_eager_steps_agree

__all__ = ["folder"]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def make_fabric(accelerator):
    """Return a launched Fabric on one device."""
    fabric = Fabric(accelerator=accelerator, devices=1)
    fabric.launch()
    return fabric


@pytest.fixture(scope="module")
def cuda():
    """Return a Fabric on a CUDA device."""
    return make_fabric("cuda")


@pytest.mark.parametrize("algo", ARGS)
def test_captured_eager_and_cpu_steps_agree(cuda, algo):
    """Captured steps agree with eager steps on CUDA and with steps on the CPU."""
    captured, eager, on_cpu = (
        make_learner(cuda, algo),
        make_learner(cuda, algo, compiled=False),
        make_learner(make_fabric("cpu"), algo, False),
    )
    for seed in range(4):
        expected = update(on_cpu, algo, seed)[0].metrics
        assert update(eager, algo, seed)[0].metrics == pytest.approx(expected, rel=1e-3, abs=1e-5)
        info = update(captured, algo, seed)[0]
        assert info.metrics == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert not any("aren't compiled" in note for note in info.notes), info.notes
    assert captured.compiled is not None
    assert all(isinstance(step._run, CudaGraphLibrary) for step in captured.compiled._compiled.values())
    for name, values in on_cpu.agent.state_dict().items():
        for learner in (eager, captured):
            torch.testing.assert_close(learner.agent.state_dict()[name].cpu(), values, rtol=1e-3, atol=1e-5)
    for name, array in captured.weights()[1].items():
        assert array.tolist() == captured.agent.policy.state_dict()[name].tolist()


@pytest.mark.parametrize("algo", ARGS)
def test_a_restored_learner_is_bit_identical(cuda, algo):
    """A restored learner, captured before, continues bit-identically."""
    check_restored_learner(cuda, algo)


@pytest.mark.parametrize("algo", ARGS)
def test_a_non_finite_loss_raises_and_changes_nothing(cuda, algo):
    """A loss that isn't finite raises an error and changes neither agent nor step counts."""
    learner = make_learner(cuda, algo)
    update(learner, algo, 0)
    before = parameters_of(learner.agent)
    bad = make_block(algo, 1)
    bad["reward"][:] = np.nan
    with pytest.raises(NonFiniteError, match=r"Loss/value_loss is nan.* at gradient step 6"):
        learner.update(6, 0.0, None, bad)
    assert_same(learner.agent, before)
    counted = {int(s["step"]) for group in learner.step.groups.values() for s in group.optimizer.state.values()}
    assert counted == {6} and learner.gradient_steps == 6


def test_recorded_and_eager_steps_agree(cuda):
    """A step that is excluded from compilation is captured as it runs eagerly."""
    check_that_recorded_and_eager_steps_agree(cuda)


def test_values_to_write_back_are_returned(cuda, monkeypatch):
    """A captured step returns values and priorities to write back."""
    learner = make_learner_of(cuda, UsesAllOutputs, monkeypatch)
    data = transitions(batches=4, size=4)
    writes = learner.update(4, 0.0, None, data)[1]
    assert learner.compiled is not None
    for number, write in enumerate(writes):
        assert write.index.tolist() == data["index"][number].tolist()
        assert write.values["reward"] == pytest.approx(data["reward"][number] * 2)
        assert write.priority == pytest.approx(np.abs(data["reward"][number]))
