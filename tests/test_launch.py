"""Start of a run: accelerator and exclusive use of the process."""

import pytest

from sheeprl.config import defaults
from sheeprl.config.loading import validate
from sheeprl.launch import _with_accelerator, train, train_tree
from sheeprl.utils.errors import ConfigError, RunFailedError
from sheeprl.utils.process import exclusive


@pytest.mark.parametrize(("accelerator", "compiles"), [("cpu", True), ("cuda", True), ("mps", False)])
def test_steps_are_compiled_for_cpu_and_cuda(accelerator, compiles):
    """Steps are compiled for CPU and CUDA."""
    tree = {"algo": {"name": "ppo"}, "env": {"id": "none"}, "trainer": {"compile": True}}
    found = _with_accelerator(defaults.fill_in(validate(tree)), accelerator)
    assert (found.trainer.accelerator, found.trainer.compile) == (accelerator, compiles)


def test_a_second_run_in_a_process_is_refused():
    """A second run in a process is refused."""
    with exclusive("the run"), pytest.raises(RunFailedError, match="this process already has a run"):
        train_tree({"algo": {"name": "ppo"}, "env": {"id": "CartPole-v1"}})


def test_train_refuses_a_name():
    """`train` refuses the name of a configuration and says how to load it."""
    with pytest.raises(ConfigError, match=r"needs a Config, not str; use train\(load_config\('ppo'\)\)"):
        train("ppo")
