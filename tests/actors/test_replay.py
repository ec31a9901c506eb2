"""Test a replay shard."""

import subprocess
import sys

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
