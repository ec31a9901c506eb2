"""Test the re-execution of recorded runs: it is bit-identical, or it names the first difference."""

import json
import os
import signal
import threading
import time

import pytest

from sheeprl import ConfigError
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.cli import main
from sheeprl.debug.recorder import RECORD
from sheeprl.debug.replayer import replay_run
from tests.helpers.runs import lines, ray_session, run, saved

RECORDED = ("log.record=true", "players.num=2", "run.total_steps=300")


def re_execute(folder, **options):
    """Re-execute a record."""
    return replay_run(str(folder), report=lambda text: None, **options)


@pytest.fixture(scope="module", autouse=True)
def session():
    """Yield a Ray session, which all recorded runs share."""
    with ray_session(cpus=5):
        yield


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Return the folder of a small recorded run."""
    folder = tmp_path_factory.mktemp("recorded") / "run"
    run(folder, "sac", *RECORDED)
    return folder


@pytest.mark.parametrize("algorithm", ["ppo", pytest.param("sac", marks=pytest.mark.slow)])
def test_a_re_execution_equals_the_run(tmp_path, algorithm):
    """A re-execution equals the run."""
    run(tmp_path / "run", algorithm, *RECORDED, "run.total_steps=600")
    again = re_execute(tmp_path / "run", out=str(tmp_path / "agent.pt"))
    end = lines(tmp_path / "run")[-1]
    assert again.difference is None
    assert again.gradient_steps == end["gradient_steps"] > 0
    assert (tmp_path / "agent.pt").read_bytes() == (checkpoints(tmp_path / "run")[-1] / "agent.pt").read_bytes()


@pytest.mark.slow
def test_a_re_execution_equals_a_resumed_run(tmp_path):
    """A re-execution equals a resumed run."""
    folder = tmp_path / "run"
    run(folder, "sac", *RECORDED, "run.total_steps=150")
    run(folder, "sac", *RECORDED, "run.resume=true")
    again = re_execute(folder)
    assert again.difference is None and again.gradient_steps == saved(folder)["gradient_steps"]


@pytest.mark.slow
def test_steps_before_the_record_are_not_counted(tmp_path, capsys):
    """A record that begins with a resumed run counts the gradient steps since then."""
    folder = tmp_path / "run"
    run(folder, "sac", "run.mode=coupled", "players.num=2", "run.total_steps=150")
    before = saved(folder)["gradient_steps"]
    run(folder, "sac", *RECORDED, "run.resume=true")
    again = re_execute(folder)
    assert again.difference is None and again.recorded_from == before > 0
    with pytest.raises(SystemExit):
        main(["replay", str(folder)])
    assert f", {again.gradient_steps - before} gradient steps after the first {before}, " in capsys.readouterr().out


def test_it_stops_after_the_given_step(record):
    """A re-execution stops after the given gradient step."""
    again = re_execute(record, until_step=100)
    assert again.difference is None
    assert 100 <= again.gradient_steps < 200


def changed(record, folder, change):
    """Return a copy of a record with a changed line."""
    folder.mkdir()
    for name in ("config.yaml", RECORD):
        (folder / name).write_bytes((record / name).read_bytes())
    events = [json.loads(line) for line in (folder / RECORD).read_text().splitlines()]
    number = change(events)
    (folder / RECORD).write_text("".join(json.dumps(event) + "\n" for event in events))
    return number + 1


def test_a_different_loss_is_detected(record, tmp_path):
    """A different loss is detected."""

    def change(events):
        """Change a loss."""
        updates = {event[1] for event in events if event[0] == "pair" and event[3] == "update"}
        number, answer = [(n, e) for n, e in enumerate(events) if e[0] == "answer" and e[1] in updates][2]
        answer[3]["metrics"]["Loss/value_loss"] += 1e-9
        return next(n for n, event in enumerate(events) if event[0] == "pair" and event[1] == events[number][1])

    line = changed(record, tmp_path / "other", change)
    difference = re_execute(tmp_path / "other").difference
    assert f"{RECORD}:{line}: `update` of learner" in difference and "metrics.Loss/value_loss was" in difference


def test_a_different_order_of_additions_is_detected(record, tmp_path):
    """A different order of additions is detected."""

    def change(events):
        """Swap two additions."""
        adds = [number for number, event in enumerate(events) if event[0] == "call" and event[3] == "add"]
        one, other = (events[number] for number in adds[8:10])
        one[4], other[4] = other[4], one[4]
        return adds[8]

    changed(record, tmp_path / "other", change)
    assert re_execute(tmp_path / "other").difference is not None


def test_an_incomplete_last_line_is_ignored(record, tmp_path):
    """An incomplete last line is ignored."""
    changed(record, tmp_path / "torn", lambda events: 0)
    path = tmp_path / "torn" / RECORD
    path.write_bytes(path.read_bytes()[:-30])
    assert re_execute(tmp_path / "torn").difference is None


def test_a_record_without_fragments_is_refused(tmp_path):
    """A record without fragments has nothing to compare, as that of a run that only starts."""
    (tmp_path / RECORD).write_text(
        '["begin", {"config": ""}]\n["make", 1, "player", 0, 0]\n["call", 1, 1, "collect", []]\n'
    )
    with pytest.raises(
        ConfigError, match=r"record\.jsonl: holds no collected fragment, so there is nothing to compare"
    ):
        re_execute(tmp_path)


def test_a_run_without_a_record_names_the_setting(tmp_path):
    """The error for a run without a record names the setting."""
    run(tmp_path / "run", "sac", "run.mode=coupled", "run.total_steps=60")
    with pytest.raises(ConfigError, match=r"log\.record=true"):
        re_execute(tmp_path / "run")
    with pytest.raises(ConfigError, match="no such folder"):
        re_execute(tmp_path / "nothing")


def steps_of(folder):
    """Return the policy steps of the newest metrics line."""
    written = lines(folder) if (folder / "metrics.jsonl").exists() else []
    return max((line.get("step", 0) for line in written), default=0)


def kill_in_turn(folder, actors):
    """Kill one process after another, by its actor's class, each once the run has progressed."""
    done = 0
    for name in actors:
        while steps_of(folder) < done + 60:
            time.sleep(0.05)
        done = steps_of(folder)
        pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
        os.kill(next(pid for pid in pids if is_ours(pid, name)), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("memmap", [pytest.param("false", marks=pytest.mark.every), "true"])
def test_a_re_execution_equals_a_run_with_deaths(tmp_path, memmap):
    """A re-execution equals a run in which workers of all roles died."""
    folder = tmp_path / "run"
    overrides = ["run.mode=decoupled", "run.max_staleness=1", "buffer.shards=2", f"buffer.memmap={memmap}"]
    overrides += ["log.every=1", "checkpoint.every=100", "run.total_steps=1500", "checkpoint.snapshot_every=50"]
    killing = threading.Thread(target=kill_in_turn, args=(folder, ["ReplayActor", "TrainerActor", "PlayerActor"]))
    killing.start()
    run(folder, "sac", *RECORDED, *overrides)
    killing.join()
    last = [line for line in lines(folder) if "Players/restarts" in line][-1]
    assert (last["Buffer/restarts"], last["Trainer/restarts"], last["Players/restarts"]) == (1, 1, 1)
    again = re_execute(folder)
    assert again.difference is None
    assert again.gradient_steps == lines(folder)[-1]["gradient_steps"]


def is_ours(pid, actor):
    """Return whether a process is an actor of this program's Ray session."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if not file.read().startswith(f"ray::{actor}".encode()):
                return False
        while pid > 1 and pid != os.getpid():
            with open(f"/proc/{pid}/stat") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
        return pid == os.getpid()
    except OSError:
        return False
