"""Drain the Ray nodes of this machine before it ends, so that their workers move elsewhere.

On a spot machine, `--watch aws`, `gcp` or `azure` waits for the notice of the cloud first. On Kubernetes, a pod's
preStop hook runs it. On the head node, whose raylet can't be drained, `--drivers` stops the runs, which save a
checkpoint.

It needs only Ray and psutil, so a node can run it without SheepRL.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence

import psutil

NOTICES = {
    "aws": "http://169.254.169.254/latest/meta-data/spot/instance-action",
    "gcp": "http://metadata.google.internal/computeMetadata/v1/instance/preempted",
    "azure": "http://169.254.169.254/metadata/scheduledevents?api-version=2020-07-01",
}
"""Address at which each cloud announces the end of a spot machine."""

TOKEN = "http://169.254.169.254/latest/api/token"  # of AWS, whose metadata requires one
HEADERS = {"gcp": {"Metadata-Flavor": "Google"}, "azure": {"Metadata": "true"}}
ENDING = {"Preempt", "Terminate"}  # events of Azure that end the machine
POLL = 5.0  # seconds between two looks at the metadata
OWN = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")  # children of a raylet that do no work
COMMANDS = ("train", "run", "resume")  # of sheeprl, which start a driver


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 2 for wrong input, 1 if a node refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="address of the cluster, HOST:PORT; default: that of this machine's nodes")
    parser.add_argument("--seconds", type=int, default=60, help="time until this machine ends (default 60)")
    parser.add_argument("--watch", choices=sorted(NOTICES), help="wait for the notice of this cloud first")
    parser.add_argument("--wait", action="store_true", help="wait until no worker is left here, at most --seconds")
    parser.add_argument("--drivers", action="store_true", help="stop the runs of this machine, and wait for them")
    options = parser.parse_args(args)
    if options.seconds < 0:
        parser.error(f"--seconds {options.seconds}: must be at least 0")
    if options.watch:
        wait_for_notice(options.watch)
    deadline = time.monotonic() + options.seconds
    if options.drivers:
        stop_drivers(options.seconds)
        return 0
    nodes = dict(raylets())
    clusters = {address for _, address in nodes.values()}
    if options.address is None and len(clusters) > 1:
        parser.error(f"nodes of {len(clusters)} clusters run here; choose one with --address {' or '.join(clusters)}")
    chosen = {pid: node for pid, (node, address) in nodes.items() if address == (options.address or address)}
    if not chosen:
        parser.error(f"no Ray node{f' of {options.address}' if options.address else ''} runs on this machine")
    address = options.address or clusters.pop()
    refused = sum(not drain(node, address, options.seconds) for node in chosen.values())
    if options.wait:
        while time.monotonic() < deadline and any(is_busy(pid) for pid in chosen):
            time.sleep(0.5)
    return int(refused > 0)


def raylets() -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield the process id, the node id and the cluster's address of each Ray node on this machine."""
    for process in psutil.process_iter(["name", "cmdline"]):
        words = process.info["cmdline"] or []
        if process.info["name"] == "raylet":
            pairs = (word.split("=", 1) for word in words if "=" in word)
            options = {name.lstrip("-").replace("-", "_"): value for name, value in pairs}
            if "node_id" in options and "gcs_address" in options:
                yield process.pid, (options["node_id"], options["gcs_address"])


def is_busy(raylet: int) -> bool:
    """Return whether a Ray node runs an actor or a task. Ray names the processes of its workers after their work."""
    try:
        names = [" ".join(child.cmdline()) for child in psutil.Process(raylet).children()]
    except psutil.Error:  # it has ended
        return False
    return any(name.startswith("ray::") and not name.startswith(OWN) for name in names)


def drain(node: str, address: str, seconds: int) -> bool:
    """Announce the end of a node to its cluster. Return False if the cluster refused, with a line on stderr."""
    command = ["ray", "drain-node", f"--address={address}", f"--node-id={node}"]
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=the machine ends"]
    done = subprocess.run([*command, f"--deadline-remaining-seconds={seconds}"], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"error: node {node} was not drained: {reason}", file=sys.stderr)
    return not done.returncode


def stop_drivers(seconds: int) -> None:
    """Terminate the runs of this machine, and wait until they have saved their checkpoints."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        names = [os.path.basename(word) for word in words[:4]]
        if any(
            name == "sheeprl" and words[at + 1 : at + 2] and words[at + 1] in COMMANDS for at, name in enumerate(names)
        ):
            process.terminate()
            found.append(process)
    psutil.wait_procs(found, timeout=seconds)


def wait_for_notice(cloud: str) -> None:
    """Wait until the cloud announces the end of this machine."""
    while not is_ending(cloud):
        time.sleep(POLL)


def is_ending(cloud: str) -> bool:
    """Return whether the cloud has announced the end of this machine. A failed look counts as no notice."""
    try:
        headers = HEADERS.get(cloud, {})
        if cloud == "aws":
            request = urllib.request.Request(
                TOKEN, method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
            )
            headers = {"X-aws-ec2-metadata-token": read(request)}
        answer = read(urllib.request.Request(NOTICES[cloud], headers=headers))
    except OSError:  # AWS answers 404 as long as there is no notice
        return False
    if cloud == "gcp":
        return answer.strip() == "TRUE"
    if cloud == "azure":
        return any(event.get("EventType") in ENDING for event in json.loads(answer).get("Events", ()))
    return bool(answer)


def read(request: urllib.request.Request) -> str:
    """Return the answer to a request of the metadata server."""
    with urllib.request.urlopen(request, timeout=POLL) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    sys.exit(main())
