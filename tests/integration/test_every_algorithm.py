"""Test guarantees of SheepRL for every registered algorithm."""

import pytest
import ray
import torch

from sheeprl.actors.ray.fleet import Fleet
from sheeprl.algos import registry
from sheeprl.run import Run
from tests.helpers.algorithms import Small, assert_exact_ratio, every_algorithm, is_off_policy, supported
from tests.helpers.runs import largest_difference, lines, ray_session, saved

COUPLED, DECOUPLED = "run.mode=coupled", "run.mode=decoupled"


@pytest.fixture(scope="module")
def session():
    """Yield a Ray session."""
    with ray_session(cpus=5):
        yield


def agents(tmp_path, small, variants, *overrides):
    """Train once for each variant of the settings; return the agents, which have taken the same gradient steps."""
    found = []
    for number, variant in enumerate(variants):
        small.run(tmp_path / str(number), *overrides, *variant)
        found.append(saved(tmp_path / str(number)))
    assert len({state["gradient_steps"] for state in found}) == 1 and found[0]["gradient_steps"] > 0
    return [state["agent"] for state in found]


@pytest.mark.parametrize("algorithm", every_algorithm())
def test_the_seed_determines_the_run(tmp_path, algorithm):
    """The same seed gives the same agent, another seed another one, whatever the global generator."""
    found = []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(number)
        Small(algorithm).run(tmp_path / str(number), COUPLED, "run.total_steps=100", f"run.seed={seed}")
        found.append(saved(tmp_path / str(number))["agent"])
    assert largest_difference(found[0], found[1]) == 0.0
    assert largest_difference(found[0], found[2]) > 0.0


@pytest.mark.parametrize("algorithm", every_algorithm())
def test_a_checkpoint_opens_on_another_number_of_players(tmp_path, algorithm):
    """A run resumes with other players and environments, and its gradient steps remain those that are due."""
    small = Small(algorithm)
    first = small.run(tmp_path, COUPLED, "run.total_steps=150")
    changed = [COUPLED, "run.total_steps=300", "players.num=3", "env.num_envs=1", "run.resume=true"]
    result = small.run(tmp_path, *changed)
    assert result.policy_steps >= 300 and result.gradient_steps > first.gradient_steps
    if is_off_policy(algorithm):
        assert_exact_ratio(small.config(tmp_path, *changed), result.policy_steps, result.gradient_steps)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", every_algorithm(("sac", "ppo_recurrent", "dreamer_v3"), quick=()))
def test_coupled_and_decoupled_are_bit_identical(tmp_path, session, algorithm):
    """Coupled and decoupled mode are bit-identical without overlapping collection (PPO: test_ray_runs.py)."""
    overrides = ["run.max_staleness=0", "run.total_steps=400", "players.num=2"]
    one, other = agents(tmp_path, Small(algorithm), [[COUPLED], [DECOUPLED]], *overrides)
    assert largest_difference(one, other) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", every_algorithm(("ppo_recurrent",), quick=()))  # test_ray_runs.py: PPO, SAC
def test_two_ranks_learn_what_one_learns(tmp_path, session, algorithm):
    """Two ranks learn the same as one from the same global batches."""
    overrides = [DECOUPLED, "run.max_staleness=0", "run.total_steps=200", "players.num=2", "trainer.compile=false"]
    if "vector" not in registry.args_class(algorithm).observations:
        overrides.append("algo.replay_ratio=0.1")  # a rounding that moves a unit across its ReLU's kink soon grows
    one, other = agents(tmp_path, Small(algorithm), [["trainer.devices=1"], ["trainer.devices=2"]], *overrides)
    assert largest_difference(one, other) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", every_algorithm(("sac", "ppo_recurrent"), quick=()))  # test_cache.py: PPO
def test_compiled_and_eager_runs_agree(tmp_path, algorithm):
    """A compiled run learns the same as an eager one."""
    # Few steps: a rounding error that changes a sampled latent or the sign of a tiny gradient grows from there.
    steps = 64 if is_off_policy(algorithm) else 60  # one round of on-policy data, so that both train on the same
    overrides = [COUPLED, f"run.total_steps={steps}", *supported(algorithm, {"replay_ratio": "1"})]
    one, other = agents(tmp_path, Small(algorithm), [["trainer.compile=false"], ["trainer.compile=true"]], *overrides)
    assert largest_difference(one, other) < 3e-5


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", every_algorithm(slow=()))
def test_killed_workers_are_replaced_with_the_exact_ratio(tmp_path, monkeypatch, session, algorithm):
    """A run survives the loss of a player, a shard and a trainer, and takes exactly the gradient steps that are due."""
    fleets, killed, start, publish = [], [], Fleet.start, Run.publish
    victims = {2: "player", 3: "shard", 4: "trainer"}  # by the rounds after which they are killed

    async def publish_and_kill(self):
        """Publish, and kill the worker whose round it is."""
        await publish(self)
        role = victims.pop(self.counters.version, None)
        if role is not None:
            if role == "player":  # later its replacement may not have answered yet
                worker = self.players.handles[0].host.handle
            else:
                worker = fleets[0].shards[0] if role == "shard" else fleets[0].learner.ranks[0]
            killed.append(role)
            ray.kill(worker.actor)

    monkeypatch.setattr(Fleet, "start", lambda self, *args: fleets.append(self) or start(self, *args))
    monkeypatch.setattr(Run, "publish", publish_and_kill)
    small, overrides = Small(algorithm), [DECOUPLED, "players.num=2", "run.total_steps=800"]
    result = small.run(tmp_path, *overrides)
    end = lines(tmp_path)[-1]
    assert killed == ["player", "shard", "trainer"] and end["status"] == "done" and result.policy_steps >= 800
    assert [end[count] for count in ("restarts", "buffer_restarts", "trainer_restarts")] == [1, 1, 1]
    assert_exact_ratio(small.config(tmp_path, *overrides), result.policy_steps, result.gradient_steps)
    assert saved(tmp_path)["gradient_steps"] == result.gradient_steps
