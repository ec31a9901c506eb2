"""Test a run on a cluster whose nodes die, return or are drained."""

import json
import logging
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.helpers.runs import QUIET, SMALL_SAC, lines, patiently

RUN = ["run.mode=decoupled", "run.max_staleness=1", "players.num=2", "log.every=1", "checkpoint.every=200"]
RUN += ["checkpoint.snapshot_every=100", "ray.wait_timeout=100", "ray.max_failures=20", "algo.replay_ratio=0.5"]
SEES_SOON = {  # Ray detects a lost node soon; its default is 15 s
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 3,
}
PATIENCE = 250  # seconds, for a busy machine


@pytest.fixture(scope="module")
def head():
    """Yield a cluster with a head that has no room for actors with CPUs."""
    cluster = patiently(
        lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": SEES_SOON})
    )
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def cluster(head):
    """Yield the head; nodes that a test adds are removed."""
    yield head
    for node in list(head.worker_nodes):
        head.remove_node(node, allow_graceful=False)


class Subject:
    """A run on the cluster.

    Args:
        cluster: where.
        folder: the run's.
        overrides: of its settings.
    """

    def __init__(self, cluster, folder, *overrides):
        """Start the run."""
        self.folder, self.said = folder, folder.with_name("said.txt")
        words = [f"run.dir={folder}", f"ray.address={cluster.address}", *QUIET, *SMALL_SAC, *RUN, *overrides]
        command = [sys.executable, "-m", "sheeprl", "run", "sac", *words, "log.level=info"]
        with self.said.open("w") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)

    @property
    def steps(self):
        """Policy steps of the newest metrics line."""
        return self.newest("step")

    def newest(self, key):
        """Return the newest value of a metric, 0 if there is none."""
        if not (self.folder / "metrics.jsonl").exists():
            return 0
        written = (self.folder / "metrics.jsonl").read_text().rpartition("\n")[0].splitlines()
        return next((line[key] for line in map(json.loads, reversed(written)) if key in line), 0)

    def wait_for(self, steps):
        """Wait for a number of policy steps."""
        until = time.monotonic() + PATIENCE
        while self.steps < steps:
            assert self.process.poll() is None and time.monotonic() < until, self.said.read_text()
            time.sleep(0.05)

    def wait_for_word(self, word):
        """Wait for a word in the output."""
        until = time.monotonic() + PATIENCE
        while word not in self.said.read_text():
            assert self.process.poll() is None and time.monotonic() < until, self.said.read_text()
            time.sleep(0.05)


@contextmanager
def running(cluster, folder, *overrides):
    """Yield a run on the cluster; check that it succeeds with the exact ratio and prints one line per loss at most."""
    subject = Subject(cluster, folder, *overrides)
    try:
        yield subject
        assert subject.process.wait(PATIENCE) == 0, subject.said.read_text()
    finally:
        subject.process.kill()
        subject.process.wait()
    end = lines(folder)[-1]
    assert end["gradient_steps"] == (end["policy_steps"] - 50) // 2
    output = subject.said.read_text()
    assert "Traceback" not in output and "raylet" not in output
    assert all(len(line) < 400 for line in output.splitlines())


def wait_until_used(cluster, nodes):
    """Wait until Ray can place actors on new nodes, which its scheduler learns late."""
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    where = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(lambda: ray.get_runtime_context().get_node_id())
    waiting, until = {node.node_id for node in nodes}, time.monotonic() + PATIENCE
    while waiting:
        assert time.monotonic() < until
        waiting -= set(ray.get([where.remote() for _ in range(4)]))
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("memmap", [pytest.param("false", marks=pytest.mark.every), "true"])
def test_a_run_survives_the_replacement_of_its_nodes(tmp_path, cluster, memmap):
    """The run survives the replacement of each of its nodes."""
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    wait_until_used(cluster, nodes)
    overrides = [f"buffer.memmap={memmap}", "buffer.shards=2", "run.total_steps=1400"]
    with running(cluster, tmp_path / "run", *overrides) as subject:
        for number, node in enumerate(nodes):
            subject.wait_for(300 * (number + 1))
            cluster.remove_node(node, allow_graceful=False)
            cluster.add_node(num_cpus=2)
    assert subject.newest("Trainer/restarts") >= 1
    assert subject.newest("Players/restarts") >= 2
    assert subject.newest("Buffer/restarts") >= 1
    if memmap == "true":  # all nodes share the files
        assert not subject.newest("Buffer/lost_rows")


@pytest.mark.slow
def test_players_leave_a_draining_node(tmp_path, cluster):
    """Players move from a node that is drained."""
    first = cluster.add_node(num_cpus=4)
    cluster.wait_for_nodes()
    with running(cluster, tmp_path / "run", "run.total_steps=4000") as subject:
        subject.wait_for(150)
        cluster.add_node(num_cpus=4)
        cluster.wait_for_nodes()
        drain(cluster, first, seconds=60)
        subject.wait_for_word("the node is being drained")
    said = subject.said.read_text()
    moved = re.findall(r"players? ([\d and]+) moves?: the node is being drained", said)
    assert sorted(" ".join(moved).replace("and", "").split()) == ["0", "1"], said
    assert subject.newest("Players/restarts") == 0


@pytest.mark.every
@pytest.mark.timeout(900)
def test_two_runs_of_a_cluster_end_only_their_own_actors(tmp_path, cluster):
    """A run that is stopped ends its own actors; the other run continues to its end."""
    cluster.add_node(num_cpus=6)
    cluster.wait_for_nodes()
    with running(cluster, tmp_path / "first", "run.total_steps=2000") as first:
        second = Subject(cluster, tmp_path / "second", "run.total_steps=1000000")
        try:
            second.wait_for(100)
            before = first.steps
            second.process.terminate()
            assert second.process.wait(PATIENCE) == 143, second.said.read_text()
            wait_until_alone(cluster, "first")
            assert actors_of(cluster) >= {f"sheeprl:first:{who}" for who in ("host:0", "host:1", "shard:0")}
            assert before > 0 and first.process.poll() is None
        finally:
            second.process.kill()
            second.process.wait()
    assert first.newest("Players/restarts") == first.newest("Trainer/restarts") == 0
    assert lines(tmp_path / "second")[-1]["status"] == "interrupted"
    wait_until_alone(cluster, None)


def actors_of(cluster):
    """Return the names of the live actors of all runs."""
    ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    try:
        return {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
    finally:
        ray.shutdown()


def wait_until_alone(cluster, run):
    """Wait until all actors of a cluster are those of one run; None for no run."""
    until = time.monotonic() + PATIENCE
    while others := [name for name in actors_of(cluster) if not name.startswith(f"sheeprl:{run}:")]:
        assert time.monotonic() < until, others


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_survives_a_frozen_control_store(tmp_path, cluster):
    """Without Ray's control store for 10 s, the run continues and loses no worker."""
    total = 6000  # steps that take longer than the 10 s, also on a fast machine
    cluster.add_node(num_cpus=4)
    cluster.wait_for_nodes()
    (store,) = [each.process for each in cluster.head_node.all_processes["gcs_server"]]
    with running(cluster, tmp_path / "run", f"run.total_steps={total}") as subject:
        subject.wait_for(300)
        store.send_signal(signal.SIGSTOP)
        try:
            time.sleep(10)
            assert subject.process.poll() is None
        finally:
            store.send_signal(signal.SIGCONT)
        assert subject.steps < total  # the run was still in progress
    for who in ("Players", "Trainer", "Buffer"):
        assert subject.newest(f"{who}/restarts") == 0


def drain(cluster, node, seconds):
    """Announce to Ray that a node will be removed, as a provider of spot machines does."""
    where = ["--address", cluster.address, "--node-id", node.node_id]
    why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "it is a spot machine"]
    command = ["ray", "drain-node", *where, *why, "--deadline-remaining-seconds", str(seconds)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
