"""Test failures to connect to Ray."""

import os
import socket
import subprocess

import pytest
import ray

from sheeprl.actors.ray import cluster
from sheeprl.config import defaults
from sheeprl.config.loading import validate
from sheeprl.utils.errors import RunFailedError


@pytest.mark.parametrize(
    ("raised", "cause", "advice"),
    [
        (  # Ray's own text
            "The current node timed out during startup. This could happen because some of the raylet failed to startup",
            "its processes were not up in time, usually because the machine is busy",
            "try again when the machine has room, or use run.mode=coupled",
        ),
        ("no space left on device", "no space left on device", "use run.mode=coupled"),
    ],
)
def test_a_failed_start_is_one_line_with_the_cause_first(monkeypatch, tmp_path, raised, cause, advice):
    """A failed start of Ray is an error of one line: the cause, what to do, and where Ray's logs are."""

    def init(*args, **kwargs):
        """Refuse the connection."""
        raise Exception(f"{raised}\nAnd a page more.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    config = defaults.fill_in(validate({"algo": {"name": "ppo"}, "env": {"id": "none"}, "run": {"mode": "decoupled"}}))
    with pytest.raises(cluster.ClusterError) as failed:
        cluster.connect(config)
    message = str(failed.value)
    assert message.startswith(f"Ray can't be started: {cause}") and advice in message and "page more" not in message
    assert f"Ray's logs are in {tmp_path}/ray/session_latest/logs" in message


@pytest.mark.parametrize("variable", [True, False])
def test_an_address_where_nothing_listens_is_named_with_its_variable(monkeypatch, variable):
    """The error names an unreachable address and its variable."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        tree = {"algo": {"name": "ppo"}, "env": {"id": "none"}}
        if variable:
            monkeypatch.setenv("RAY_ADDRESS", address)
        else:
            tree["ray"] = {"address": address}
        with pytest.raises(cluster.ClusterError) as raised:
            cluster.connect(defaults.fill_in(validate(tree)))
    assert str(raised.value).startswith(f"{'RAY_ADDRESS' if variable else 'ray.address'}={address}: the Ray cluster")
    assert ("unset RAY_ADDRESS" in str(raised.value)) == variable


def test_a_refused_token_is_named_before_ray_joins(monkeypatch, capfd):
    """The error for a refused token is one line with the variables, without Ray's own lines."""

    class Client:
        """A control store that refuses every token."""

        def __init__(self, address):
            """Print and raise as Ray does."""
            os.write(2, b"W 1 gcs_client.cc: failed\n")
            raise RuntimeError(f"{address}: RPC error: InvalidAuthToken: long")

    monkeypatch.setattr("ray._raylet.GcsClient", Client)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray joins"))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listening.getsockname()[1]}")
        config = defaults.fill_in(validate({"algo": {"name": "ppo"}, "env": {"id": "none"}}))
        with pytest.raises(
            cluster.ClusterError, match=r"RAY_ADDRESS=.*: refuses the token of this shell; set RAY_AUTH"
        ):
            cluster.connect(config)
    assert capfd.readouterr().err == ""


def test_a_refused_connection_names_the_variables_of_the_token(monkeypatch):
    """The error for a refused connection names the variables of the token."""

    def init(*args, **kwargs):
        """Refuse the connection."""
        raise ConnectionError("Could not read anything")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "_check_access", lambda *_: None)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    config = defaults.fill_in(validate({"algo": {"name": "ppo"}, "env": {"id": "none"}}))
    with pytest.raises(cluster.ClusterError, match=r"RAY_ADDRESS=auto: .* set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN"):
        cluster.connect(config)


def test_the_node_process_of_a_joined_cluster_is_vital(monkeypatch, tmp_path):
    """The node process is found by its socket; other nodes and clusters of the machine are ignored."""
    program = tmp_path / "raylet"
    program.write_text("#!/bin/sh\nread line\n")
    program.chmod(0o755)
    monkeypatch.setattr(cluster, "service_pids", list)
    monkeypatch.setattr(cluster.internals, "node_socket", lambda: f"{tmp_path}/own/raylet")
    sockets = ("own/raylet", "own/raylet.1", "other/raylet")
    words = [[program, f"--raylet_socket_name={tmp_path}/{name}"] for name in sockets]
    nodes = [subprocess.Popen(each, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for each in words]
    try:
        assert cluster.vital_services() == {"Ray's node process (raylet)": nodes[0].pid}
    finally:
        for node in nodes:
            node.communicate()


def test_tasks_join_as_runs_do(monkeypatch):
    """A program that runs tasks gets the same message about an address where nothing listens."""
    from sheeprl.actors.ray.tasks import start_ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(RunFailedError, match=f"ray.address={address}: the Ray cluster can't be joined"):
            start_ray(address, "ray.address")
