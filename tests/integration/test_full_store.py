"""Test a run whose batches exceed an object store that can't spill to the disk."""

import pytest

from tests.helpers.runs import lines, ray_session, run

STORE_BYTES = 80 * 2**20  # about Ray's minimum


@pytest.fixture
def small_store():
    """Yield a Ray session with a small object store."""
    unspilled = {"automatic_object_spilling_enabled": False}
    with ray_session(cpus=3, object_store_memory=STORE_BYTES, _system_config=unspilled):
        yield


@pytest.mark.slow
def test_a_full_object_store_only_slows_the_run_down(tmp_path, small_store):
    """A full object store only slows the run down."""
    overrides = ["run.mode=decoupled", "run.max_staleness=1", "players.num=2", "env.num_envs=1", "run.total_steps=700"]
    overrides += ["algo.hidden_sizes=[8]", "algo.batch_size=256", "algo.learning_starts=300", "algo.replay_ratio=0.1"]
    overrides += ["buffer.size=2000", "trainer.prefetch=8", "players.fragment_rows=200", "checkpoint.every=200"]
    result = run(tmp_path / "run", "sac", *overrides, env="tests.helpers.run_envs:Wide-v0")
    assert lines(tmp_path / "run")[-1]["status"] == "done"
    assert result.gradient_steps == (result.policy_steps - 300) // 10
    assert result.gradient_steps * 256 * 2 * 20_000 > 4 * STORE_BYTES
