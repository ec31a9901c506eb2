"""Test with Ray that results don't depend on the hosts of the players, also while nodes come and go."""

import asyncio
import logging
import subprocess

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from benchmarks.cases import seats
from sheeprl.actors.ray.fleet import Fleet
from sheeprl.debug.replayer import replay_run
from sheeprl.run import Run
from tests.helpers.runs import largest_difference, lines, patiently, ray_session, run, saved

SIZES = {
    "sac": ["run.total_steps=1000", "env.id=Pendulum-v1"],
    "ppo": ["run.total_steps=3000", "env.id=CartPole-v1", "algo.rollout_steps=16"],
}
FIXED = ["players.num=4", "run.max_staleness=0", "trainer.compile=false", "trainer.accelerator=cpu"]


def differences(folder, names, algorithm):
    """Return the differences of the agents in some folders from that of a coupled run."""
    run(folder / "coupled", algorithm, "run.mode=coupled", *FIXED, *SIZES[algorithm])
    coupled = saved(folder / "coupled")
    agents = [saved(folder / name) for name in names]
    assert {agent["gradient_steps"] for agent in agents} == {coupled["gradient_steps"]} != {0}
    return [largest_difference(agent["agent"], coupled["agent"]) for agent in agents]


@pytest.mark.every
@pytest.mark.parametrize("algorithm", ["sac", "ppo"])
def test_the_number_of_hosts_does_not_matter(tmp_path, algorithm):
    """Runs with 1, 2 and 4 hosts are bit-identical to a coupled run."""
    with ray_session(cpus=6):
        for hosts in (1, 2, 4):
            run(tmp_path / str(hosts), algorithm, f"players.max={hosts}", *FIXED, *SIZES[algorithm])
    assert differences(tmp_path, ["1", "2", "4"], algorithm) == [0.0, 0.0, 0.0]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["sac", pytest.param("ppo", marks=pytest.mark.every)])
def test_nodes_that_come_and_go_do_not_matter(tmp_path, monkeypatch, algorithm):
    """A run that gets a node for a second host, and loses it to a drain, is bit-identical to a coupled run."""
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 2}))
    fleets, seen, start, publish = [], [], Fleet.start, Run.publish

    async def publish_and_change(self):
        """Publish, and add or drain a node between some rounds; wait until the players have moved."""
        await publish(self)
        hosts, version = fleets[0].hosts, self.counters.version
        if version == 2:
            seen.append(len(hosts.up))
            seen.append(cluster.add_node(num_cpus=1))
        elif version == 3:
            await wait_until(lambda: len(hosts.up) == 2)
        elif version == 6:
            seen.append(sorted(len(host.players) for host in hosts.hosts))
            command = ["ray", "drain-node", "--address", cluster.address, "--node-id", seen[1].node_id]
            why = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test"]
            subprocess.run([*command, *why, "--deadline-remaining-seconds", "300"], check=True, capture_output=True)
            await wait_until(lambda: self.players.leaving)

    async def wait_until(holds):
        """Wait until a condition holds and the driver has looked for moves once more."""
        for _ in range(600):
            if holds():
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.5)

    monkeypatch.setattr(Fleet, "start", lambda self: fleets.append(self) or start(self))
    monkeypatch.setattr(Run, "publish", publish_and_change)
    try:
        ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
        result = run(tmp_path / "nodes", algorithm, "players.min=1", "players.max=2", *FIXED, *SIZES[algorithm])
    finally:
        ray.shutdown()
        cluster.shutdown()
    monkeypatch.undo()
    assert seen[0] == 1 and seen[2] == [2, 2]
    assert lines(result.run_dir)[-1]["restarts"] == 0
    assert differences(tmp_path, ["nodes"], algorithm) == [0.0]


@pytest.mark.every
@pytest.mark.parametrize(
    ("algorithm", "players", "hosts", "staleness"), [("sac", 4, 2, 0), ("ppo", 1, 1, 0), ("ppo", 4, 2, 1)]
)
def test_killed_hosts_do_not_matter(tmp_path, monkeypatch, algorithm, players, hosts, staleness):
    """A run whose hosts are killed by SIGKILL, all at once or one, is bit-identical to one without kills."""
    killed, publish = [], Run.publish

    def kill(most):
        """Kill processes that hold players."""
        family = psutil.Process().children(recursive=True)
        found = [process for process in family if process.name().startswith("ray::PlayerAct")]
        for process in found[:most]:
            process.kill()
            killed.append(process.pid)

    async def publish_and_kill(self):
        """Publish; in some rounds, kill hosts before or while their players collect."""
        await publish(self)
        if self.counters.version in (3, 6, 9):
            seconds = {3: 0.0, 6: 0.01, 9: 0.05}[self.counters.version]
            asyncio.get_running_loop().call_later(seconds, kill, 2 if self.counters.version == 6 else 1)

    settings = [*FIXED, *SIZES[algorithm], f"players.num={players}", f"run.max_staleness={staleness}"]
    with ray_session(cpus=4):
        monkeypatch.setattr(Run, "publish", publish_and_kill)
        result = run(tmp_path / "killed", algorithm, f"players.max={hosts}", *settings)
        monkeypatch.undo()
        whole = f"players.max={hosts}" if staleness else "run.mode=coupled"
        run(tmp_path / "whole", algorithm, whole, *settings)
    assert killed and lines(result.run_dir)[-1]["restarts"] > 0  # a killed standby process isn't a restart
    agents = [saved(tmp_path / name) for name in ("killed", "whole")]
    assert agents[0]["gradient_steps"] == agents[1]["gradient_steps"] > 0
    assert largest_difference(agents[0]["agent"], agents[1]["agent"]) == 0.0


@pytest.mark.every
def test_a_recorded_quorum_is_reexecuted(tmp_path):
    """A run with a quorum, whose rounds depend on speeds, is re-executed bit for bit, also from several hosts."""
    words = ["run.total_steps=3000", "env.id=CartPole-v1", "trainer.compile=false", "trainer.accelerator=cpu"]
    with ray_session(cpus=4):
        quorum = ["players.num=4", "players.max=2", "players.quorum=0.5"]
        result = run(tmp_path / "run", "impala", "log.record=true", *quorum, *words)
    reexecuted = replay_run(str(result.run_dir))
    assert reexecuted.difference is None and reexecuted.gradient_steps == result.gradient_steps > 0


@pytest.mark.slow
def test_calls_and_bytes_of_a_round_of_200_players():
    """A round takes one call per host, one add per fragment and few others; the driver sends few bytes per player."""
    with seats.session():
        costs = seats.play(players=200, rounds=4, hosts=2, counts=True)
    assert costs.calls["collect"] <= 2 * (costs.rounds + 1)  # a round may be under way at the end
    assert costs.calls["add"] == 200 * costs.rounds
    assert costs.calls.total() - costs.calls["collect"] - costs.calls["add"] <= 10 * costs.rounds
    assert costs.sent <= 64 * costs.fragments
