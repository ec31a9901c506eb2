"""Test the announced memory."""

import pytest

from sheeprl.metrics.memory import MemoryReport
from tests.helpers.algorithms import Small


@pytest.mark.parametrize("memmap", [False, True])
def test_each_size_is_announced_once_when_it_is_known(tmp_path, memmap):
    """The replay's size is known after the first round, that of the networks after the first update."""
    messages = []
    report = MemoryReport(Small("sac").config(tmp_path, f"buffer.memmap={memmap}"), messages.append)
    for sizes in ((0, 0), (2**30, 0), (2**30, 2**20), (2**30, 2**20)):
        report.announce(*sizes)
    assert len(messages) == 2
    assert messages[0].startswith("replay: 1.0 GiB " + ("in memory-mapped files" if memmap else "of memory"))
    assert messages[1].startswith("networks: 1.0 MiB of memory per rank")


def test_an_on_policy_run_announces_nothing(tmp_path):
    """Rollouts are small."""
    messages = []
    MemoryReport(Small("ppo").config(tmp_path), messages.append).announce(2**30, 2**20)
    assert not messages


@pytest.mark.parametrize("size", ["1M", "12M"])
def test_a_dreamer_counts_its_states_and_optimizers(tmp_path, size, capsys):
    """The replay counts the stored states, and the networks weights, gradients and two moments."""
    settings = ["run.mode=coupled", "run.total_steps=60", f"algo.size={size}", "log.level=info"]
    wide = {"1M": 512, "12M": 2048}[size]
    small = ["algo.sequence_length=4", "algo.batch_size=2", "algo.replay_ratio=0.1", "algo.learning_starts=20"]
    Small("dreamer_v3").run(tmp_path, *settings, *small, f"algo.deter={wide}", "buffer.size=1000")
    lines = capsys.readouterr().out.splitlines()
    replay = next(line for line in lines if "replay: " in line)
    assert float(replay.partition("replay: ")[2].split()[0]) == pytest.approx(1000 * 4 * wide / 2**20, rel=0.05)
    assert any("networks: " in line for line in lines)
