"""Test complete runs in coupled mode and on the command line: counters, resume, failures and files."""

import math
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from sheeprl import ConfigError, RunFailedError, load_config, session, train
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.config.yaml_io import parse_yaml
from sheeprl.utils.installation import install_command
from tests.helpers.runs import QUIET, SMALL_SAC, largest_difference, lines, run, saved

WALK = "tests.helpers.run_envs:Walk-v0"
COUPLED = "run.mode=coupled"


def sheeprl(*words, **settings):
    """Run the command line."""
    return subprocess.run(
        [sys.executable, "-m", "sheeprl", *map(str, words)], capture_output=True, text=True, timeout=200, **settings
    )


@pytest.mark.parametrize("players", [1, 3])
@pytest.mark.parametrize("ratio", ["1", "0.5", "0.3", "0.7", "4"])
def test_the_ratio_is_exact_by_every_count(tmp_path, ratio, players):
    """The replay ratio is exact by every counter."""
    counted = tmp_path / "counted"
    counted.mkdir()
    kwargs = f"env.kwargs={{folder: {counted}}}"
    overrides = [COUPLED, f"algo.replay_ratio={ratio}", f"players.num={players}", kwargs, "run.total_steps=300"]
    overrides += ["env.num_envs=2", "checkpoint.envs=false"]  # snapshots would add steps
    result = run(tmp_path / "run", "sac", *overrides, env=WALK)
    end = lines(result.run_dir)[-1]
    due = math.floor(Fraction(ratio) * max(0, end["policy_steps"] - 50))
    assert end["event"] == "end" and end["policy_steps"] >= 300
    assert end["gradient_steps"] == due > 0
    optimizer = saved(result.run_dir)["optimizers"]["actor"]["state"]
    assert {int(state["step"]) for state in optimizer.values()} == {due}
    steps = sum(os.path.getsize(path) for path in counted.iterdir())
    assert steps == end["policy_steps"]


def test_on_policy_counts_epochs_times_minibatches(tmp_path):
    """PPO takes epochs times minibatches gradient steps per rollout."""
    result = run(tmp_path / "run", "ppo", COUPLED, "algo.rollout_steps=20", "algo.epochs=3", "run.total_steps=200")
    rounds = len(lines(result.run_dir)) and result.gradient_steps / (3 * math.ceil(20 * 4 / 64))
    assert rounds == int(rounds) >= 3
    assert saved(result.run_dir)["gradient_steps"] == result.gradient_steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "overrides"), [("ppo", ["algo.rollout_steps=32"]), ("sac", ["algo.replay_ratio=0.3"])]
)
def test_resume_continues_from_1000_to_2000(tmp_path, algorithm, overrides):
    """A run resumes at 1000 steps and ends at 2000."""
    folder = tmp_path / "run"
    first = run(folder, algorithm, COUPLED, "run.total_steps=1000", *overrides)
    before = saved(folder)
    again = sheeprl("resume", folder, "run.total_steps=2000")
    assert again.returncode == 0, again.stderr
    history = lines(folder)
    assert {"event": "resume", "step": first.policy_steps} in history
    end, after = history[-1], saved(folder)
    assert end["policy_steps"] >= 2000 and end["wall_time"] > 0
    assert after["gradient_steps"] == end["gradient_steps"] > before["gradient_steps"] == first.gradient_steps
    if algorithm == "sac":
        ratio = Fraction(overrides[0].partition("=")[2])
        assert end["gradient_steps"] == math.floor(ratio * (end["policy_steps"] - 50))
        assert (checkpoints(folder)[-1] / "buffer" / "shard_0" / "buffer.json").is_file()
    times = [line["time"] for line in history if "time" in line]
    assert times == sorted(times), history


def test_metrics_and_the_end_have_one_clock(tmp_path, monkeypatch):
    """No line of metrics is later than the end of the run, also if the driver takes long to start."""
    make_callbacks = session._make_callbacks

    def make_slowly(*args):
        """Make the callbacks after some time."""
        time.sleep(1.0)
        return make_callbacks(*args)

    monkeypatch.setattr(session, "_make_callbacks", make_slowly)
    result = run(tmp_path / "run", "ppo", COUPLED, "algo.rollout_steps=32", "run.total_steps=300")
    history = lines(result.run_dir)
    assert max(line["time"] for line in history if "time" in line) <= history[-1]["wall_time"]


def test_resume_at_once_changes_nothing(tmp_path):
    """A resume of a complete run changes nothing."""
    folder = tmp_path / "run"
    run(folder, "sac", COUPLED, "run.total_steps=200")
    before, history = saved(folder), lines(folder)
    done = sheeprl("resume", folder, "log.level=warning", "run.mode=decoupled")
    assert done.returncode == 0
    assert lines(folder) == history  # not even its workers were started
    steps = history[-1]["policy_steps"]
    assert done.stderr == (
        f"warning: run.total_steps=200 is already reached by {steps} policy steps; to continue training: "
        f"sheeprl resume {folder} run.total_steps={steps + 200}\n"
    )
    assert largest_difference(before["agent"], saved(folder)["agent"]) == 0.0


def test_a_total_that_the_run_has_passed_is_rejected(tmp_path):
    """A resume with a smaller total than the policy steps taken changes nothing."""
    folder = tmp_path / "run"
    run(folder, "ppo", COUPLED, "run.total_steps=300", "algo.rollout_steps=32")
    before = (folder / "config.yaml").read_text()
    for words in (["run.total_steps=20"], ["run.total_steps=20", "--dry-run"]):
        done = sheeprl("resume", folder, *words)
        assert done.returncode == 2 and done.stderr.startswith("error: run.total_steps=20: the run has taken 3")
    assert (folder / "config.yaml").read_text() == before


def test_the_files_of_a_run(tmp_path):
    """A run leaves the documented files."""
    result = run(tmp_path / "run", "ppo", COUPLED, "run.total_steps=2000", "checkpoint.keep_last=2", "eval.episodes=2")
    left = {path.name for path in result.run_dir.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "checkpoints"} <= left
    assert any(name.startswith("events.out.tfevents") for name in left)
    assert len(checkpoints(result.run_dir)) == 2
    keys = set().union(*lines(result.run_dir))
    assert keys >= {
        "Rewards/rew_avg", "Game/ep_len_avg", "Loss/policy_loss", "Loss/value_loss", "Time/sps_env_interaction",
        "Time/sps_train", "Params/replay_ratio", "Test/cumulative_reward", "Players/alive", "Players/restarts",
        "Weights/staleness", "Buffer/size", "Time/player_idle", "Time/trainer_idle",
    }  # fmt: skip
    tree = parse_yaml((result.run_dir / "config.yaml").read_text(), "config.yaml")
    tree["run"]["total_steps"] = 100
    os.chdir(tmp_path)
    assert train(load_config(_written(tmp_path, tree))).policy_steps >= 100


def _written(folder, tree):
    """Write a configuration file; return its path."""
    import yaml

    path = folder / "again.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_failing_env_is_reported_and_replaced_up_to_a_limit(tmp_path, capfd):
    """A failing environment is reported and its player replaced, up to the limit."""
    overrides = [COUPLED, "env.kwargs={raises_after: 40}", "run.total_steps=10000", "ray.max_failures=2"]
    with pytest.raises(
        RunFailedError, match=r"Walk-v0 of player 0 raised in step 4\d: ValueError: out of order"
    ) as caught:
        run(tmp_path / "run", "sac", *overrides, "log.level=warning", env=WALK)
    assert "error.log" in str(caught.value)
    assert "ValueError: out of order" in (tmp_path / "run" / "error.log").read_text()
    assert capfd.readouterr().err.count("player 0 failed and is replaced") == 2
    end = lines(tmp_path / "run")[-1]
    assert (end["event"], end["restarts"], end["status"]) == ("end", 3, "failed")
    assert checkpoints(tmp_path / "run")[-1].name == f"step_{end['policy_steps']}"
    assert end["gradient_steps"] == max(0, end["policy_steps"] - 50)


def test_a_failed_constructor_is_a_failure(tmp_path, monkeypatch):
    """A failed constructor of a player counts as its failure."""

    def fail(self, *args, **kwargs):
        """Raise."""
        raise MemoryError("no room for another player")

    monkeypatch.setattr("sheeprl.actors.player.Player.__init__", fail)
    with pytest.raises(RunFailedError, match="no room for another player"):
        run(tmp_path / "run", "sac", COUPLED, "ray.max_failures=1")
    assert lines(tmp_path / "run")[-1]["restarts"] == 2
    assert checkpoints(tmp_path / "run")


@pytest.mark.parametrize("algorithm", ["sac", "ppo"])
def test_non_finite_rewards_end_the_run_and_are_named(tmp_path, algorithm):
    """Non-finite rewards end the run and are named."""
    with pytest.raises(RunFailedError, match=r"a fragment of player 0 was refused: .*reward"):
        run(tmp_path / "run", algorithm, COUPLED, "env.kwargs={nan_after: 60}", "run.total_steps=5000", env=WALK)
    agent = saved(tmp_path / "run")["agent"]
    assert all(torch.isfinite(values).all() for values in agent.values())


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow)],
)
def test_a_signal_ends_the_run_after_a_checkpoint(tmp_path, number, code):
    """A signal ends the run after a checkpoint, from which it resumes."""
    words = [COUPLED, f"run.dir={tmp_path / 'run'}", *SMALL_SAC, *QUIET, f"env.id={WALK}", "run.total_steps=1000000"]
    words += ["log.every=100"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sheeprl", "run", "sac", *words], stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    _wait_for(lambda: metrics.exists() and metrics.stat().st_size, process)  # it trains
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert "stopping after this round" in errors
    end = lines(tmp_path / "run")[-1]
    assert end["status"] == "interrupted"
    assert checkpoints(tmp_path / "run")[-1].name == f"step_{end['policy_steps']}"
    again = sheeprl("resume", tmp_path / "run", f"run.total_steps={end['policy_steps'] + 100}")
    assert again.returncode == 0, again.stderr
    end = lines(tmp_path / "run")[-1]
    assert end["gradient_steps"] == end["policy_steps"] - 50


def test_a_run_outlives_the_reader_of_its_output(tmp_path):
    """`sheeprl run ... | head` trains to the end and exits with 0."""
    folder = tmp_path / "run"
    words = [
        "run",
        "ppo",
        COUPLED,
        f"run.dir={folder}",
        "run.total_steps=300",
        "eval.episodes=0",
        "trainer.compile=false",
    ]
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run([sys.executable, "-m", "sheeprl", *words], stdout=write, stderr=write, timeout=200)
    os.close(write)
    assert ended.returncode == 0
    assert {"event": "output_lost", "stream": "stdout"} in lines(folder)
    assert lines(folder)[-1]["status"] == "done" and checkpoints(folder)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_a_second_signal_ends_the_run_immediately(tmp_path, mode):
    """A second signal ends the run immediately."""
    mark = tmp_path / "mark"
    words = [
        f"run.mode={mode}",
        f"run.dir={tmp_path / 'run'}",
        *SMALL_SAC,
        *QUIET,
        "trainer.compile=false",  # a run that still compiles has nothing to save, and one signal ends it
        "env.id=tests.helpers.run_envs:Hanging-v0",
    ]
    words += [f"env.kwargs={{mark: {mark}, after: 30}}", "env.num_envs=1", "run.total_steps=1000000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sheeprl", "run", "sac", *words], stderr=subprocess.PIPE, text=True
    )
    _wait_for(mark.exists, process)
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None  # it waits for the hanging step
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert lines(tmp_path / "run")[-1]["status"] == "interrupted"


def _wait_for(condition, process):
    """Wait until a condition is true or the process ends."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def test_two_ranks_collect_store_and_train_their_parts(tmp_path):
    """Two ranks collect, store and train their parts."""
    words = [COUPLED, "trainer.devices=2", f"run.dir={tmp_path / 'run'}", *SMALL_SAC, *QUIET, "run.total_steps=200"]
    done = sheeprl("run", "sac", *words)
    assert done.returncode == 0, done.stderr
    end = lines(tmp_path / "run")[-1]
    assert end["gradient_steps"] == end["policy_steps"] - 50
    parts = checkpoints(tmp_path / "run")[-1] / "buffer"
    assert sorted(path.name for path in parts.iterdir()) == ["shard_0", "shard_1"]
    assert (parts / "shard_0" / "00_00000.bin").read_bytes() != (parts / "shard_1" / "00_00000.bin").read_bytes()


@pytest.mark.slow
def test_fabric_run_starts_the_ranks(tmp_path):
    """`fabric run` starts the ranks."""
    script = tmp_path / "script.py"
    script.write_text("from sheeprl.cli import main\nmain()\n")
    words = [COUPLED, f"run.dir={tmp_path / 'run'}", *QUIET, "run.total_steps=400", "algo.rollout_steps=32"]
    fabric = Path(sys.executable).with_name("fabric")
    launch = [fabric, "run", "--accelerator=cpu", "--devices=2", "--strategy=ddp"]
    done = subprocess.run([*launch, script, "run", "ppo", *words], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "trainer:\n  accelerator: cpu\n  devices: 2" in (tmp_path / "run" / "config.yaml").read_text()
    assert lines(tmp_path / "run")[-1]["policy_steps"] >= 400


class TestBadInput:
    """Tests of wrong input: exit code 2, one line per mistake, no folder."""

    def check(self, tmp_path, words, *said):
        """Check the exit code, the lines and the folder."""
        done = sheeprl("run", *words, f"run.dir={tmp_path / 'run'}")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        output = done.stderr.strip().splitlines()
        assert len(output) == len(said), output
        for line, part in zip(output, said, strict=True):
            assert part in line
        assert not (tmp_path / "run").exists()

    def test_all_mistakes_at_once(self, tmp_path):
        """Several mistakes are reported together."""
        words = ["ppo", "env.id=CartPole-v9", "env.num_env=3", "buffer.size=-1", "run.mode=couple"]
        self.check(tmp_path, words, "env.num_env", "run.mode", "buffer.size", "CartPole-v1")

    @pytest.mark.parametrize("algorithm", ["td3", pytest.param("droq", marks=pytest.mark.slow)])
    def test_a_discrete_env_for_continuous_actions(self, tmp_path, algorithm):
        """Algorithms for continuous actions reject a discrete environment."""
        words = [algorithm, "env.id=CartPole-v1"]
        self.check(tmp_path, words, f"its actions are discrete; {algorithm} needs continuous")

    @pytest.mark.parametrize("algorithm", [pytest.param("dqn"), pytest.param("pqn", marks=pytest.mark.slow)])
    def test_a_continuous_env_for_discrete_actions(self, tmp_path, algorithm):
        """Algorithms for discrete actions reject a continuous environment."""
        words = [algorithm, "env.id=Pendulum-v1"]
        self.check(tmp_path, words, f"its actions are continuous; {algorithm} needs discrete actions")

    def test_a_batch_larger_than_the_buffer(self, tmp_path):
        """A batch larger than the buffer is rejected."""
        self.check(tmp_path, ["sac", "buffer.size=200"], "algo.batch_size=256: larger than buffer.size=200")
        self.check(tmp_path, ["sac", "run.total_steps=200"], "algo.batch_size=256: larger than run.total_steps=200")
        self.check(tmp_path, ["ppo", "algo.batch_size=1000"], "larger than a rollout of 512")

    @pytest.mark.skipif("ale_py" in sys.modules, reason="the package is installed")
    def test_a_package_that_is_not_installed(self, tmp_path):
        """A missing package is named."""
        self.check(tmp_path, ["ppo", "env.id=ALE/Pong-v5"], install_command("atari"))

    def test_a_folder_that_holds_a_run(self, tmp_path):
        """A folder that contains a run is rejected."""
        folder = tmp_path / "my $HOME [1]"
        result = sheeprl("run", "ppo", COUPLED, f"run.dir={folder}", "run.total_steps=100", "eval.episodes=0")
        assert shlex.split(result.stdout.splitlines()[-1].rpartition("; ")[2]) == ["sheeprl", "eval", str(folder)]
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        with pytest.raises(ConfigError, match="already contains a run") as caught:
            run(folder, "ppo", COUPLED)
        assert shlex.split(str(caught.value).rpartition("with ")[2]) == ["sheeprl", "resume", str(folder)]
        assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    def test_a_checkpoint_of_another_algorithm(self, tmp_path):
        """A checkpoint of another algorithm is rejected."""
        folder = tmp_path / "run"
        run(folder, "ppo", COUPLED, "run.total_steps=100", "algo.rollout_steps=32")
        with pytest.raises(ConfigError, match=r"algo\.name=sac: .* is a checkpoint of ppo"):
            run(folder, "sac", COUPLED, "run.resume=true")
        done = sheeprl("resume", folder, "algo.hidden_sizes=[8]")
        assert done.returncode == 2 and "can't change in a resumed run" in done.stderr


def test_a_native_vector_environment_trains(tmp_path):
    """A native vector environment trains."""
    result = run(
        tmp_path / "run", "ppo", COUPLED, "env.vectorization=native", "run.total_steps=600", "ray.max_failures=0"
    )
    assert result.policy_steps >= 600


@pytest.mark.timeout(60)
def test_a_coupled_run_ends_the_workers_of_async_environments(tmp_path):
    """A coupled run ends the workers of async environments."""
    run(tmp_path / "run", "ppo", "run.mode=coupled", "env.vectorization=async", "env.num_envs=2", "run.total_steps=300")
    assert not multiprocessing.active_children()


def test_a_worker_of_an_async_environment_that_dies_is_replaced(tmp_path, capfd):
    """The player of a dead async worker is replaced."""
    overrides = [
        COUPLED,
        "env.vectorization=async",
        "env.num_envs=2",
        "env.kwargs={dies_after: 30}",
        "run.total_steps=5000",
    ]
    with pytest.raises(RunFailedError, match=r"Walk-v0 of player 0 raised in step \d+: EOFError"):
        run(tmp_path / "run", "sac", *overrides, "ray.max_failures=1", env=WALK)
    assert lines(tmp_path / "run")[-1]["restarts"] == 2
    assert checkpoints(tmp_path / "run")
    assert "Traceback" not in capfd.readouterr().err


def test_annealing_starts_at_the_full_rate_and_stays_above_0(tmp_path):
    """Annealing starts at the full learning rate and stays above 0."""
    overrides = [COUPLED, "algo.anneal=true", "run.total_steps=100", "algo.rollout_steps=32"]
    result = run(tmp_path / "run", "ppo", *overrides)
    (line,) = [line for line in lines(result.run_dir) if "Loss/approx_kl" in line]
    assert line["Loss/approx_kl"] > 1e-6


def test_two_runs_in_one_second_get_different_folders(tmp_path, monkeypatch):
    """Two runs in the same second get different folders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sheeprl.checkpoint.run_dir.time", SimpleNamespace(strftime=lambda form: "now"))
    overrides = [COUPLED, *QUIET, "run.total_steps=100", "algo.rollout_steps=32"]
    folders = {train(load_config("ppo", overrides)).run_dir.name for _ in range(2)}
    assert folders == {"now_0", "now_0_2"}


def test_a_resumed_on_policy_run_may_have_other_rollouts(tmp_path):
    """A resumed on-policy run may change the rollout length."""
    folder = tmp_path / "run"
    run(folder, "ppo", COUPLED, "run.total_steps=100", "algo.rollout_steps=32")
    done = sheeprl("resume", folder, "env.num_envs=2", "algo.rollout_steps=64", "run.total_steps=300")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("damage", ["state.json", "agent.pt"])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    """The error names the damaged checkpoint."""
    folder = tmp_path / "run"
    run(folder, "ppo", COUPLED, "run.total_steps=100", "algo.rollout_steps=32")
    path = checkpoints(folder)[-1] / damage
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for command in ("eval", "resume"):
        done = sheeprl(command, folder)
        assert done.returncode in (1, 2) and "Traceback" not in done.stderr
        assert path.parent.name in done.stderr and len(done.stderr.strip().splitlines()) == 1
    (path.parent.parent / "step_best").mkdir()  # unknown folders stay unchanged
    assert len(checkpoints(folder)) == 1


@pytest.fixture
def start():
    """Function that starts a run, which ends with the test."""
    started = []

    def run_in_background(*words):
        """Start a run in another process."""
        command = [sys.executable, "-m", "sheeprl", "run", "sac", *words]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return started[0]

    yield run_in_background
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_an_evaluation_that_never_ends_obeys_a_signal(tmp_path, start, mode):
    """A signal ends an evaluation that never ends."""
    words = [f"run.mode={mode}", f"run.dir={tmp_path / 'run'}", *SMALL_SAC, "trainer.threads=1", "run.total_steps=200"]
    words += ["env.id=tests.helpers.run_envs:Walk-v0", "env.kwargs={endless: true}", "env.num_envs=1"]
    words += ["eval.episodes=1", "eval.step_limit=null", "log.every=200"]
    process = start(*words)
    metrics = tmp_path / "run" / "metrics.jsonl"
    _wait_for(lambda: metrics.exists() and metrics.stat().st_size, process)  # at the end, before the evaluation
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "is given up, since the run stops" in errors
    assert checkpoints(tmp_path / "run")[-1].name == "step_200"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
def test_a_killed_driver_leaves_its_end_in_the_folder(tmp_path, start, mode):
    """The metrics of a killed driver contain its end."""
    words = [f"run.mode={mode}", f"run.dir={tmp_path / 'run'}", *SMALL_SAC, *QUIET, "run.total_steps=1000000"]
    process = start(*words, "checkpoint.every=100")
    _wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists() and checkpoints(tmp_path / "run"), process)
    process.kill()
    _, errors = process.communicate(timeout=60)
    assert f"sheeprl resume {tmp_path / 'run'}" in errors
    end = lines(tmp_path / "run")[-1]
    assert (end["event"], end["status"]) == ("end", "failed") and "was killed" in end["cause"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "ray::DashboardAg"])
def test_the_death_of_ray_ends_the_run_with_its_cause(tmp_path, start, name):
    """The death of Ray ends the run with its cause."""
    words = ["run.mode=decoupled", f"run.dir={tmp_path / 'run'}", *SMALL_SAC, *QUIET, "run.total_steps=1000000"]
    process = start(*words, "checkpoint.every=100")
    _wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists() and checkpoints(tmp_path / "run"), process)
    family = psutil.Process(process.pid).children(recursive=True)
    next(each for each in family if each.name().startswith(name)).kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert re.search(rf"error: .*Ray's node process.* died; sheeprl resume {tmp_path / 'run'}", errors), errors
    ends = [line for line in lines(tmp_path / "run") if line.get("event") == "end"]
    assert [end["status"] for end in ends] == ["failed"] and "Ray's node process" in ends[0]["cause"]


@pytest.mark.slow
def test_variables_of_other_ranks_do_not_concern_a_run(tmp_path):
    """Variables of other ranks don't affect a run."""
    left = {"LOCAL_RANK": "1", "MASTER_ADDR": "192.0.2.1", "SLURM_NTASKS": "4", "SLURM_PROCID": "1", "WORLD_SIZE": "4"}
    words = [COUPLED, "trainer.devices=2", f"run.dir={tmp_path / 'run'}", *SMALL_SAC, *QUIET, "run.total_steps=200"]
    done = sheeprl("run", "sac", *words, env=os.environ | left)
    assert done.returncode == 0, done.stderr
    assert lines(tmp_path / "run")[-1]["status"] == "done"
