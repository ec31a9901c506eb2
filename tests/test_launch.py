"""What is decided once it is known where the learner will be."""

import pytest

from sheeprl import resolve
from sheeprl.config import validate
from sheeprl.launch import _with_accelerator


@pytest.mark.parametrize(("accelerator", "compiles"), [("cpu", True), ("cuda", True), ("mps", False)])
def test_steps_are_compiled_for_cpu_and_cuda(accelerator, compiles):
    tree = {"algo": {"name": "ppo"}, "env": {"id": "none"}, "trainer": {"compile": True}}
    found = _with_accelerator(resolve.fill_in(validate(tree)), accelerator)
    assert (found.trainer.accelerator, found.trainer.compile) == (accelerator, compiles)
