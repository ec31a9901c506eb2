"""Test the checks of settings against each other, the environment and the machine."""

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from sheeprl import ConfigError, load_config
from sheeprl.algos.args import EncoderArgs, OffPolicyArgs, OnPolicyArgs
from sheeprl.algos.dreamer_v3.args import DreamerV3Args
from sheeprl.algos.ppo.args import PPOArgs
from sheeprl.algos.sac.args import SACArgs
from sheeprl.config import checks
from sheeprl.config.checks import check
from sheeprl.config.loading import apply_overrides
from sheeprl.envs.transforms import Spaces


def mistakes_of(algorithm, *overrides):
    """Return the mistakes that `check` finds."""
    with pytest.raises(ConfigError) as caught:
        check(load_config(algorithm, overrides).model_dump(mode="json"))
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("env", "advice"),
    [
        ("MiniGrid-Empty-5x5-v0", "use env.wrappers=[one_hot_grid] or env.wrappers=[ImgObsWrapper]"),
        ("Mine-v0", "leave it out with env.wrappers=[{path: FilterObservation, filter_keys: [image]}], or drop"),
    ],
)
def test_a_text_in_the_observation_is_named_without_its_address(env, advice):
    """The message of a text names the wrappers of the family, and no address in memory."""

    class Mission(spaces.Space):
        def __repr__(self):
            """Return the representation of MiniGrid's space of texts."""
            return "MissionSpace(<function gen_mission at 0x7f12ab34cd56>, None)"

    space = spaces.Dict({"mission": Mission(), "image": spaces.Box(0, 1, (2,))})
    (line,) = checks.unsupported_spaces(env, Spaces(space, spaces.Discrete(2)))
    assert "MissionSpace(<function gen_mission>, None), which has no vector form; " + advice in line


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["players.max=3"], "players.max=3: more processes than players.num=2; use at most one process per player"),
        (["players.min=3"], "players.min=3: more than players.num=2; use at most 2"),
        (["players.min=2", "players.max=1"], "players.min=2: more than players.max=1; use at most 1"),
    ],
)
def test_numbers_of_processes_that_do_not_fit_are_refused(overrides, message):
    """Bounds of the processes that exceed each other or the players are refused."""
    assert mistakes_of("sac", "players.num=2", *overrides) == [message]


@pytest.mark.parametrize(
    ("algorithm", "overrides", "message"),
    [
        ("ppo", [], "players.quorum=0.5: ppo doesn't correct for players with older weights; use players.quorum=1, or"),
        ("sac", ["run.max_staleness=0"], "players.quorum=0.5: needs weights of several versions; use run.max_stal"),
        ("sac", ["players.quorum=0"], "players.quorum=0: must be more than 0"),
        ("sac", ["players.quorum=1.5"], "players.quorum=1.5: must be at most 1"),
    ],
)
def test_a_quorum_that_a_run_cannot_bear_is_refused(algorithm, overrides, message):
    """A quorum needs data that may be older, and a bound on the age that permits it."""
    (mistake,) = mistakes_of(algorithm, "players.num=4", "players.quorum=0.5", *overrides)
    assert mistake.startswith(message)


@pytest.mark.parametrize(("algorithm", "size"), [("impala", 2), ("appo", 2), ("sac", 2)])
def test_a_quorum_sets_the_size_of_a_round(algorithm, size):
    """Rounds have the part of the players' fragments, rounded up."""
    config = check(load_config(algorithm, ["players.num=4", "players.quorum=0.3"]).model_dump(mode="json")).config
    assert config.round_fragments == size
    assert config.round_rows == size * config.fragment_rows * config.env.num_envs


@pytest.mark.parametrize(
    ("algorithm", "overrides", "message"),
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
def test_a_replay_that_cannot_be_split_is_refused(algorithm, overrides, message):
    """A replay that can't be split into shards is refused."""
    (mistake,) = mistakes_of(algorithm, "buffer.shards=2", *overrides)
    assert message in mistake


def test_a_run_without_gradient_steps_is_warned_about():
    """A run that takes no gradient step is permitted, with a warning."""
    tree = load_config("sac", ["env.id=Pendulum-v1", "algo.replay_ratio=0"]).model_dump(mode="json")
    (warning,) = check(tree).warnings
    assert warning.startswith("algo.replay_ratio=0: no gradient step is taken, so nothing is trained; use")


def test_a_run_too_short_for_its_batches_names_what_would_work():
    """A batch and a start of training beyond the end of the run are named with what would work."""
    sizes = ["env.id=Pendulum-v1", "algo.batch_size=256", "algo.learning_starts=1000", "run.total_steps=250"]
    assert mistakes_of("sac", *sizes) == [
        "algo.batch_size=256: larger than run.total_steps=250; use at most 250, or raise run.total_steps",
        "algo.learning_starts=1000: must be less than run.total_steps=250; use fewer, such as "
        "algo.learning_starts=25, or raise run.total_steps",
    ]


def test_shards_that_fit():
    """A replay that can be split into shards is accepted."""
    overrides = ["buffer.shards=2", "players.num=3", "buffer.size=320", "players.fragment_rows=20"]
    config = check(load_config("sac", overrides).model_dump(mode="json")).config
    assert config.buffer.shards == 2


def test_a_round_larger_than_the_memory():
    """A round larger than the memory is refused."""
    (mistake,) = mistakes_of("ppo", "env.num_envs=1000000000")
    assert "env.num_envs=1000000000: a round of 128 x 1000000000 x 1 rows takes 1,907.3 GiB, more than the" in mistake


def test_a_replay_larger_than_the_memory():
    """A replay larger than the memory is refused, unless it is memory-mapped."""
    sizes = ["buffer.size=1000000000000", "run.total_steps=1000000000000"]
    (mistake,) = mistakes_of("sac", *sizes)
    assert mistake.startswith("buffer.size=1000000000000: 1000000000000 rows take 11,175.9 GiB, more than the")
    assert "use a smaller buffer or buffer.memmap=true" in mistake
    check(load_config("sac", [*sizes, "buffer.memmap=true"]).model_dump(mode="json"))


def test_a_replay_with_stored_states_larger_than_the_memory():
    """The states that a world model stores count, too."""
    sizes = ["algo.size=400M", "algo.deter=null", "buffer.size=100000000", "run.total_steps=100000000"]
    (mistake,) = mistakes_of("dreamer_v3", *sizes)
    assert mistake.startswith("buffer.size=100000000: 100000000 rows take 4,5")


def test_a_replay_without_room_for_a_sequence():
    """A replay that can't hold a sequence of each environment is refused; it would never be trained on."""
    (mistake,) = mistakes_of("dreamer_v3", "env.num_envs=400", "run.total_steps=100000")
    assert mistake == ("buffer.size=10000: 25 rows of each environment, but a sequence needs 33; use at least 13200")
    fitting = ["env.num_envs=400", "run.total_steps=100000", "buffer.size=13200"]
    check(load_config("dreamer_v3", fitting).model_dump(mode="json"))  # 32 rows and the one before


def test_a_run_that_ends_before_its_first_sequence():
    """A run with too few rows for a sequence is refused; it would never train."""
    words = ["run.total_steps=200", "algo.learning_starts=16", "env.num_envs=4", "algo.sequence_length=50"]
    (mistake,) = mistakes_of("dreamer_v3", *words, "algo.imag_last=0")
    assert mistake == (
        "run.total_steps=200: 50 rows of each of 4 environments, but a sequence needs 51; use at least 204"
    )


def test_a_replay_of_less_than_a_row_of_each_environment():
    """The mistake is that of the round, for which the replay is too small, too."""
    mistakes = mistakes_of("sac", "buffer.size=3", "env.num_envs=4", "algo.batch_size=2")
    assert mistakes == ["buffer.size=3: smaller than one round; use at least 64"]


def test_a_width_by_hand_beside_a_size():
    """A width that a configuration sets, and a size that the user sets, give a warning."""
    warnings = check(load_config("dreamer_v3", ["algo.size=12M"]).model_dump(mode="json")).warnings
    start = "algo.deter=256 replaces the 2048 of algo.size=12M; use algo.deter=null"
    assert any(line.startswith(start) for line in warnings)
    assert not check(load_config("dreamer_v3").model_dump(mode="json")).warnings


@pytest.mark.parametrize("largest", [1.0, 255.0])
def test_pictures_that_no_decoder_can_draw(largest):
    """Pictures of floats beyond 1 are refused by algorithms that reconstruct them."""
    found = Spaces(spaces.Box(0, largest, (64, 64, 3), np.float32), spaces.Discrete(2))
    mistakes = list(DreamerV3Args(name="dreamer_v3").space_mistakes(found))
    assert mistakes == (
        []
        if largest == 1
        else ["env.id: the picture obs is float32 from 0 to 255; return uint8, or floats from 0 to 1"]
    )


def test_a_replay_that_is_never_filled_may_be_larger_than_the_memory():
    """A replay that is never filled may be larger than the memory."""
    check(load_config("sac", ["buffer.size=1000000000000"]).model_dump(mode="json"))


def test_the_memory_of_a_cluster_is_not_checked(monkeypatch):
    """The memory isn't checked if the run joins a cluster."""
    sizes = ["buffer.size=1000000000000", "run.total_steps=1000000000000"]
    check(load_config("sac", [*sizes, "ray.address=10.0.0.1:6379"]).model_dump(mode="json"))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check(load_config("sac", sizes).model_dump(mode="json"))
    (mistake,) = mistakes_of("sac", *sizes, "run.mode=coupled")
    assert "more than the" in mistake


def test_gradient_steps_are_not_compiled_on_mps():
    """Compiled gradient steps on MPS are refused."""
    (mistake,) = mistakes_of("sac", "trainer.accelerator=mps", "trainer.compile=true")
    assert mistake == "trainer.compile=true: supports CPU and CUDA, not trainer.accelerator=mps; leave it out"
    assert (
        check(load_config("sac", ["trainer.accelerator=mps"]).model_dump(mode="json")).config.trainer.compile is False
    )


def test_pixels_are_not_flattened_silently():
    """Pixels are refused for an algorithm that needs vectors."""
    (mistake,) = mistakes_of("td3", "env.id=tests.helpers.envs:Camera-v0")
    assert "its observations (obs) are pixels of shape (2, 2, 1); td3 needs vector observations" in mistake
    assert "env.wrappers=[FlattenObservation]" in mistake


@pytest.mark.parametrize(
    ("algorithm", "overrides", "said"),
    [
        (
            "sac",
            ["env.id=tests.helpers.envs:Masked-v0", "env.kwargs={kind: multi-discrete}"],
            "its actions are multi-discrete; sac needs discrete or continuous actions",
        ),
        ("droq", ["env.id=CartPole-v1"], "its actions are discrete; droq needs continuous actions"),
        ("sac_ae", ["env.id=Pendulum-v1"], "algo.name=sac_ae: no picture is left to reconstruct; use an environment"),
    ],
)
def test_spaces_that_an_algorithm_refuses(algorithm, overrides, said):
    """An action or observation space that doesn't fit is one line."""
    tree = {"algo": {"name": algorithm}, "env": {}}
    apply_overrides(tree, overrides)
    with pytest.raises(ConfigError) as caught:
        check(tree)
    (mistake,) = caught.value.mistakes
    assert said in mistake


def test_pixels_that_a_wrapper_flattens_are_a_vector():
    """Pixels that a wrapper flattens are a vector."""
    words = ["env.id=tests.helpers.envs:Camera-v0", "env.wrappers=[gymnasium.wrappers:FlattenObservation]"]
    spaces = check(load_config("sac", words).model_dump(mode="json")).spaces
    assert spaces.observation.shape == (4,)


@pytest.mark.parametrize(
    ("kind", "message", "advised"),
    [
        ("text", "the observation['inner']['mission'] has the space Text(", "FilterObservation"),
        ("tuple", "the observation has the space Tuple(", "flatten it with"),
        ("sequence", "the observation['seen'] has the space Sequence(", "FilterObservation"),
        ("own", "the observation['mission'] has the space <tests.helpers.envs.Mission", "FilterObservation"),
    ],
)
def test_an_observation_without_a_vector_form_is_named_with_its_key(kind, message, advised):
    """The mistake names the key of an observation that isn't a vector."""
    chosen = ["env.id=tests.helpers.envs:Spoken-v0", f"env.kwargs={{kind: {kind}}}"]
    (mistake,) = mistakes_of("ppo", *chosen)
    assert mistake.startswith("env.id=tests.helpers.envs:Spoken-v0: ") and message in mistake and advised in mistake
    wrapper = mistake[mistake.index("env.wrappers=") :].partition(", or")[0]
    check(load_config("ppo", [*chosen, wrapper]).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("overrides", "setting"),
    [
        (["algo.batch_size=1"], "algo.batch_size=1"),
        (["algo.batch_size=1", "algo.rollout_steps=1", "env.num_envs=1"], "algo.rollout_steps=1"),
    ],
)
def test_minibatches_of_one_row_can_not_be_standardized(overrides, setting):
    """Minibatches of one row are refused if advantages are normalized."""
    (mistake,) = mistakes_of("ppo", *overrides)
    assert mistake == (
        f"{setting}: ppo standardizes advantage over each minibatch, for which one row is too few; use at least 2, or "
        "algo.normalize_advantage=false"
    )
    check(load_config("ppo", [*overrides, "algo.normalize_advantage=false"]).model_dump(mode="json"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.env.foo=1", "eval.env.foo: unknown setting"),
        ("eval.env.max_episode_steps=-3", "eval.env.max_episode_steps=-3: must be at least 1"),
        ("eval.env.num_envs=3", "eval.env.num_envs: has no effect on evaluations; leave it out"),
        ("eval.env.kwargs.sky=blue", "eval.env.kwargs.sky=blue: CartPole-v1 has no such argument; use sutton"),
        ("eval.envs.hard.foo=1", "eval.envs.hard.foo: unknown setting"),
        ("eval.envs={a b: {}}", "eval.envs: the key a b must consist of letters, digits"),
        ("run.until={eval/hrd/return: 1}", "run.until.eval/hrd/return: no evaluation has this result; use eval/return"),
        ("run.until={eval/length: 1}", "run.until.eval/length: no evaluation has this result; use eval/return"),
        ("eval.env.id=Pendulum-v1", "eval.env.id=Pendulum-v1: its instances have different observation or action"),
    ],
)
def test_settings_that_evaluations_can_not_use(override, message):
    """A mistake in `eval.env` or `eval.envs` is reported before the run starts, under its own key."""
    (mistake,) = mistakes_of("ppo", override)
    assert mistake.startswith(message)


def test_conditions_on_evaluations_that_come_too_late_warn():
    """Without evaluations before the end, they can't end a run."""
    for override, missing in (("eval.every=null", "eval.every"), ("eval.episodes=0", "eval.episodes")):
        config = load_config("ppo", ["run.until={eval/return: 475, patience: 2}", override])
        found = [line for line in check(config.model_dump(mode="json")).warnings if line.startswith("run.until")]
        assert len(found) == 2 and all(line.endswith(f"set {missing}") for line in found)


def test_evaluations_may_have_another_environment_of_the_same_spaces():
    """`eval.env` changes only what it names, and merges the arguments of the environment."""
    tree = {"kwargs": {"sutton_barto_reward": True}, "max_episode_steps": 7}
    config = load_config("ppo", ["env.max_episode_steps=9", "env.kwargs.render_mode=rgb_array"])
    changed = config.model_copy(update={"eval": config.eval.model_copy(update={"env": tree})})
    env = check(changed.model_dump(mode="json")).config.eval_env
    assert env.kwargs == {"render_mode": "rgb_array", "sutton_barto_reward": True}
    assert (env.max_episode_steps, env.id, env.num_envs) == (7, config.env.id, config.env.num_envs)


# ------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ("{mask: short}", "action_mask has the shape (3,), but the action space Discrete(4) has 4 choices; use the"),
        ("{mask: matrix}", "action_mask has the shape (2, 2), but the action space Discrete(4) has 4 choices"),
        ("{mask: choice}", "action_mask has the space Discrete(4); use MultiBinary(4) or a Box of 0 and 1"),
        ("{kind: multi-binary, mask: short}", "the action space MultiBinary(3) has 6 choices; use the shape (6,)"),
        ("{kind: continuous}", "action_mask is a mask of choices, but its actions are continuous; rename the key"),
    ],
)
def test_an_action_mask_that_does_not_fit_the_actions(kwargs, message):
    """The line names the environment, the mask and the right size."""
    (mistake,) = mistakes_of("ppo", "env.id=tests.helpers.envs:Masked-v0", f"env.kwargs={kwargs}")
    assert mistake.startswith("env.id=tests.helpers.envs:Masked-v0: ") and message in mistake


@pytest.mark.parametrize("kwargs", ["{}", "{mask: floats}", "{kind: multi-discrete}", "{kind: multi-binary}"])
def test_an_action_mask_that_fits(kwargs):
    """A mask may be a MultiBinary or a Box."""
    words = ["env.id=tests.helpers.envs:Masked-v0", f"env.kwargs={kwargs}"]
    assert "action_mask" in check(load_config("ppo", words).model_dump(mode="json")).spaces.observation.spaces


# ------------------------------------------------------------------------------------------- keys

PICTURE, STATE = spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Box(-1.0, 1.0, (2,))
MIXED = spaces.Dict({"camera": PICTURE, "inner": spaces.Dict({"state": STATE}), "action_mask": spaces.MultiBinary(2)})


def key_mistakes(space=MIXED, **keys):
    """Return the mistakes in the keys of an encoder."""
    args = EncoderArgs.model_validate({"name": "x", **keys})
    return list(args.space_mistakes(Spaces(space, spaces.Discrete(2))))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mlp_keys": ["inner/stat"]}, "algo.mlp_keys=[inner/stat]: the observation has no key inner/stat; did you"),
        ({"cnn_keys": ["camera", "x"]}, "algo.cnn_keys=[camera, x]: the observation has no key x; use some of camera"),
        (
            {"mlp_keys": ["camera"]},
            "algo.mlp_keys=[camera]: camera of shape (8, 8, 3) is a picture; move it to algo.cn",
        ),
        ({"cnn_keys": ["inner/state"]}, "inner/state of shape (2,) is no picture; move it to algo.mlp_keys"),
        ({"cnn_keys": ["action_mask"]}, "action_mask permits actions and is never an input; leave it out"),
        ({"mlp_keys": ["action_mask"]}, "algo.mlp_keys=[action_mask]: action_mask permits actions and is never an"),
        ({"mlp_keys": [], "cnn_keys": []}, "algo.mlp_keys=[], algo.cnn_keys=[]: no key of the observation is left"),
    ],
)
def test_mistaken_keys_of_an_encoder(keys, message):
    """The line names the setting, the key and what would work."""
    assert any(message in mistake for mistake in key_mistakes(**keys))


@pytest.mark.parametrize(
    "keys", [{}, {"mlp_keys": ["inner/state"]}, {"cnn_keys": ["camera"], "mlp_keys": []}, {"cnn_keys": []}], ids=str
)
def test_right_keys_of_an_encoder(keys):
    """Without keys, the encoder reads everything."""
    assert key_mistakes(**keys) == []


def test_an_unknown_key_leads_to_keys_of_its_kind():
    """An unknown key leads to vectors in `mlp_keys` and to pictures in `cnn_keys`."""
    assert key_mistakes(mlp_keys=["camer"]) == [
        "algo.mlp_keys=[camer]: the observation has no key camer; use some of inner/state"
    ]
    assert key_mistakes(cnn_keys=["inner/stat"]) == [
        "algo.cnn_keys=[inner/stat]: the observation has no key inner/stat; use some of camera"
    ]
    assert key_mistakes(STATE, cnn_keys=["x"]) == [
        "algo.cnn_keys=[x]: the observation has no key x and no picture; leave algo.cnn_keys out"
    ]


def test_the_only_part_of_an_observation_has_the_key_obs():
    """An observation without keys may be a picture or a vector."""
    assert key_mistakes(PICTURE) == key_mistakes(PICTURE, cnn_keys=["obs"]) == key_mistakes(STATE) == []
    (mistake,) = key_mistakes(PICTURE, cnn_keys=[])
    assert mistake == "algo.cnn_keys=[]: no key of the observation is left as an input; use some of obs"


def test_the_arguments_of_an_algorithm_are_checked_against_the_spaces(monkeypatch):
    """Every algorithm may report additional mistakes."""
    monkeypatch.setattr(PPOArgs, "space_mistakes", lambda args, found: [f"algo.clip={args.clip}: {found.action}"])
    assert mistakes_of("ppo", "env.id=CartPole-v1") == ["algo.clip=0.2: Discrete(2)"]


def test_an_algorithm_warns_about_spaces(monkeypatch):
    """The run shows what the algorithm doesn't use of the spaces, and begins."""
    monkeypatch.setattr(PPOArgs, "space_warnings", lambda args, found: [f"env.id: half of {found.action}"])
    tree = load_config("ppo", ["env.id=CartPole-v1"]).model_dump(mode="json")
    assert "env.id: half of Discrete(2)" in check(tree).warnings


def test_checks_name_no_argument_of_one_algorithm():
    """Checks name no argument of one algorithm."""
    source = Path(checks.__file__).read_text(encoding="utf-8")
    own = {name for args in (PPOArgs, SACArgs) for name in args.model_fields}
    general = {*OnPolicyArgs.model_fields, *OffPolicyArgs.model_fields}
    assert not [name for name in own - general if f"algo.{name}" in source]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["algo.batch_size=18"],
            "algo.batch_size=18: a minibatch holds whole sequences of 4 rows on each of 1 ranks; use a multiple of 4, "
            "such as 20",
        ),
        (
            ["algo.batch_size=3"],
            "algo.batch_size=3: a minibatch holds whole sequences of 4 rows on each of 1 ranks; use a multiple of 4, "
            "such as 4",
        ),
        (
            ["algo.sequence=8"],
            "algo.rollout_steps=6: shorter than a training sequence of 8 rows; use at least 8, or shorter sequences",
        ),
    ],
)
def test_minibatches_hold_whole_sequences(tmp_path, overrides, message):
    """A batch size that isn't a multiple of the sequence, and a sequence longer than the rollout, are named."""
    sizes = ["algo.rollout_steps=6", "algo.batch_size=24", "env.num_envs=8"]
    file = tmp_path / "toy.yaml"
    file.write_text("algo: {name: 'tests.helpers.toy_recurrent:ToyRecurrent'}\nenv: {id: CartPole-v1}\n")
    assert mistakes_of(str(file), *sizes, *overrides) == [message]
    check(load_config(str(file), sizes).model_dump(mode="json"))


@pytest.mark.parametrize("override", ["algo.batch_size=8", "algo.sequence=128"])
def test_a_minibatch_smaller_than_a_sequence_is_one_mistake(override):
    """A minibatch smaller than a sequence of a registered algorithm is the only mistake."""
    (mistake,) = mistakes_of("ppo", "algo.name=ppo_recurrent", "env.id=CartPole-v1", override)
    assert "a minibatch holds whole sequences of" in mistake


@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        (["checkpoint.storage=runs"], "checkpoint.storage: 'runs' is neither a URL nor an absolute path; use s3://"),
        (["checkpoint.storage=s3://me:secret@bucket/a"], "checkpoint.storage: the URL must not contain a user"),
        (["checkpoint.storage=/runs", "log.record=true"], "log.record=true: a re-execution reads checkpoints"),
    ],
)
def test_mistakes_of_the_storage_are_named_before_the_start(settings, mistake):
    """An invalid storage is a mistake, without its secrets, and so is a record of a run with one."""
    with pytest.raises(ConfigError) as caught:
        check(load_config("sac", settings).model_dump(mode="json"))
    (found,) = caught.value.mistakes
    assert found.startswith(mistake) and "secret" not in found
