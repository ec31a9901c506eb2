"""Clusters of `ray start` for tests: each has its own ports, folder and token, and ends by its own process ids."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from ray.util import get_node_ip_address

BIN = Path(sys.executable).parent
PATIENCE = 400.0  # seconds; a run takes one minute on an idle machine
ATTEMPTS = 4  # starts of a node


def free_port():
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(condition, what, seconds=PATIENCE, process=None):
    """Wait until a condition holds; fail if a process ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        assert process is None or process.poll() is None, f"{what}: the process ended with {process.returncode}"
        time.sleep(0.2)


def is_open(port):
    """Return whether a process listens at a port of this machine."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


class LocalCluster:
    """Nodes of one cluster on this machine, started by `ray start --block`."""

    def __init__(self, folder, host=None):
        """Choose ports and a token.

        Args:
            folder: folder of Ray's files, with a short path.
            host: address of the head; None for that of this machine.
        """
        self.folder = folder
        self.port, self.dashboard_port = free_port(), free_port()
        self.address = f"{host or get_node_ip_address()}:{self.port}"  # as Ray's processes write it
        self.nodes = []
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def start_head(self, *options, within=(), **variables):
        """Start the head and wait until it runs, with its dashboard.

        Args:
            options: options of `ray start`.
            within: words before the command, such as those that select a network namespace.
            variables: variables of its environment.
        """
        ports = [f"--port={self.port}", f"--dashboard-port={self.dashboard_port}"]
        command = [*within, "ray", "start", "--block", "--head", *ports, *options]
        head = self._start(command, variables)
        if "--include-dashboard=false" not in options:
            wait_for(lambda: is_open(self.dashboard_port), "the dashboard", process=head)

    def add_node(self, *options, within=()):
        """Start another node and wait until it runs; the arguments are those of `start_head`."""
        self._start([*within, "ray", "start", "--block", f"--address={self.address}", *options], {})

    def call(self, *command, **options):
        """Run a command of the cluster's user, and return it when it ends."""
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=PATIENCE * 2, **options)

    def _start(self, command, variables):
        """Start a node in a new session, and wait until it has registered.

        Ray gives up after 30 seconds, which a busy machine may exceed; then the node is started again.
        """
        path = self.folder / f"node_{len(self.nodes)}.log"
        for _ in range(ATTEMPTS):
            with path.open("wb") as log:
                node = subprocess.Popen(
                    command, env=self.env | variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            self.nodes.append(node)
            if self._has_started(node, path):
                return node
        raise AssertionError(path.read_text())

    def _has_started(self, node, path):
        """Wait until a node runs or has given up, and return whether it runs."""
        wait_for(lambda: "will now block" in path.read_text() or node.poll() is not None, "the start of a node")
        return node.poll() is None

    def close(self):
        """End the nodes; `ray start --block` ends its processes on SIGTERM."""
        for node in reversed(self.nodes):
            node.terminate()
        for node in self.nodes:
            with suppress(subprocess.TimeoutExpired):
                node.wait(30)
            node.kill()
            node.wait()
        end_processes_of(self.folder)


class Link:
    """Two network namespaces that stand for two hosts; a third one is the switch between them.

    Raises:
        subprocess.CalledProcessError: this user may not make network namespaces.
    """

    def __init__(self):
        """Make the hosts and connect them."""
        number = os.getpid() % 50000
        self.hosts, self._switch = [f"rt{number}a", f"rt{number}b"], f"rt{number}s"
        self.addresses = [f"10.{200 + number // 1000}.{number % 250}.{host}" for host in (1, 2)]
        try:
            for each in (*self.hosts, self._switch):
                self._ip("netns", "add", each)
            self._ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            self._ip("-n", self._switch, "link", "set", "bridge", "up")
            for host, address in zip(self.hosts, self.addresses, strict=True):
                ends = ["name", "port", "netns", host], ["name", host, "netns", self._switch]
                self._ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
                self._ip("-n", self._switch, "link", "set", host, "master", "bridge", "up")
                self._ip("-n", host, "address", "add", f"{address}/24", "dev", "port")
                self._ip("-n", host, "link", "set", "port", "up")
                self._ip("-n", host, "link", "set", "lo", "up")
                self._ip("-n", host, "route", "add", "default", "dev", "port")  # Ray finds its own address by it
        except BaseException:
            self.close()
            raise

    def within(self, host):
        """Return the words that run a command on a host."""
        return ["ip", "netns", "exec", self.hosts[host]]

    def cut(self):
        """Cut the link: the hosts remain up, and what they send to each other is lost."""
        self._ip("-n", self._switch, "link", "set", self.hosts[1], "nomaster")

    def join(self):
        """Connect the hosts again."""
        self._ip("-n", self._switch, "link", "set", self.hosts[1], "master", "bridge")

    def close(self):
        """Remove the namespaces."""
        for each in (*self.hosts, self._switch):
            subprocess.run(["ip", "netns", "delete", each], check=False, capture_output=True)

    def _ip(self, *words):
        """Run a command about networks."""
        subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def processes_of(folder):
    """Return the processes whose command line names a folder."""
    import psutil

    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.pid != os.getpid() and any(str(folder) in word for word in process.info["cmdline"] or ())
    ]


def end_processes_of(folder):
    """Kill the processes whose command line names a folder."""
    import psutil

    for process in processes_of(folder):
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def short_folder():
    """Yield a temporary folder whose path is short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def local_cluster(host=None):
    """Yield a cluster without nodes; end its nodes afterwards."""
    with short_folder() as folder:
        cluster = LocalCluster(folder, host)
        try:
            yield cluster
        finally:
            cluster.close()
