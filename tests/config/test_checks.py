"""Settings that don't fit each other are told before anything starts."""

import pytest

from sheeprl import ConfigError, load_config
from sheeprl.config.checks import check


def mistakes_of(algorithm, *overrides):
    with pytest.raises(ConfigError) as caught:
        check(load_config(algorithm, overrides).model_dump(mode="json"))
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("algorithm", "overrides", "said"),
    [
        ("sac", ["run.mode=coupled"], "buffer.shards=2: coupled mode has one shard per rank; leave it out or use"),
        ("ppo", ["players.num=2"], "buffer.shards=2: ppo needs whole rollouts in one buffer; leave it out"),
        ("sac", [], "buffer.shards=2: more than players.num=1; use at most one shard per player"),
        (
            "sac",
            ["players.num=3", "buffer.size=300", "players.fragment_rows=20"],
            "buffer.size=300: each of 2 shards gets up to 160 rows a round; use at least 320",
        ),
    ],
)
def test_a_replay_that_can_not_be_shared_out(algorithm, overrides, said):
    (mistake,) = mistakes_of(algorithm, "buffer.shards=2", *overrides)
    assert said in mistake


def test_shards_that_fit():
    overrides = ["buffer.shards=2", "players.num=3", "buffer.size=320", "players.fragment_rows=20"]
    config = check(load_config("sac", overrides).model_dump(mode="json")).config
    assert config.buffer.shards == 2


def test_a_round_larger_than_the_memory():
    (mistake,) = mistakes_of("ppo", "env.num_envs=1000000000")
    assert "env.num_envs=1000000000: a round of 128 x 1000000000 x 1 rows takes 1,907 GiB, more than the" in mistake


def test_a_replay_larger_than_the_memory():
    sizes = ["buffer.size=1000000000000", "run.total_steps=1000000000000"]
    (mistake,) = mistakes_of("sac", *sizes)
    assert mistake.startswith("buffer.size=1000000000000: 1000000000000 rows take 11,176 GiB, more than the")
    assert "use a smaller buffer or buffer.memmap=true" in mistake
    check(load_config("sac", [*sizes, "buffer.memmap=true"]).model_dump(mode="json"))


def test_a_replay_that_is_never_filled_may_be_larger_than_the_memory():
    check(load_config("sac", ["buffer.size=1000000000000"]).model_dump(mode="json"))


def test_the_memory_of_a_cluster_is_not_known(monkeypatch):
    sizes = ["buffer.size=1000000000000", "run.total_steps=1000000000000"]
    check(load_config("sac", [*sizes, "ray.address=10.0.0.1:6379"]).model_dump(mode="json"))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check(load_config("sac", sizes).model_dump(mode="json"))
    (mistake,) = mistakes_of("sac", *sizes, "run.mode=coupled")
    assert "more than the" in mistake


def test_gradient_steps_are_not_compiled_on_mps():
    (mistake,) = mistakes_of("sac", "trainer.accelerator=mps", "trainer.compile=true")
    assert mistake == "trainer.compile=true: supports CPU and CUDA, not trainer.accelerator=mps; leave it out"
    assert (
        check(load_config("sac", ["trainer.accelerator=mps"]).model_dump(mode="json")).config.trainer.compile is False
    )


@pytest.mark.parametrize(("algorithm", "key"), [("ppo", "obs/picture"), ("sac", "obs")])
def test_pixels_are_not_flattened_silently(algorithm, key):
    env = "Nested-v0" if algorithm == "ppo" else "Camera-v0"
    (mistake,) = mistakes_of(algorithm, f"env.id=tests.helpers.envs:{env}")
    assert f"its observations ({key}) are pixels of shape (2, 2, 1); {algorithm} needs vector observations" in mistake
    assert "env.wrappers=[FlattenObservation]" in mistake


def test_pixels_that_a_wrapper_flattens_are_a_vector():
    words = ["env.id=tests.helpers.envs:Camera-v0", "env.wrappers=[gymnasium.wrappers:FlattenObservation]"]
    spaces = check(load_config("sac", words).model_dump(mode="json")).spaces
    assert spaces.observation.shape == (4,)


@pytest.mark.parametrize(
    ("kind", "said", "advised"),
    [
        ("text", "the observation['inner']['mission'] has the space Text(", "flatten it with"),
        ("tuple", "the observation has the space Tuple(", "flatten it with"),
        ("sequence", "the observation['seen'] has the space Sequence(", "derived from gymnasium.ObservationWrapper"),
        ("own", "the observation['mission'] has the space <tests.helpers.envs.Mission", "derived from gymnasium.Obs"),
    ],
)
def test_an_observation_without_a_vector_form_is_named_with_its_key(kind, said, advised):
    chosen = ["env.id=tests.helpers.envs:Spoken-v0", f"env.kwargs={{kind: {kind}}}"]
    (mistake,) = mistakes_of("ppo", *chosen)
    assert mistake.startswith("env.id=tests.helpers.envs:Spoken-v0: ") and said in mistake and advised in mistake
    if advised == "flatten it with":
        wrapper = "env.wrappers=[FlattenObservation]"
        assert wrapper in mistake
        check(load_config("ppo", [*chosen, wrapper]).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("overrides", "setting"),
    [
        (["algo.batch_size=1"], "algo.batch_size=1"),
        (["algo.batch_size=1", "algo.rollout_steps=1", "env.num_envs=1"], "algo.rollout_steps=1"),
    ],
)
def test_minibatches_of_one_row_can_not_be_standardized(overrides, setting):
    (mistake,) = mistakes_of("ppo", *overrides)
    assert mistake == (
        f"{setting}: ppo standardizes advantage over each minibatch, for which one row is too few; use at least 2, or "
        "algo.normalize_advantage=false"
    )
    check(load_config("ppo", [*overrides, "algo.normalize_advantage=false"]).model_dump(mode="json"))
