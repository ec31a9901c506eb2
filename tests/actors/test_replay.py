"""Test a replay shard."""

import subprocess
import sys

import pytest

from sheeprl.actors.replay import build_replay
from sheeprl.buffer import memmap
from sheeprl.config.checks import check
from sheeprl.config.loading import load_config
from tests.helpers.buffer_model import rows_of

SERVES = """
import sys
import numpy as np
from sheeprl.actors.messages import Fragment
from sheeprl.actors.ray.actors import ReplayActor
from sheeprl.config.loading import load_config
from sheeprl.config.checks import check

config = check(load_config("sac", ["buffer.size=100", "algo.batch_size=2"]).model_dump(mode="json")).config
shard = ReplayActor(config, {}, 0, 0, None)
shape, flags = (5, 1), np.zeros((5, 1), np.bool_)
rows = {"obs": np.ones((*shape, 3), np.float32), "action": np.ones((*shape, 1), np.float32)}
rows |= {"reward": np.ones(shape, np.float32), "terminated": flags, "truncated": flags, "is_first": flags}
assert shard.add(Fragment(0, 0, 0, rows)).size == 4
assert shard.sample(1, 0.0)[0] == 2
shard.save(sys.argv[1])
shard.restore(sys.argv[1])
print(sorted({"torch", "tensordict", "lightning_fabric"} & set(sys.modules)))
"""


def test_a_shard_does_not_import_torch(tmp_path):
    """A shard imports neither Torch, tensordict nor lightning, which take seconds to load."""
    done = subprocess.run([sys.executable, "-c", SERVES, str(tmp_path / "saved")], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def opened(folder, **settings):
    """Return a memory-mapped shard, attached if the folder has one."""
    words = ["buffer.size=100", "algo.batch_size=2", "buffer.memmap=true"]
    words += [f"{name.replace('__', '.')}={value}" for name, value in settings.items()]
    config = check(load_config("sac", words).model_dump(mode="json")).config
    return build_replay(config, folder=str(folder))


def test_players_of_a_resume_begin_new_streams(tmp_path):
    """Fragments after a resume don't continue rows that are newer than its checkpoint, though their numbers match."""
    replay = opened(tmp_path)
    for number in range(3):
        replay.buffer.add(rows_of(range(4 * number, 4 * number + 5)), (0, 1), number)
    replay.buffer.close()
    again = opened(tmp_path, run__resume="true", buffer__checkpoint="false")
    assert again.buffer.add(rows_of(range(1000, 1005)), (0, 1), 0)  # the incarnation of the checkpoint, once more
    assert again.buffer.add(rows_of(range(1004, 1009)), (0, 1), 1)
    assert again.buffer.added == 20 and again.buffer.counts.repeated == 0
    batch = again.buffer.sample(8, 20).flatten()
    assert ((batch["next_obs"] - batch["obs"]).abs() <= 1).all()  # no transition from one stream to another
    again.buffer.close()
    attached = opened(tmp_path, run__resume="true", buffer__checkpoint="false")  # the journal tells them apart, too
    batch = attached.buffer.sample(8, 20).flatten()
    assert attached.buffer.added == 20 and ((batch["next_obs"] - batch["obs"]).abs() <= 1).all()
    attached.buffer.close()


def test_rows_of_another_boot_are_not_attached(tmp_path, monkeypatch):
    """A shard attaches rows of this boot; rows that another boot or host wrote may be torn, and are removed."""
    replay = opened(tmp_path)
    replay.buffer.add(rows_of(range(11)), (0, 0))
    replay.buffer.close()
    again = opened(tmp_path, run__resume="true")
    assert again.buffer.added == 10
    again.buffer.close()
    monkeypatch.setattr(memmap, "this_boot", lambda: "host another-boot")
    with pytest.raises(FileExistsError, match=r"its rows may be torn, and buffer\.checkpoint=false has no others"):
        opened(tmp_path, run__resume="true", buffer__checkpoint="false")
    rebooted = opened(tmp_path, run__resume="true")
    assert rebooted.buffer.added == 0
    rebooted.buffer.add(rows_of(range(5)), (0, 0))
    rebooted.buffer.close()
    attached = opened(tmp_path, run__resume="true")
    assert attached.buffer.added == 4
    attached.buffer.close()
    assert opened(tmp_path, run__resume="auto").buffer.added == 0  # of an attempt without a checkpoint
