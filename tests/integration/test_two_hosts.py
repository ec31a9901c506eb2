"""Test a run on two network namespaces that stand for two hosts, whose link is cut."""

import subprocess
import time

import pytest

from tests.helpers.clusters import PATIENCE, Link, local_cluster, wait_for
from tests.helpers.runs import QUIET, SMALL_SAC, lines

RUN = ["run.mode=decoupled", "players.num=2", "log.every=50", "checkpoint.every=200", "trainer.compile=false"]
RUN += ["trainer.accelerator=cpu", "ray.wait_timeout=300", "ray.max_failures=20", "trainer.label_selector={host: a}"]
RUN += ["buffer.label_selector={host: a}", "players.label_selector={host: b}", "players.label_fallback={}"]
CUT = 20  # seconds; Ray gives a silent node up after about 15


@pytest.fixture
def link():
    """Yield two hosts."""
    try:
        hosts = Link()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this user may not make network namespaces: {error}")
    yield hosts
    hosts.close()


@pytest.mark.every
@pytest.mark.timeout(900)
@pytest.mark.parametrize("is_mended", [True, False])
def test_a_run_survives_a_cut_link(tmp_path, link, is_mended):
    """While the host of the players is cut off, for a time or for good, others replace them; the ratio is exact."""
    folder = tmp_path / "run"
    with local_cluster(link.addresses[0]) as cluster:
        options = ["--num-cpus=4", "--include-dashboard=false"]
        for host, (start, label) in enumerate(((cluster.start_head, "a"), (cluster.add_node, "b"))):
            address = f"--node-ip-address={link.addresses[host]}"
            start(*options[: 2 - host], address, f"--labels=host={label}", within=link.within(host))
        words = [f"run.dir={folder}", f"ray.address={cluster.address}", "run.total_steps=100000", *RUN, *QUIET]
        command = [*link.within(0), "sheeprl", "run", "sac", *words, *SMALL_SAC, "log.level=info"]
        with (tmp_path / "said").open("w") as said:
            process = subprocess.Popen(command, env=cluster.env, stdout=said, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: steps_of(folder) >= 300, "the first steps", process=process)
            link.cut()
            time.sleep(CUT)
            if is_mended:
                link.join()
            before = steps_of(folder)
            wait_for(lambda: steps_of(folder) >= before + 300, "steps after the cut", process=process)
            process.terminate()
            assert process.wait(PATIENCE) == 143, (tmp_path / "said").read_text()
        finally:
            process.kill()
            process.wait()
        end = lines(folder)[-1]
        more = f"run.total_steps={end['policy_steps'] + 100}"
        resumed = cluster.call(*link.within(0), "sheeprl", "resume", str(folder), more)
    assert resumed.returncode == 0, resumed.stderr
    done = lines(folder)[-1]
    assert done["status"] == "done" and done["gradient_steps"] == done["policy_steps"] - 50
    assert end["status"] == "interrupted" and end["trainer_restarts"] == end["buffer_restarts"] == 0
    assert is_mended or end["restarts"] >= 1
    assert "Traceback" not in (tmp_path / "said").read_text()


def steps_of(folder):
    """Return the policy steps of the newest line of metrics, 0 if there is none."""
    if not (folder / "metrics.jsonl").exists():
        return 0
    return max((line["step"] for line in lines(folder) if "step" in line), default=0)
