"""A local S3 server for tests, and runs that write small checkpoints to a storage."""

import importlib.util
import json
import logging
import uuid
from contextlib import contextmanager

import numpy as np
import pytest

from sheeprl.buffer import ReplayBuffer
from sheeprl.buffer.places import place_of
from tests.helpers.buffer_model import rows_of

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAKNOWNTOTEST",
    "AWS_SECRET_ACCESS_KEY": "hushhushhush",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def s3_server():
    """Yield the URL of an S3 server that runs in this process; skip the test without its packages."""
    missing = [name for name in ("moto", "flask", "s3fs") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"there is no S3 server to test with: {', '.join(missing)} isn't installed")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


def new_bucket(server, monkeypatch):
    """Return the URL of a new bucket, and put its keys into the environment."""
    import fsspec

    for name, value in {**KEYS, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}"


class StoredRun:
    """Writes checkpoints of two small files and two shards, most of whose chunks don't change.

    Args:
        folder: parent of the local folders.
        storage: the storage, whose lease is taken.
    """

    def __init__(self, folder, storage):
        """Fill two shards."""
        self.folder, self.storage, self.steps = folder, storage, 0
        self.shards = [ReplayBuffer(2000) for _ in range(2)]
        for number, shard in enumerate(self.shards):
            for episode in range(5):
                first = 10_000 * (number + 1) + 1000 * episode
                shard.add(rows_of(range(first, first + 200)), (number, episode))

    def save_shards(self):
        """Add rows to the shards and save them for the next step; return the bytes written."""
        self.steps += 1000
        for number, shard in enumerate(self.shards):
            shard.add(rows_of(range(self.steps, self.steps + 60)), (number, self.steps))
        pending = self.storage.pending(self.steps)
        return sum(shard.save(place_of(pending, number)) for number, shard in enumerate(self.shards))

    def commit(self):
        """Commit the checkpoint of the step."""
        folder = self.folder / f".step_{self.steps}.part"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "agent.pt").write_bytes(np.random.default_rng(self.steps).bytes(9000))
        (folder / "state.json").write_text(json.dumps({"steps": self.steps}))
        return self.storage.commit(folder, self.steps, {"policy_steps": self.steps}, shards=2)

    def checkpoint(self):
        """Save the shards and commit."""
        self.save_shards()
        return self.commit()

    def is_restored(self, saved):
        """Return True if the rows at the storage are those of the shards now."""
        for number, shard in enumerate(self.shards):
            copy = ReplayBuffer(2000)
            copy.load(place_of(self.storage.manifest_url(saved), number))
            arrays = copy.storage.arrays()
            if not all(np.array_equal(arrays[name], rows) for name, rows in shard.storage.arrays().items()):
                return False
        return True
