"""Test the Dockerfile, the scripts and the run's configuration of `cluster/`."""

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from sheeprl import load_config

FOLDER = Path(__file__).parents[2] / "cluster"
sys.path.append(str(FOLDER))
import drain_node  # noqa: E402


@pytest.mark.parametrize(("program", "file"), [("hadolint", "Dockerfile"), ("shellcheck", "slurm.sbatch")])
def test_linters_find_nothing(program, file):
    """The linter of the file finds nothing, if it is installed."""
    path = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed; it comes with the extra cluster")
    done = subprocess.run([path, str(FOLDER / file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_dockerfile_copies_what_exists():
    """Files that the image copies exist, among them all that the wheel needs."""
    copied = re.findall(r"^COPY (.+) \S+$", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    for name in " ".join(copied).split():
        assert (FOLDER.parent / name).exists()
    assert {"sheeprl", "configs", "pyproject.toml", "README.md", "LICENSE"} <= set(" ".join(copied).split())


def test_run_of_the_clusters_is_a_configuration():
    """The run's settings exist, the same command resumes it, and its workers ask for the labels of the node types."""
    config = load_config(str(FOLDER / "run.yaml"))
    assert config.run.resume == "auto"
    assert config.players.label_selector == {"role": "player"}
    assert config.trainer.label_selector == config.buffer.label_selector == {"role": "trainer"}


# ------------------------------------------------------------------------------------------ drain_node


@pytest.fixture
def metadata(monkeypatch):
    """Return the answers of a cloud's metadata server by path; a path without an answer is not found."""
    answers = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answer from the dictionary, and require the header of each cloud."""

        def do_GET(self):
            """Answer a request."""
            known = {"X-aws-ec2-metadata-token": "secret", "Metadata-Flavor": "Google", "Metadata": "true"}
            answer = answers.get(self.path) if any(self.headers.get(key) == known[key] for key in known) else None
            self.send_response(404 if answer is None else 200)
            self.end_headers()
            self.wfile.write((answer or "").encode())

        def do_PUT(self):
            """Answer with the token of AWS."""
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"secret")

        def log_message(self, *args):
            """Print nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(drain_node, "NOTICES", {cloud: f"{base}/{cloud}" for cloud in drain_node.NOTICES})
        monkeypatch.setattr(drain_node, "TOKEN", f"{base}/token")
        yield answers
        server.shutdown()


EVENTS = {"Events": [{"EventType": "Reboot"}]}


@pytest.mark.parametrize(
    ("cloud", "before", "notice"),
    [
        ("aws", None, '{"action": "terminate", "time": "2030-01-01T00:00:00Z"}'),
        ("gcp", "FALSE", "TRUE"),
        ("azure", json.dumps(EVENTS), json.dumps({"Events": [{"EventType": "Preempt"}]})),
    ],
)
def test_notice_of_each_cloud_is_understood(metadata, cloud, before, notice):
    """The end of a spot machine is found, and neither a missing nor another notice is taken for it."""
    assert not drain_node.is_ending(cloud)
    if before is not None:
        metadata[f"/{cloud}"] = before
        assert not drain_node.is_ending(cloud)
    metadata[f"/{cloud}"] = notice
    assert drain_node.is_ending(cloud)


def test_unreachable_metadata_is_no_notice(monkeypatch):
    """Without a metadata server there is no notice."""
    monkeypatch.setattr(drain_node, "NOTICES", {"gcp": "http://127.0.0.1:1/"})
    assert not drain_node.is_ending("gcp")


@pytest.mark.parametrize(
    ("words", "nodes", "message"),
    [
        (["--seconds", "-1"], {}, "--seconds -1: must be at least 0"),
        ([], {}, "no Ray node runs on this machine"),
        (["--address", "c:1"], {1: ("n", "a:1")}, "no Ray node of c:1 runs on this machine"),
        ([], {1: ("n", "a:1"), 2: ("m", "b:1")}, "nodes of 2 clusters run here; choose one with --address"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(monkeypatch, capsys, words, nodes, message):
    """Wrong input drains nothing."""
    monkeypatch.setattr(drain_node, "raylets", lambda: nodes.items())
    monkeypatch.setattr(drain_node, "drain", lambda *args: pytest.fail("drained"))
    with pytest.raises(SystemExit) as end:
        drain_node.main(words)
    assert end.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


def test_nodes_of_the_named_cluster_only_are_drained(monkeypatch):
    """On a machine with nodes of two clusters, those of the named one are drained."""
    drained = []
    monkeypatch.setattr(drain_node, "raylets", lambda: {1: ("n", "a:1"), 2: ("m", "b:1"), 3: ("o", "a:1")}.items())
    monkeypatch.setattr(drain_node, "drain", lambda *args: drained.append(args) is None)
    assert drain_node.main(["--address", "a:1", "--seconds", "7"]) == 0
    assert drained == [("n", "a:1", 7), ("o", "a:1", 7)]


def test_refused_drain_is_exit_1(monkeypatch):
    """The exit code says whether the cluster has accepted."""
    monkeypatch.setattr(drain_node, "raylets", lambda: {1: ("n", "a:1")}.items())
    monkeypatch.setattr(drain_node, "drain", lambda *args: False)
    assert drain_node.main([]) == 1


@pytest.mark.parametrize(
    ("children", "busy"),
    [
        (["ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE", "python -u agent.py"], False),
        (["ray::IDLE", "ray::PlayerActor.collect"], True),
        ([], False),
    ],
)
def test_only_workers_keep_a_node_busy(monkeypatch, children, busy):
    """Actors and tasks keep a node busy; Ray's own processes and idle workers don't."""
    processes = [SimpleNamespace(cmdline=lambda name=name: [name]) for name in children]
    monkeypatch.setattr(drain_node.psutil, "Process", lambda pid: SimpleNamespace(children=lambda: processes))
    assert drain_node.is_busy(1) == busy


def test_node_that_has_ended_is_not_busy():
    """A process that doesn't exist isn't busy."""
    assert not drain_node.is_busy(2**22 + 1)


@pytest.mark.parametrize(
    ("name", "words", "stopped"),
    [("sheeprl", ["run", "x.yaml"], True), ("sheeprl", ["ls"], False), ("other", ["run", "x.yaml"], False)],
)
def test_only_drivers_are_stopped(monkeypatch, tmp_path, name, words, stopped):
    """`--drivers` terminates the runs of this machine, and no other process."""
    script = tmp_path / name
    script.write_text("import time; print('ready', flush=True); time.sleep(60)")
    process = subprocess.Popen([sys.executable, str(script), *words], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        mine = drain_node.psutil.Process(process.pid)
        mine.info = {"cmdline": mine.cmdline()}
        monkeypatch.setattr(drain_node.psutil, "process_iter", lambda attributes: [mine])
        drain_node.stop_drivers(10)
        assert (process.poll() is not None) == stopped
    finally:
        process.kill()
        process.communicate()
