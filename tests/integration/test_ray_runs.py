"""Test complete runs of Ray actors, in one Ray session."""

import asyncio
import gc
import math
import subprocess
import sys
import time
import weakref

import pytest
import ray

from sheeprl import RunFailedError, load_config
from sheeprl.actors.ray.actors import TrainerActor
from sheeprl.actors.ray.fleet import Fleet
from sheeprl.actors.ray.standby import StandbyPool
from sheeprl.checkpoint.run_dir import checkpoints
from sheeprl.config.checks import check
from sheeprl.run import Run
from tests.helpers import back_pressure
from tests.helpers.runs import QUIET, SMALL_SAC, largest_difference, lines, ray_session, run, saved

WALK = "tests.helpers.run_envs:Walk-v0"
DECOUPLED = "run.mode=decoupled"


@pytest.fixture(scope="module", autouse=True)
def session():
    """Yield a Ray session."""
    with ray_session(cpus=5):
        yield


@pytest.mark.parametrize(
    ("env", "players", "compiled"),
    [("CartPole-v1", 1, "false"), ("tests.helpers.run_envs:Worldly-v0", 2, "false"), ("CartPole-v1", 1, "true")],
)
def test_coupled_and_decoupled_are_bit_identical(tmp_path, env, players, compiled):
    """Coupled and decoupled mode are bit-identical, also with process-wide generators and compiled steps."""
    overrides = ["run.max_staleness=0", "run.total_steps=2000", f"players.num={players}", f"trainer.compile={compiled}"]
    for mode in ("coupled", "decoupled"):
        run(tmp_path / mode, "ppo", f"run.mode={mode}", *overrides, env=env)
    one, other = saved(tmp_path / "coupled"), saved(tmp_path / "decoupled")
    assert one["gradient_steps"] == other["gradient_steps"] > 0
    assert largest_difference(one["agent"], other["agent"]) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "steps", "overrides"),
    [
        ("sac", 150, ["trainer.compile=true"]),  # with sums over ranks between compiled parts
        ("ppo", 2000, ["trainer.compile=false", "algo.desired_kl=0.001", "algo.target_kl=0.002"]),
    ],
)
def test_two_ranks_learn_what_one_learns(tmp_path, algorithm, steps, overrides):
    """Two ranks learn the same as one, and stop rounds and adapt rates together."""
    overrides = [DECOUPLED, "run.max_staleness=0", f"run.total_steps={steps}", "players.num=2", *overrides]
    for ranks in (1, 2):
        run(tmp_path / str(ranks), algorithm, *overrides, f"trainer.devices={ranks}")
    one, other = saved(tmp_path / "1"), saved(tmp_path / "2")
    assert one["gradient_steps"] == other["gradient_steps"] > 0
    assert largest_difference(one["agent"], other["agent"]) < 1e-5


@pytest.mark.slow
def test_overlapping_collection_is_bounded_and_deterministic(tmp_path):
    """Overlapping collection respects the staleness limit and is deterministic."""
    agents = []
    for name in ("a", "b"):
        result = run(tmp_path / name, "sac", DECOUPLED, "run.max_staleness=1", "players.num=3", "run.total_steps=300")
        rows = [line for line in lines(result.run_dir) if "Weights/staleness" in line]
        assert {row["Weights/staleness"] for row in rows} <= {0, 1} and rows[-1]["Weights/staleness"] == 1
        end = lines(result.run_dir)[-1]
        assert end["gradient_steps"] == math.floor(max(0, end["policy_steps"] - 50))
        agents.append(saved(result.run_dir)["agent"])
    assert largest_difference(*agents) == 0.0


def test_a_killed_player_is_replaced(tmp_path, monkeypatch, capfd, caplog):
    """A killed player is replaced, and continues in the same incarnation."""
    made = []
    make_player = Fleet.make_player

    def remember(self, number, incarnation):
        """Store the handle, and kill each player's first process."""
        handle = make_player(self, number, incarnation)
        made.append((number, incarnation))
        if made.count((number, incarnation)) == 1:
            host = handle.host.handle.actor
            host.collect.options(num_returns=2).remote([(number, False, None)], 1, None, 0, "random", 0.0)  # is waiting
            ray.kill(host)
        return handle

    monkeypatch.setattr(Fleet, "make_player", remember)
    result = run(tmp_path / "run", "sac", DECOUPLED, "players.num=2", "run.total_steps=200", "log.level=info")
    end = lines(result.run_dir)[-1]
    assert sorted(made) == [(0, 0), (0, 0), (1, 0), (1, 0)]
    assert (end["status"], end["restarts"]) == ("done", 2)
    assert end["gradient_steps"] == end["policy_steps"] - 50
    captured = capfd.readouterr()
    assert "player 1 failed and is replaced" in captured.err
    assert "player 1 is back: a fragment after" in captured.out
    gc.collect()
    assert "never retrieved" not in caplog.text


@pytest.mark.slow
def test_a_killed_evaluator_is_replaced_and_players_are_not_affected(tmp_path, monkeypatch, capfd):
    """Evaluations during a run play on their own actor; its death costs one of them."""
    made = []
    make_evaluator = Fleet.make_evaluator

    def kill_the_first(self, incarnation):
        """Kill the first evaluator before its first call."""
        handle = make_evaluator(self, incarnation)
        made.append(incarnation)
        if incarnation == 0:
            ray.kill(handle.host.handle.actor)
        return handle

    monkeypatch.setattr(Fleet, "make_evaluator", kill_the_first)
    overrides = ["run.total_steps=3000", "eval.every=1000", "eval.episodes=2"]
    result = run(tmp_path / "run", "ppo", DECOUPLED, *overrides)
    found = lines(result.run_dir)
    assert made == [0, 1]
    assert "the evaluation at step 1" in (capfd.readouterr().err) and found[-1]["restarts"] == 0
    assert len([line for line in found if "Test/cumulative_reward" in line]) == 2


@pytest.mark.slow
def test_a_standby_process_replaces_the_second_lost_player(tmp_path, monkeypatch):
    """A standby process replaces the second lost player."""
    pools, publish, take = [], Run.publish, StandbyPool.take
    ready = []

    def look_and_take(self, name):
        """Record the size of the pool and take a process."""
        pools[:] = [self]
        ready.append(len(self))
        return take(self, name)

    async def publish_and_kill(self):
        """Publish and kill a player."""
        await publish(self)
        if self.counters.version == 8:
            while not len(pools[0]):
                await asyncio.sleep(0.05)
        if self.counters.version in (4, 8):
            ray.kill(self.players.handles[0].host.handle.actor)

    monkeypatch.setattr(StandbyPool, "take", look_and_take)
    monkeypatch.setattr(Run, "publish", publish_and_kill)
    result = run(tmp_path / "run", "sac", DECOUPLED, "players.num=2", "run.total_steps=600", "run.max_staleness=0")
    end = lines(result.run_dir)[-1]
    assert (end["status"], end["restarts"]) == ("done", 2)
    assert ready == [0, 1]


@pytest.mark.slow
def test_the_object_store_holds_pending_data_only():
    """The object store holds pending fragments and batches only."""
    fragments = 3200
    measured = back_pressure.measure(fragments)
    assert measured.fragments == fragments
    assert measured.gradient_steps == math.floor(back_pressure.RATIO * back_pressure.ROWS * fragments)
    assert len(measured.used) > 20
    assert max(measured.used) > back_pressure.PLAYERS * back_pressure.FRAGMENT_BYTES / 2  # the measurement detects it
    assert max(measured.used) < back_pressure.BOUND < fragments * back_pressure.FRAGMENT_BYTES / 10
    print(f"{fragments} fragments in {measured.seconds:.0f} s, at most {max(measured.used) / 1e6:.1f} MB")


def test_a_failing_env_ends_the_run_with_a_checkpoint(tmp_path):
    """A failing environment ends the run with a checkpoint."""
    overrides = [DECOUPLED, "env.kwargs={raises_after: 60}", "run.total_steps=5000", "ray.max_failures=0"]
    with pytest.raises(RunFailedError, match=r"Walk-v0 of player 0 raised in step 6\d: ValueError: out of order"):
        run(tmp_path / "run", "sac", *overrides, env=WALK)
    assert saved(tmp_path / "run")["gradient_steps"] == lines(tmp_path / "run")[-1]["gradient_steps"] > 0
    assert "ValueError: out of order" in (tmp_path / "run" / "error.log").read_text()


def test_a_player_with_non_finite_rewards_is_named(tmp_path, capfd):
    """The error names the player with non-finite rewards."""
    overrides = ["env.kwargs={nan_after: 60}", "run.total_steps=5000", "ray.max_failures=2", "log.level=warning"]
    with pytest.raises(RunFailedError, match=r"fragment of player 0 was refused: .*reward.*ray.max_failures=2"):
        run(tmp_path / "run", "sac", DECOUPLED, *overrides, env=WALK)
    assert capfd.readouterr().err.count("a fragment of player 0 was refused") == 2
    end = lines(tmp_path / "run")[-1]
    assert end["gradient_steps"] == end["policy_steps"] - 50 == saved(tmp_path / "run")["gradient_steps"]


@pytest.mark.slow
def test_two_shards_serve_any_number_of_ranks(tmp_path):
    """Two shards serve any number of ranks, also after a resume."""
    overrides = [DECOUPLED, "run.max_staleness=0", "players.num=3", "buffer.shards=2"]
    for ranks in (1, 2):
        run(tmp_path / str(ranks), "sac", *overrides, "run.total_steps=250", f"trainer.devices={ranks}")
    one, other = saved(tmp_path / "1"), saved(tmp_path / "2")
    assert one["gradient_steps"] == other["gradient_steps"] > 0
    assert largest_difference(one["agent"], other["agent"]) < 1e-5
    parts = checkpoints(tmp_path / "1")[-1] / "buffer"
    assert sorted(path.name for path in parts.iterdir()) == ["shard_0", "shard_1"]
    result = run(tmp_path / "1", "sac", *overrides, "run.resume=true", "run.total_steps=400")
    assert result.gradient_steps == result.policy_steps - 50
    assert [line for line in lines(tmp_path / "1") if "Buffer/size" in line][-1]["Buffer/size"] >= 400


@pytest.mark.slow
@pytest.mark.parametrize("memmap", [pytest.param("false", marks=pytest.mark.every), "true"])
def test_a_resumed_run_may_change_shards_players_and_ranks(tmp_path, memmap):
    """A resumed run may change shards, players and ranks."""
    common = [DECOUPLED, f"buffer.memmap={memmap}", "run.resume=true"]
    size = 0
    for steps, shards, players, ranks in ((200, 1, 2, 1), (400, 3, 3, 2), (600, 2, 2, 1)):
        changed = [f"buffer.shards={shards}", f"players.num={players}", f"trainer.devices={ranks}"]
        result = run(tmp_path / "run", "sac", *common, *changed, f"run.total_steps={steps}")
        assert result.gradient_steps == result.policy_steps - 50
        last = [line for line in lines(tmp_path / "run") if "Buffer/size" in line][-1]
        assert last["Buffer/size"] >= steps > size and "Buffer/lost_rows" not in last
        size = last["Buffer/size"]


@pytest.mark.slow
@pytest.mark.parametrize(("shards", "memmap"), [pytest.param(1, False, marks=pytest.mark.every), (2, False), (1, True)])
def test_a_killed_shard_is_replaced(tmp_path, monkeypatch, capfd, shards, memmap):
    """A killed shard is replaced while others serve."""
    fleets, publish = [], Run.publish

    async def publish_and_kill(self):
        """Publish and kill a shard."""
        await publish(self)
        if self.counters.version == 4:
            ray.kill(fleets[0].shards[-1].actor)

    start = Fleet.start
    monkeypatch.setattr(Fleet, "start", lambda self, *args: fleets.append(self) or start(self, *args))
    monkeypatch.setattr(Run, "publish", publish_and_kill)
    overrides = [DECOUPLED, "players.num=2", f"buffer.shards={shards}", "run.total_steps=600", "log.level=warning"]
    run(tmp_path / "run", "sac", *overrides, f"buffer.memmap={str(memmap).lower()}")
    end = lines(tmp_path / "run")[-1]
    assert (end["status"], end["restarts"]) == ("done", 0)
    assert end["gradient_steps"] == end["policy_steps"] - 50
    metrics = [line for line in lines(tmp_path / "run") if "Buffer/restarts" in line][-1]
    assert metrics["Buffer/restarts"] == 1
    if memmap:  # no acknowledged row is lost
        assert metrics["Buffer/size"] >= end["policy_steps"]
    else:
        assert 0 < metrics["Buffer/size"] < end["policy_steps"]
    assert f"shard {shards - 1} of the replay failed and is replaced (1 of 3)" in capfd.readouterr().err


@pytest.mark.slow
def test_a_death_during_a_rebuild_leaves_no_process(tmp_path, monkeypatch):
    """The death of a trainer during a rebuild leaves no process behind."""
    join, publish = Fleet._join_trainers, Run.publish
    fleets = []

    async def join_and_die(self):
        """Join the group; kill a rank of the second group."""
        fleets.append(self)
        if len(fleets) == 2:  # one rank of the second group dies while the other waits for it
            await self.learner.ranks[1].call(TrainerActor.address)
            self.learner.ranks[1].call(TrainerActor.join, "127.0.0.1", 1, self.config)
            await asyncio.sleep(0.5)
            ray.kill(self.learner.ranks[0].actor)
        await join(self)

    async def publish_and_kill(self):
        """Publish and kill a trainer."""
        await publish(self)
        if self.counters.version == 4:
            ray.kill(fleets[0].learner.ranks[0].actor)

    monkeypatch.setattr(Fleet, "_join_trainers", join_and_die)
    monkeypatch.setattr(Run, "publish", publish_and_kill)
    overrides = [DECOUPLED, "trainer.devices=2", "run.total_steps=300", "ray.wait_timeout=60"]
    result = run(tmp_path / "run", "sac", *overrides)
    assert result.gradient_steps == result.policy_steps - 50
    assert len(fleets) == 3


@pytest.mark.slow
def test_a_cluster_that_is_too_small_is_reported_and_then_an_error(tmp_path, capsys):
    """A cluster that is too small is reported immediately and is an error at the end."""
    wait_until_free(5)
    began = time.monotonic()
    with pytest.raises(RunFailedError, match=r"the run found no room within 6 s .*: the run requests 9 CPUs"):
        run(tmp_path / "run", "ppo", DECOUPLED, "players.num=8", "algo.rollout_steps=16", "ray.wait_timeout=6")
    said = capsys.readouterr().out
    assert "waits for room in the cluster: the run requests 9 CPUs (players.num=8 x players.cpus=1" in said
    assert "there is room for 4 of 8 players of 1 CPUs" in said
    assert "the cluster has 5 CPUs" in said and "lower players.num" in said
    assert time.monotonic() - began > 5
    assert not (tmp_path / "run").exists()


def test_a_failed_start_releases_its_resources():
    """A failed start releases its resources."""
    wait_until_free(5)


def wait_until_free(cpus):
    """Wait until Ray's node has a number of free CPUs: it learns late that actors have ended."""
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0) < cpus:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.2)


def test_the_driver_never_loads_torch():
    """The driver doesn't import Torch."""
    code = (
        "import sys\n"
        "from sheeprl.config.loading import load_config\n"
        "import sheeprl.run, sheeprl.actors.ray.cluster, sheeprl.checkpoint.writer, sheeprl.metrics.reporter\n"
        "from sheeprl.config.checks import check\n"
        "check(load_config('ppo').model_dump(mode='json'))\n"
        "assert not {'torch', 'lightning', 'tensordict'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_requested_resources_are_placed():
    """The requested resources equal the placed ones."""
    config = check(
        load_config("sac", [*SMALL_SAC, *QUIET, "players.num=2", "trainer.accelerator=cpu"]).model_dump(mode="json")
    )
    fleet = Fleet(config.config, config.spaces)
    try:
        assert fleet.requested() == {"CPU": 3}
    finally:
        fleet.close()
        fleet.forget()
    gone = weakref.ref(fleet)
    del fleet
    assert gone() is None  # immediately, because handles must not outlive their Ray session
