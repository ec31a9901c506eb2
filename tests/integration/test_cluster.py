"""Test placement on the nodes of a cluster, nodes without the run's folder, and resumes from a bucket."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress

import pytest
import ray
from ray.cluster_utils import Cluster

from sheeprl.actors.ray import cluster as clusters
from sheeprl.actors.ray import internals, nodes
from sheeprl.actors.ray.fleet import Fleet
from sheeprl.actors.ray.waiting import ClusterError
from sheeprl.config.checks import check
from sheeprl.config.loading import load_config
from sheeprl.utils.process import run_in_loop
from tests.helpers.buckets import new_bucket, s3_server
from tests.helpers.runs import QUIET, SMALL_SAC, lines, patiently

RUN = ["trainer.compile=false", "trainer.accelerator=cpu", "log.every=1", *QUIET, "log.level=info"]
PATIENCE = 280  # seconds, for a busy machine


@pytest.fixture
def head():
    """Yield a cluster with a head that has no room for actors with CPUs."""
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 0}))
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def node_of(handle):
    """Return the id of an actor's node."""
    return ray.get(handle.actor.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id()), timeout=100)


@pytest.mark.slow
def test_actors_stand_on_the_nodes_of_their_labels(head, monkeypatch):
    """Ranks share one node per `trainer.num_nodes`, shards stand beside them, players on nodes of their label."""
    gpus = [head.add_node(num_cpus=2, num_gpus=2, labels={"kind": "gpu"}) for _ in range(2)]
    spot = head.add_node(num_cpus=4, labels={"market": "spot"})
    head.add_node(num_cpus=4)
    head.wait_for_nodes()
    ray.init(address=head.address, logging_level=logging.ERROR, log_to_driver=False)
    words = ["trainer.num_nodes=2", "trainer.devices=2", "buffer.shards=2", "players.num=2", "buffer.size=5000"]
    words += ["players.label_selector={market: spot}", "ray.wait_timeout=5", *SMALL_SAC[:3], "trainer.accelerator=cpu"]
    resolved = check(load_config("sac", [f"ray.address={head.address}", *words]).model_dump(mode="json"))
    config = resolved.config
    trainer = config.trainer.model_copy(update={"accelerator": "cuda"})  # with GPUs that only Ray believes in
    config = config.model_copy(update={"trainer": trainer})
    reports = []

    async def place():
        """Start the actors, check their nodes, then ask for more than the nodes with the label hold."""
        fleet = Fleet(config, resolved.spaces, run="here", report=reports.append)
        try:
            ranks = [node_of(rank) for rank in fleet.learner.ranks]
            assert ranks[0] == ranks[1] != ranks[2] == ranks[3]
            assert set(ranks) == {node.node_id for node in gpus}
            assert {node_of(shard) for shard in fleet.shards} == set(ranks)
            fleet.hosts.start()
            assert {await host.node for host in fleet.hosts.hosts} == {spot.node_id}
            names = {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
            assert {"sheeprl:here:host:1", "sheeprl:here:shard:0", "sheeprl:here:trainer:3"} <= names
            fleet.excluded.add(spot.node_id)
            for number in range(2):
                fleet.make_player(number, 0)
            fleet.hosts.players = fleet.hosts.least = 3  # more than fit on the node
            fleet.make_player(2, 0)
            with pytest.raises(ClusterError, match=r"player 2 found no room within 5 s"):
                while True:
                    await fleet.find_moves(0.0)
        finally:
            fleet.close()

    run_in_loop(place)
    assert clusters.choose_accelerator(config) == "cuda"
    assert not internals.is_autoscaled()
    monkeypatch.setattr(nodes, "versions", lambda: {"numpy": "0.1"})  # of the driver
    checked = nodes.check_nodes([node for node in ray.nodes() if node["Alive"]], ["gymnasium"], None)
    assert len(checked) == 5
    for found in checked:
        assert len(found.mistakes) == 1 and found.mistakes[0].endswith(", but the driver has 0.1")


# --- a node without the run's folder ---


PACKAGE = """
import gymnasium
from gymnasium.envs.classic_control.pendulum import PendulumEnv as Env
gymnasium.register("Only-v0", entry_point="onlyhere:Env", max_episode_steps=50)
"""


@pytest.fixture
def away(tmp_path, monkeypatch):
    """Yield the address of a cluster; its second node sees empty folders in the place of runs and of a package."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "packages" / "onlyhere").mkdir(parents=True)
    (tmp_path / "packages" / "onlyhere" / "__init__.py").write_text(PACKAGE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/packages:{os.environ.get('PYTHONPATH', '')}")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make mount namespaces")
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 2}))
    start = f"ray start --address={cluster.address} --num-cpus=2 --labels=where=away --block"
    hide = " && ".join(f"mount -t tmpfs tmpfs {tmp_path}/{name}" for name in ("runs", "packages"))
    script = f"{hide} && exec {start}"
    with (tmp_path / "node").open("w") as said:
        command = ["unshare", "-m", "sh", "-c", script]
        slow = {**os.environ, "RAY_raylet_start_wait_time_s": "120"}
        process = subprocess.Popen(command, start_new_session=True, env=slow, stdout=said, stderr=subprocess.STDOUT)
    try:
        ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
        until = time.monotonic() + PATIENCE
        while sum(node["Alive"] for node in ray.nodes()) < 2:
            assert time.monotonic() < until and process.poll() is None, (tmp_path / "node").read_text()
            time.sleep(0.2)
        ray.shutdown()
        yield cluster.address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
def test_a_node_without_the_runs_folder(away, tmp_path):
    """Such a node ends the run at once, with the setting that helps; with it, shards there save and restore rows."""
    words = ["run.mode=decoupled", f"run.dir={tmp_path}/runs/a", f"ray.address={away}", *RUN, *SMALL_SAC]
    words += ["run.total_steps=300", "checkpoint.every=100", "trainer.label_selector={where: away}"]
    refused = sheeprl("run", "sac", *words)
    assert refused.returncode == 1
    assert "doesn't see the checkpoints of this run" in refused.stderr
    assert "set checkpoint.storage=s3://bucket/prefix" in refused.stderr and "Traceback" not in refused.stderr
    done = sheeprl("run", "sac", *words, f"checkpoint.storage={tmp_path}/store")
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "runs").rglob("shard_*"))
    resumed = sheeprl("resume", f"{tmp_path}/runs/a", "run.total_steps=500", "players.num=2", "buffer.shards=2")
    assert resumed.returncode == 0, resumed.stderr
    check_exact(tmp_path / "runs" / "a")


@pytest.mark.every
def test_a_node_without_the_environment_s_package_is_not_used(away, tmp_path):
    """The run names the node and uses the others."""
    storage = f"checkpoint.storage={tmp_path}/store"  # for shards, which may be on any node
    words = ["run.mode=decoupled", f"run.dir={tmp_path}/runs/a", f"ray.address={away}", *RUN, *SMALL_SAC]
    done = sheeprl("run", "sac", *words, "env.id=onlyhere:Only-v0", "run.total_steps=200", "players.num=1", storage)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is not used: it has no module onlyhere; install the same packages there") == 1
    check_exact(tmp_path / "runs" / "a")


def sheeprl(*words):
    """Run the command and return its result."""
    command = [sys.executable, "-m", "sheeprl", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def check_exact(folder):
    """Check that a finished run has the exact ratio and all its rows: one per step, and one per end of an episode."""
    written = lines(folder)
    end, size = written[-1], [line["Buffer/size"] for line in written if "Buffer/size" in line][-1]
    assert end["status"] == "done" and end["gradient_steps"] == end["policy_steps"] - 50
    assert size == end["policy_steps"] + len((folder / "episodes.jsonl").read_text().splitlines())


# --- a whole run, killed and resumed from a bucket ---


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sac", pytest.param("ppo", marks=pytest.mark.every)])
def test_a_killed_run_resumes_from_the_bucket_with_other_numbers(tmp_path, monkeypatch, algorithm):
    """A killed run resumes from the bucket in a new folder, with other numbers of players and shards."""
    small = SMALL_SAC if algorithm == "sac" else ["algo.rollout_steps=16"]
    words = ["run.mode=decoupled", "players.num=2", "run.total_steps=100000", "checkpoint.every=100", *RUN, *small]
    with s3_server() as server:
        store = f"{new_bucket(server, monkeypatch)}/{uuid.uuid4().hex}"
        words += [f"run.dir={tmp_path}/first", f"checkpoint.storage={store}"]
        words += ["buffer.shards=2"] if algorithm == "sac" else []
        command = [sys.executable, "-m", "sheeprl", "run", algorithm, *words]
        with (tmp_path / "said").open("w") as said:
            process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + PATIENCE
            while len(list((tmp_path / "first" / "checkpoints").glob("step_*"))) < 2:
                assert time.monotonic() < until and process.poll() is None, (tmp_path / "said").read_text()
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
        newest = max(int(path.name[5:]) for path in (tmp_path / "first" / "checkpoints").glob("step_*"))
        changed = ["players.num=3", *(["buffer.shards=3"] if algorithm == "sac" else [])]
        last = f"run.total_steps={newest + 300}"
        resumed = sheeprl("resume", f"{store}/first", f"run.dir={tmp_path}/second", last, *changed)
    assert resumed.returncode == 0, resumed.stderr
    resumes = [line["step"] for line in lines(tmp_path / "second") if line.get("event") == "resume"]
    assert len(resumes) == 1 and resumes[0] >= newest
    if algorithm == "sac":
        check_exact(tmp_path / "second")
    assert lines(tmp_path / "second")[-1]["policy_steps"] >= newest + 300


# --- stop and resubmission, as by `ray job stop` and `ray job submit` ---


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "ends",
    [
        pytest.param((signal.SIGTERM, signal.SIGTERM), marks=pytest.mark.every),
        (signal.SIGTERM, signal.SIGKILL),
    ],
)
def test_a_job_that_is_stopped_at_random_goes_on_when_it_is_submitted_again(tmp_path, monkeypatch, ends):
    """The command of an ended job resumes it; the ratio is exact and no line of metrics or episodes is there twice."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")  # as in a job, whose working folder is a copy
    monkeypatch.setenv("SHEEPRL_HOME", str(tmp_path))
    monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", "60")
    words = ["run.mode=coupled", "run.resume=auto", "log.every=50", "checkpoint.every=100", *RUN[:2], *QUIET]
    words += ["log.level=info", "env.max_episode_steps=50", "env.num_envs=1", "players.num=1", *SMALL_SAC]
    command, said = [sys.executable, "-m", "sheeprl", "run", "sac", *words], tmp_path / "said"
    chance = random.Random(f"{ends}")
    saved = []
    for number in ends:
        with said.open("w") as output:
            process = subprocess.Popen([*command, "run.total_steps=1000000"], stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_for_checkpoints(tmp_path, list(saved), chance.randrange(1, 3), said, process)
            time.sleep(chance.uniform(0, 1))
            process.send_signal(number)
            assert process.wait(PATIENCE) == (143 if number == signal.SIGTERM else -9), said.read_text()
        finally:
            process.kill()
            process.wait()
        assert ("resuming from step_" in said.read_text()) == bool(saved)
        saved += newer(saved, tmp_path)
    last = max(saved) // 50 * 50 + 125  # no multiple of 50: the row of an episode's end comes with the next step
    done = subprocess.run([*command, f"run.total_steps={last}"], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0 and f"resuming from step_{max(saved)}" in done.stdout, done.stdout + done.stderr
    (folder,) = (tmp_path / "logs" / "sac").glob("*/auto_0")
    check_exact(folder)
    steps = [line["step"] for line in lines(folder) if "event" not in line]
    assert steps == sorted(set(steps)) and steps[-1] >= last
    episodes = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert [line["step"] for line in episodes] == sorted({line["step"] for line in episodes})
    assert len(episodes) == lines(folder)[-1]["policy_steps"] // 50  # all of 50 steps, of one environment


def newer(saved, folder):
    """Return the steps of the checkpoints below a folder that are newer than all of a list."""
    found = [int(path.parent.name[5:]) for path in folder.rglob("step_*/manifest.json")]
    return sorted(step for step in found if step > max(saved, default=0))


def wait_for_checkpoints(folder, saved, number, said, process):
    """Wait until a process has written a number of checkpoints that are newer than all of a list."""
    until = time.monotonic() + PATIENCE
    while len(newer(saved, folder)) < number:
        assert process.poll() is None and time.monotonic() < until, said.read_text()
        time.sleep(0.05)
