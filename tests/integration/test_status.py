"""Test `sheeprl status` and the exported metrics with real runs, in one Ray session."""

import logging
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
import ray
from ray.cluster_utils import Cluster

from sheeprl.cli.status import cluster_runs
from sheeprl.metrics.ray_metrics import METRICS
from tests.helpers.clusters import is_open, wait_for
from tests.helpers.runs import patiently, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SMALL = ["trainer.compile=false", "eval.episodes=1", "log.every=500", "checkpoint.every=1000"]
PATIENCE = 240  # seconds


@pytest.fixture(scope="module", autouse=True)
def session():
    """Connect to a cluster whose metrics agent runs: a process that waits 30 seconds for it exports nothing."""
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 4}))
    try:
        wait_for(lambda: is_open(cluster.head_node.metrics_export_port), "the metrics agent")
        ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def runs():
    """Return the runs of the session's cluster by folder."""
    return {each["run"]: each for each in cluster_runs(ray.get_runtime_context().gcs_address)}


def exported():
    """Return the lines that Prometheus would get from this node."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return answer.read().decode().splitlines()


def test_finished_run_is_listed_and_exported(tmp_path):
    """A run leaves its result in the cluster, and every metric reaches Prometheus with the run's tags."""
    result = run(tmp_path / "run", "ppo", "run.mode=decoupled", "run.total_steps=3000", *SMALL)
    found = runs()[str(result.run_dir)]
    assert (found["state"], found["policy_steps"]) == ("finished", result.policy_steps)
    assert (found["algorithm"], found["environment"]) == ("ppo", "CartPole-v1")
    assert found["checkpoint"] is not None
    # A counter appears with its first count, and no worker was lost.
    names = {metric.exported for metric in METRICS if not metric.name.endswith("_restarts")}
    seen = {}
    deadline = time.monotonic() + PATIENCE  # Ray's processes export every ten seconds
    while names - set(seen) and time.monotonic() < deadline:
        time.sleep(1)
        lines = [line for line in exported() if f'run="{found["name"]}"' in line]
        seen |= {line.partition("{")[0]: line for line in lines}
    assert set(seen) == names
    steps = seen["ray_sheeprl_policy_steps_total"]
    assert float(steps.split()[-1]) == result.policy_steps
    assert 'algorithm="ppo"' in steps and 'environment="CartPole-v1"' in steps


def test_killed_driver_is_listed_as_failed(tmp_path):
    """The run of a driver that is killed is running before and failed afterwards."""
    folder = str(tmp_path / "killed")
    address = ray.get_runtime_context().gcs_address
    words = ["run", "ppo", f"run.dir={folder}", f"ray.address={address}", "run.total_steps=100000000", *SMALL]
    driver = subprocess.Popen([sys.executable, "-m", "sheeprl", *words], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while runs().get(folder, {}).get("policy_steps", 0) == 0 and time.monotonic() < deadline:
            time.sleep(0.5)
        assert runs()[folder]["state"] == "running"
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        while runs()[folder]["state"] == "running" and time.monotonic() < deadline:
            time.sleep(0.5)
        assert runs()[folder]["state"] == "failed"
    finally:
        driver.kill()
