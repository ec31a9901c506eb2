"""Test the command `status` with clusters that are not there; `tests/integration/test_status.py` has a real one."""

import json
import os
import socket
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from sheeprl.actors.ray import internals
from sheeprl.cli import main, status
from tests.metrics.test_run_entry import ENTRY


def sheeprl(capsys, *words):
    """Run the command line and return its exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as end:
        main(list(words))
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    """Unset the variables of a cluster."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def port():
    """Return a port of this machine at which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def entries(monkeypatch, port):
    """Replace a cluster's control store by a dictionary of entries, and return it."""
    values = {}
    monkeypatch.setattr(status, "RECHECK", 0.0)
    monkeypatch.setattr(internals, "running_cluster", lambda address: f"127.0.0.1:{port}")
    monkeypatch.setattr(internals, "cluster_contents", lambda address, namespace: (values, {ENTRY.job}))
    return values


def test_runs_are_listed_the_newest_first(capsys, entries):
    """The table has one row per run; entries that can't be read are left out."""
    now = time.time()
    entries["a"] = ENTRY.to_json()
    entries["b"] = replace(ENTRY, since=now, updated=now, mean_return=12.345, algorithm="sac").to_json()
    entries["c"] = "{"
    code, out, _ = sheeprl(capsys, "status")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0 and len(rows) == 3
    assert rows[1][:2] == ["ppo/CartPole-v1/1_0", "running"] and "12.35" in rows[1] and "1/2" in rows[1]
    assert rows[2][1] == "silent" and "10/100" in rows[2] and "-" in rows[2]


def test_a_clock_that_differs_makes_no_run_silent(capsys, monkeypatch, entries):
    """A run that reports while its machine's clock is hours behind is running."""
    past = time.time() - 7200
    entries["a"] = replace(ENTRY, updated=past, state="running").to_json()

    def report(seconds):
        """Update the entry, as the driver does in this time."""
        entries["a"] = replace(ENTRY, updated=past + 5, state="running").to_json()

    monkeypatch.setattr(status, "time", SimpleNamespace(**{**vars(time), "sleep": report}))
    _, out, _ = sheeprl(capsys, "status", "--json")
    assert [run["state"] for run in json.loads(out)] == ["running"]


def test_json_holds_all_fields(capsys, entries):
    """`--json` prints one array with the current states."""
    entries["a"] = replace(ENTRY, job="07000000").to_json()
    code, out, _ = sheeprl(capsys, "status", "--json")
    (run,) = json.loads(out)
    assert code == 0
    assert (run["name"], run["state"], run["node"]) == ("ppo/CartPole-v1/1_0", "failed", "head")
    assert run["mean_return"] is None


def test_empty_cluster(capsys, entries):
    """A cluster without runs is no error."""
    assert sheeprl(capsys, "status") == (0, "no run on the cluster; sheeprl ls lists the runs in this folder\n", "")
    assert sheeprl(capsys, "status", "--json")[1] == "[]\n"


def test_closed_port_is_one_line(capsys):
    """A closed port is reported at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    code, out, err = sheeprl(capsys, "status", "--address", f"127.0.0.1:{closed}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: --address 127.0.0.1:{closed}: can't be reached: ")


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265"])
def test_addresses_of_other_services(capsys, address):
    """Addresses of a dashboard or of Ray's client are refused with the form to use."""
    code, _, err = sheeprl(capsys, "status", "--address", address)
    assert (code, err) == (
        2,
        f"error: --address {address}: use the address of the head node's Ray, such as HOST:6379, or auto\n",
    )


def test_malformed_address_names_its_source(capsys, monkeypatch):
    """The message names RAY_ADDRESS if the address comes from there."""
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    code, _, err = sheeprl(capsys, "status")
    assert code == 2 and err.startswith("error: RAY_ADDRESS=nonsense: ") and err.count("\n") == 1


def test_no_cluster_on_this_machine(capsys, monkeypatch):
    """Without an address and a cluster on this machine, the message names both ways on."""

    def none(address):
        """Raise Ray's error."""
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(internals, "running_cluster", none)
    assert sheeprl(capsys, "status") == (
        2,
        "",
        "error: no Ray cluster runs on this machine; name one with --address HOST:6379, or use sheeprl ls\n",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [("RPC error: InvalidAuthToken: long", "refuses the token of this shell"), ("odd\nmore", "can't be read: odd")],
)
def test_errors_of_ray_are_one_line(capfd, monkeypatch, entries, text, message):
    """An error of Ray, such as a wrong token, is one line with the variables to set, without Ray's own lines."""

    def refuse(address, namespace):
        """Print and raise as Ray does."""
        os.write(2, b"W 1 gcs_client.cc: failed\n")
        raise RuntimeError(text)

    monkeypatch.setattr(internals, "cluster_contents", refuse)
    code, _, err = sheeprl(capfd, "status")
    assert code == 2 and err.count("\n") == 1 and message in err and "RAY_AUTH_MODE=token" in err
