"""Run the commands of `cluster/` as they stand there, on clusters of this machine."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.cluster.test_scripts import drain_node
from tests.helpers.clusters import (
    PATIENCE,
    end_processes_of,
    free_port,
    local_cluster,
    processes_of,
    short_folder,
    wait_for,
)
from tests.helpers.runs import lines

pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster"
SMALL = [
    "players.num=1",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.compile=false",
    "eval.episodes=0",
    "log.every=100",
    "algo.hidden_sizes=[16]",
]
LONG, STEPS = 10_000_000, 400  # policy steps of a run that is stopped, and of one that ends


def nodes_of(cluster):
    """Return the process id of each of a cluster's nodes by its id."""
    return {node: pid for pid, (node, address) in drain_node.raylets() if address == cluster.address}


def saved_steps(folder):
    """Return the policy steps of the checkpoints below a folder."""
    return [int(path.parent.name[5:]) for path in folder.rglob("step_*/manifest.json")]


@pytest.mark.slow
def test_job_of_the_manifest_is_stopped_and_resumed(tmp_path):
    """The entrypoint of the RayJob saves a checkpoint when the job is stopped; submitted again, it resumes."""
    (job,) = yaml.safe_load_all((FOLDER / "kuberay" / "rayjob.yaml").read_text())
    entrypoint, runtime_env = job["spec"]["entrypoint"], yaml.safe_load(job["spec"]["runtimeEnvYAML"])
    for path, here in (("/opt/sheeprl", FOLDER), ("/home/ray", tmp_path), ("s3://BUCKET", tmp_path / "bucket")):
        assert path in entrypoint
        entrypoint = entrypoint.replace(path, str(here))
    runtime_env["env_vars"]["PYTHONPATH"] = str(ROOT)
    submit = ["ray", "job", "submit", "--runtime-env-json", json.dumps(runtime_env)]
    with local_cluster() as cluster:
        cluster.start_head("--num-cpus=1", "--labels=role=trainer")
        cluster.add_node("--num-cpus=1", "--labels=role=player")
        web = ["--address", f"http://127.0.0.1:{cluster.dashboard_port}"]
        words = [*entrypoint.split(), *SMALL]
        done = None

        def is_submitted():
            """Submit the job; the head's agent may not be up yet."""
            nonlocal done
            first = ["--submission-id=first-0", "--no-wait", "--", *words, f"run.total_steps={LONG}"]
            done = cluster.call(*submit, *web, *first)
            return done.returncode == 0 or "try again later" not in done.stderr

        wait_for(is_submitted, "the submission")
        assert done.returncode == 0, done.stderr
        metrics = tmp_path / "runs" / "first" / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and metrics.stat().st_size, "the first metrics")

        def states():
            """Return the states of the cluster's runs, which their drivers report every few seconds."""
            return [run["state"] for run in json.loads(cluster.call("sheeprl", "status", "--json").stdout)]

        wait_for(lambda: states() == ["running"], "the state in the list")
        cluster.call("ray", "job", "stop", *web, "first-0")
        wait_for(lambda: saved_steps(tmp_path), "the checkpoint")
        (steps,) = set(saved_steps(tmp_path))
        wait_for(lambda: lines(metrics.parent)[-1].get("event") == "end", "the end event")
        assert lines(metrics.parent)[-1]["status"] == "interrupted"
        done = cluster.call(*submit, *web, "--submission-id=first-1", "--", *words, f"run.total_steps={steps + STEPS}")
        assert done.returncode == 0 and "resuming from" in done.stdout, done.stdout + done.stderr
        assert lines(metrics.parent)[-1]["status"] == "done"
        listed = cluster.call("sheeprl", "status")
        assert "finished" in listed.stdout, listed.stderr


@pytest.mark.every
def test_cluster_refuses_clients_without_its_token(tmp_path):
    """`sheeprl status` and `sheeprl run` need the token, and say so in one line."""
    with local_cluster() as cluster:
        cluster.start_head("--num-cpus=1", "--include-dashboard=false")
        cluster.env["RAY_AUTH_TOKEN"] = "0" * 64
        done = cluster.call("sheeprl", "status")
        assert done.returncode == 2
        assert "refuses the token of this shell" in done.stderr and done.stderr.count("\n") == 1
        done = cluster.call("sheeprl", "run", "sac", f"run.dir={tmp_path / 'run'}", "run.mode=decoupled", *SMALL)
        assert done.returncode == 1 and not (tmp_path / "run").exists(), done.stderr
        assert "refuses the token of this shell" in done.stderr and done.stderr.count("\n") == 1, done.stderr
        cluster.env["RAY_AUTH_MODE"] = "disabled"
        done = cluster.call("sheeprl", "status")
        assert done.returncode == 2 and "RAY_AUTH_MODE=token" in done.stderr


@pytest.mark.every
def test_drained_node_takes_no_more_work(monkeypatch):
    """`drain_node.py` announces the end of a node, and waits for its workers only."""
    with local_cluster() as cluster:
        cluster.start_head("--num-cpus=1", "--include-dashboard=false")
        head = nodes_of(cluster)
        cluster.add_node("--num-cpus=1")
        ((node, raylet),) = nodes_of(cluster).items() - head.items()
        for name in ("PATH", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            monkeypatch.setenv(name, cluster.env[name])
        # A node that has just started may not be known yet.
        wait_for(lambda: drain_node.drain(node, cluster.address, 60), "the drain")
        assert not drain_node.is_busy(raylet)  # Ray ends a drained node once it is idle
        hold = "import ray, time; ray.init(log_to_driver=False); "
        hold += "ray.get(ray.remote(num_cpus=1)(lambda: time.sleep(600)).remote())"
        driver = subprocess.Popen(["python", "-c", hold], env=cluster.env)
        try:  # the task runs on the head, since the other node takes no more
            wait_for(lambda: drain_node.is_busy(*head.values()), "the task", process=driver)
            assert not drain_node.is_busy(raylet)
        finally:
            driver.kill()
            driver.wait()


def start_autoscaled_head(cluster, idle_minutes):
    """Start a head with the fake autoscaler, which ends nodes after some idle minutes."""
    tree = yaml.safe_load((FOLDER / "fake-autoscaling" / "config.yaml").read_text())
    tree["provider"]["gcs_address"] = cluster.address  # by default that of port 6379
    tree["idle_timeout_minutes"] = idle_minutes
    config = cluster.folder / "config.yaml"
    config.write_text(yaml.dump(tree))
    options = ["--num-cpus=2", "--include-dashboard=false", f"--autoscaling-config={config}"]
    cluster.start_head(*options, RAY_FAKE_CLUSTER="1")


@pytest.mark.every
def test_run_brings_nodes_of_the_fake_autoscaler(tmp_path):
    """A run that needs more nodes waits until the autoscaler has added them."""
    with local_cluster() as cluster:
        start_autoscaled_head(cluster, idle_minutes=5)  # a busy machine may need longer to start a worker
        words = [
            f"run.dir={tmp_path / 'run'}",
            "players.num=3",
            f"run.total_steps={STEPS}",
            "run.resume=false",
            *SMALL[1:],
        ]
        done = cluster.call("sheeprl", "run", "sac", "env.id=Pendulum-v1", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert lines(tmp_path / "run")[-1]["status"] == "done"
        assert len(nodes_of(cluster)) > 1


@pytest.mark.every
def test_hosts_bring_nodes_that_go_with_a_killed_driver(tmp_path):
    """A run starts with one host and gets nodes for the others; after its driver's SIGKILL, they go."""
    with local_cluster() as cluster:
        start_autoscaled_head(cluster, idle_minutes=0.5)
        words = ["players.num=6", "players.min=1", "players.max=6", "run.total_steps=100000000", "run.resume=false"]
        words += [f"run.dir={tmp_path / 'run'}", *SMALL[1:]]
        driver = subprocess.Popen(["sheeprl", "run", "sac", "env.id=Pendulum-v1", *words], env=cluster.env)
        try:
            wait_for(lambda: len(nodes_of(cluster)) >= 3, "two nodes for players", process=driver)
            driver.kill()
            driver.wait()
            wait_for(lambda: len(nodes_of(cluster)) == 1, "the end of these nodes")
        finally:
            driver.kill()
            driver.wait()


SRUN = """#!/bin/bash
# Run the command of a step on this machine. Ray's node gives up after 30 seconds, which a busy machine may exceed.
while [[ "$1" == --* ]]; do shift; done
trap 'kill -TERM "${child}"; wait "${child}"; exit 143' TERM
for _ in 1 2 3 4; do
    "$@" &
    child=$!
    wait "${child}" && exit 0
done
exit 1
"""
SCONTROL = """#!/bin/bash
if [[ "$1 $2" == "show hostnames" ]]; then echo 127.0.0.1; else echo "$@" >> "${CALLS}"; fi
"""


@pytest.mark.every
def test_slurm_job_is_queued_again_at_its_limit_and_resumes(tmp_path):
    """The batch file saves a checkpoint at the time limit and requeues the job, which then resumes and ends."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    calls, home = tmp_path / "calls", tmp_path / "home"
    home.mkdir()
    with short_folder() as folder, local_cluster() as unused:
        env = {name: value for name, value in unused.env.items() if name not in ("RAY_AUTH_TOKEN", "RAY_ADDRESS")} | {
            "PATH": f"{programs}{os.pathsep}{unused.env['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CALLS": str(calls),
            "HOME": str(home),
            "SHEEPRL_RAY_TMPDIR": str(folder),
            "SLURM_JOB_ID": "42",
            "SLURM_JOB_NODELIST_HET_GROUP_0": "127.0.0.1",
            "SLURM_CPUS_PER_TASK_HET_GROUP_0": "1",
            "SLURM_CPUS_PER_TASK_HET_GROUP_1": "1",
            "SLURM_JOB_END_TIME": str(int(time.time()) + 100),
        }
        command = [
            "bash",
            str(FOLDER / "slurm.sbatch"),
            str(FOLDER / "run.yaml"),
            f"run.dir={tmp_path / 'run'}",
            *SMALL,
        ]
        metrics = tmp_path / "run" / "metrics.jsonl"
        job = None
        try:
            env["SHEEPRL_RAY_PORT"] = str(free_port())
            job = subprocess.Popen(
                [*command, f"run.total_steps={LONG}"],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            wait_for(
                lambda: job.poll() is not None or (metrics.exists() and metrics.stat().st_size), "the first metrics"
            )
            job.send_signal(signal.SIGTERM)
            output, _ = job.communicate(timeout=PATIENCE)
            assert job.returncode == 143, output
            assert calls.read_text() == "requeue 42\n"
            (steps,) = set(saved_steps(tmp_path / "run"))
            wait_for(lambda: not processes_of(folder), "the end of Ray's processes", 60)
            env["SHEEPRL_RAY_PORT"] = str(free_port())
            again = subprocess.run(
                [*command, f"run.total_steps={steps + STEPS}"],
                env=env,
                capture_output=True,
                text=True,
                timeout=2 * PATIENCE,
            )
            assert again.returncode == 0 and "resuming from" in again.stdout, again.stdout + again.stderr
            assert not list(home.glob(".sheeprl-token*"))
        finally:
            if job is not None:
                job.kill()
                job.wait()
            end_processes_of(tmp_path)  # the driver, and the steps
            end_processes_of(folder)
