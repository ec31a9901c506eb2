"""Recorded gradient steps compared with eager ones. On a CPU they run without a CUDA graph."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sheeprl.actors.learner import Learner
from sheeprl.algos.dreamer_v3.dreamer_v3 import DreamerV3
from sheeprl.config import checks, defaults
from sheeprl.learning.compile.cache import CompiledSteps
from tests.actors.test_learner import fabric
from tests.actors.test_warmup import STEPS, real_blocks

__all__ = ["fabric"]

pytestmark = pytest.mark.skipif(not defaults.has_compiler(), reason="there is no C++ compiler")

SMALL = {"name": "dreamer_v3", "deter": 16, "hidden": 8, "units": 8, "classes": 4, "blocks": 2, "categoricals": 2}
SHORT = {"batch_size": 4, "sequence_length": 6, "imag_last": 3, "horizon": 3, "learning_starts": 0}


def make_learner(fabric, compiled, limit=5000):
    """Return a learner of a small DreamerV3, and its checked configuration."""
    found = checks.check(
        {
            "algo": {**SMALL, **SHORT},
            "env": {"id": "CartPole-v1", "num_envs": 2},
            "run": {"mode": "decoupled", "total_steps": 5000},
            "players": {"num": 2},
            "trainer": {"accelerator": "cpu", "threads": 1, "compile": compiled, "compile_limit": limit},
        }
    )
    learner = Learner(found.config, found.spaces, fabric)
    learner.hot = None  # a part that is compiled by itself has other last bits
    return learner, found


@pytest.mark.parametrize("excluded", [True, False], ids=["excluded", "too large"])
def test_recorded_and_eager_steps_agree(fabric, monkeypatch, excluded):
    """A step that is excluded from compilation, or too large for it, is recorded and equals an eager one."""
    monkeypatch.setattr(CompiledSteps, "_can_record", True)
    if not excluded:
        phases = DreamerV3.phases
        monkeypatch.setattr(
            DreamerV3, "phases", lambda self, step: [replace(phase, compile=True) for phase in phases(self, step)]
        )
    check_that_recorded_and_eager_steps_agree(fabric)


def check_that_recorded_and_eager_steps_agree(fabric):
    """Take steps by a learner that records them and by one that doesn't; compare them."""
    (eager, found), (recorded, _) = make_learner(fabric, False), make_learner(fabric, True, limit=100)
    order, blocks = real_blocks(found.config, found.spaces, eager)
    for _ in range(2):
        (expected, writes), (info, others) = (
            learner.update(STEPS, 0.5, order, *blocks) for learner in (eager, recorded)
        )
        assert info.metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-5)
        for write, other in zip(writes, others, strict=True):
            np.testing.assert_array_equal(write.index, other.index)
            for name, values in write.values.items():
                np.testing.assert_allclose(values, other.values[name], rtol=1e-4, atol=1e-5)
        if info.gradient_steps == STEPS:
            assert [note.partition(" in ")[0] for note in info.notes] == ["recorded the gradient step as a CUDA graph"]
    assert recorded.compiled is not None
    (step,) = recorded.compiled._compiled.values()
    assert step.is_recorded
    for name, values in eager.agent.state_dict().items():
        torch.testing.assert_close(recorded.agent.state_dict()[name], values, rtol=1e-4, atol=1e-6)
