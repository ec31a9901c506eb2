"""Test the player: rows, episodes, seeds, actions, failures and evaluation."""

import re
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from sheeprl import ConfigError
from sheeprl.actors.player import EnvFailedError, Player
from sheeprl.config import checks, defaults
from sheeprl.config.loading import validate
from sheeprl.envs.make import EnvSettingsError, make_env, make_vector_env, spaces_of
from sheeprl.envs.transforms import ActionTransform
from sheeprl.models.weights import to_arrays
from sheeprl.utils import seeding
from sheeprl.utils.errors import AlgorithmError
from tests.helpers.envs import Counting, Echo

STORED = ("action", "logprob")  # keys that a bootstrap row doesn't have


def resolved(env_id, num_envs=2, algo="ppo", seed=3, **env):
    """Return the checked configuration of a test environment."""
    tree = {
        "algo": {"name": algo, "hidden_sizes": [4], "batch_size": 2},
        "env": {"id": f"tests.helpers.envs:{env_id}", "num_envs": num_envs, **env},
        "run": {"seed": seed, "mode": "coupled"},
    }
    return checks.check(tree)


def make_player(env_id="Counting-v0", number=0, incarnation=0, **settings):
    """Return a player of a test environment."""
    found = resolved(env_id, **settings)
    torch.manual_seed(0)  # initial weights of tests that pass none
    return Player(found.config, found.spaces, number, incarnation)


def nested_player(**settings):
    """Return a player of an environment with pictures, whose networks see them as vectors."""
    env = {"id": "tests.helpers.envs:Nested-v0", "num_envs": 2, **settings}
    algo = {"name": "ppo", "hidden_sizes": [4], "batch_size": 2}
    config = defaults.fill_in(validate({"algo": algo, "env": env, "run": {"seed": 3, "mode": "coupled"}}))
    torch.manual_seed(0)
    return Player(config, spaces_of(make_env(config.env)), 0, 0)


@pytest.fixture
def player(request):
    """Yield a player with the parameter's arguments and close it."""
    settings = getattr(request, "param", {})
    made = nested_player() if settings == "nested" else make_player(**settings)
    yield made
    made.close()


def collect(player, rows, mode="explore"):
    """Collect rows; return the statistics and the rows."""
    info, fragment = player.collect(rows, None, 0, mode)
    return info, fragment.rows


def with_constant_action(player, action):
    """Make a player always choose this action."""
    act = player.algorithm.act

    def constant(policy, row, state, mode, generator):
        """Return the output with the constant action."""
        output = act(policy, row, state, mode, generator)
        return type(output)(torch.as_tensor(action).expand_as(output.action).to(output.action.dtype), output.extras)

    player.algorithm.act = constant
    return player


def by_hand(env, seed, actions):
    """Step and reset one environment with these actions; return its rows. The last action isn't taken."""
    obs, _ = env.reset(seed=seed)
    rows = [(obs, 0.0, False, False, True)]
    for action in actions[:-1]:
        if rows[-1][2] or rows[-1][3]:
            rows.append((env.reset()[0], 0.0, False, False, True))
        else:
            rows.append((*env.step(action)[:4], False))
    return rows


# ---------------------------------------------------------------------------------------------- arrival rows


@pytest.mark.parametrize(("ends", "other"), [("terminated", "truncated"), ("truncated", "terminated")])
def test_the_rows_of_two_episodes(ends, other):
    """Rows, returns and lengths of two episodes are those expected."""
    player = with_constant_action(make_player(num_envs=1, kwargs={"lengths": [2, 3], "ends": [ends]}), 1)
    info, rows = collect(player, 8)
    episode_and_step = [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [1, 3], [2, 0], [2, 1]]
    assert rows["obs"][:, 0, 1:].tolist() == episode_and_step
    assert rows["reward"][:, 0].tolist() == [0, 101, 102, 0, 101, 102, 103, 0, 101]
    assert rows["is_first"][:, 0].tolist() == [True, False, False, True, False, False, False, True, False]
    assert rows[ends][:, 0].tolist() == [False, False, True, False, False, False, True, False, False]
    assert not rows[other].any()
    assert (info.policy_steps, info.rows) == (6, 8)
    assert info.returns == (203, 306) and info.lengths == (2, 3)


def test_dtypes_and_shapes():
    """Rows have the documented dtypes and shapes."""
    _, rows = collect(make_player(num_envs=3), 5)
    kinds = {name: (values.dtype.name, values.shape) for name, values in rows.items()}
    assert kinds == {
        "obs": ("float32", (6, 3, 3)),
        "action": ("int64", (6, 3)),
        "logprob": ("float32", (6, 3)),
        "reward": ("float32", (6, 3)),
        "terminated": ("bool", (6, 3)),
        "truncated": ("bool", (6, 3)),
        "is_first": ("bool", (6, 3)),
    }


@pytest.mark.parametrize("vectorization", ["sync", "async", "native"])
@pytest.mark.parametrize("lengths", [[2, 3, 1], []])
def test_rows_equal_those_of_a_manual_loop(vectorization, lengths):
    """Rows, returns and lengths equal those of a manual loop."""
    kwargs = {"lengths": lengths, "ends": ["terminated", "truncated"]}
    player = make_player(number=5, incarnation=2, num_envs=3, vectorization=vectorization, kwargs=kwargs)
    try:
        fragments = [collect(player, rows) for rows in (1, 7, 4, 12)]
    finally:
        player.close()
    joined = {name: np.concatenate([rows[name][:-1] for _, rows in fragments]) for name in fragments[0][1]}
    seeds = seeding.seeds(3, seeding.Role.ENV, 5, 2, count=3)
    if vectorization == "native":
        seeds = [seeds[0] + lane for lane in range(3)]
    returns, lengths_seen = [], []
    for env, seed in enumerate(seeds):
        expected = by_hand(Counting(**kwargs), seed, joined["action"][:, env])
        for t, (obs, reward, terminated, truncated, is_first) in enumerate(expected):
            assert joined["obs"][t, env].tolist() == obs.tolist()
            found = [joined[name][t, env] for name in ("reward", "terminated", "truncated", "is_first")]
            assert found == [reward, terminated, truncated, is_first]
        total, length = 0.0, -1
        tail = fragments[-1][1]
        last = tuple(tail[name][-1, env] for name in ("obs", "reward", "terminated", "truncated", "is_first"))
        for _, reward, terminated, truncated, _ in [*expected, last]:
            total, length = total + reward, length + 1
            if terminated or truncated:
                returns.append(total)
                lengths_seen.append(length)
                total, length = 0.0, -1
    is_last = joined["terminated"] | joined["truncated"]
    assert sum(info.policy_steps for info, _ in fragments) == int((~is_last).sum())
    assert sorted(value for info, _ in fragments for value in info.returns) == sorted(returns)
    assert sorted(value for info, _ in fragments for value in info.lengths) == sorted(lengths_seen)


@pytest.mark.parametrize("player", [{"kwargs": {"lengths": [2, 1]}}, "nested"], indirect=True)
def test_the_bootstrap_row_begins_the_next_fragment(player):
    """The bootstrap row equals the first row of the next fragment."""
    before = collect(player, 3)[1]
    for rows in (1, 2, 5):
        after = collect(player, rows)[1]
        for name in before:
            if name in STORED:
                assert not before[name][-1].any()  # it has no action
            else:
                assert before[name][-1].tolist() == after[name][0].tolist()
        before = after


def test_a_fragment_is_not_overwritten_by_the_next(player):
    """The next fragment doesn't overwrite the arrays."""
    rows = collect(player, 4)[1]
    copies = {name: values.copy() for name, values in rows.items()}
    collect(player, 4)
    assert all(np.array_equal(rows[name], copies[name]) for name in rows)


def test_dict_observations_keep_their_dtypes():
    """Dict observations keep their dtypes."""
    player = nested_player(kwargs={"lengths": [3]})
    _, rows = collect(player, 4)
    kinds = {name: (values.dtype.name, values.shape) for name, values in rows.items() if name.startswith("obs")}
    assert kinds == {
        "obs/where": ("float32", (5, 2, 2)),
        "obs/picture": ("uint8", (5, 2, 2, 2, 1)),
        "obs/inner/phase": ("int64", (5, 2)),
    }
    for env in range(2):
        assert rows["obs/inner/phase"][:, env].tolist() == [1, 2, 3, 4, 1]
        assert rows["obs/picture"][:, env, 0, 0, 0].tolist() == [0, 1, 2, 3, 10]
        assert rows["obs/where"][:, env].tolist() == [[s / 8, -s / 8] for s in (0, 1, 2, 3, 0)]


def test_a_time_limit_truncates():
    """A time limit truncates."""
    player = make_player(num_envs=1, max_episode_steps=2, kwargs={"lengths": [9]})
    info, rows = collect(player, 4)
    assert rows["truncated"][:, 0].tolist() == [False, False, True, False, False]
    assert not rows["terminated"].any()
    assert info.lengths == (2,) and info.policy_steps == 3


def test_episodes_continue_across_fragments():
    """Returns and lengths count across fragments."""
    player = with_constant_action(make_player(num_envs=2, kwargs={"lengths": [5, 2]}), 0)
    infos = [collect(player, rows)[0] for rows in (2, 2, 2, 6)]
    # 1 + 2 + 3 + 4 + 5 at step 5, then a reset row, then 1 + 2
    assert [info.returns for info in infos] == [(), (), (15.0, 15.0), (3.0, 3.0)]
    assert [info.lengths for info in infos] == [(), (), (5, 5), (2, 2)]
    # rows 0 to 11 of each environment, of which 5 and 8 are end rows
    assert [info.policy_steps for info in infos] == [4, 4, 2, 10]


def test_a_return_is_reported_once():
    """A fragment reports the returns of its end rows once."""
    player = with_constant_action(make_player(num_envs=1, kwargs={"lengths": [2]}), 0)
    first, second = collect(player, 2)[0], collect(player, 1)[0]
    assert (first.returns, second.returns) == ((3.0,), ())  # the end row is the bootstrap row, then the first row
    assert (first.policy_steps, second.policy_steps) == (2, 0)


# ------------------------------------------------------------------------------------------ seeds and weights


def tags(player):
    """Return the tags of a player's first row and close the player."""
    rows = collect(player, 1)[1]
    player.close()
    return rows["obs"][0, :, 0].tolist()


def test_environments_players_incarnations_and_runs_have_different_seeds():
    """Environments, players, incarnations and runs have different seeds."""
    drawn = [
        *tags(make_player(num_envs=3)),
        *tags(make_player(num_envs=3, number=1)),
        *tags(make_player(num_envs=3, incarnation=1)),
        *tags(make_player(num_envs=3, seed=4)),
    ]
    assert len(set(drawn)) == 12
    assert tags(make_player(num_envs=3)) == drawn[:3]


def test_actions_depend_on_seed_number_and_incarnation_only():
    """Actions depend on seed, number and incarnation only."""
    weights = to_arrays(make_player().policy)

    def actions(global_seed, **which):
        """Return the actions of a player."""
        player = make_player(num_envs=4, kwargs={"lengths": [50]}, **which)
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        _, fragment = player.collect(30, weights, 7, "explore")
        player.close()
        return fragment.rows["action"][:30].tolist()

    assert actions(1) == actions(2)
    others = [actions(1, number=1), actions(1, incarnation=1), actions(1, seed=4)]
    assert all(other != actions(1) for other in others)


def test_fragments_name_their_player_and_weights(player):
    """Fragments have their player, sequence number and weights version."""
    assert collect(make_player(), 1)[0].version == -1  # no weights yet
    weights = {name: np.zeros_like(values) for name, values in to_arrays(player.policy).items()}
    info, fragment = player.collect(2, weights, 7, "explore")
    assert info.version == 7
    assert (fragment.player, fragment.incarnation, fragment.sequence) == (0, 0, 0)
    assert fragment.rows["logprob"][:2] == pytest.approx(np.log(0.5))  # zero weights: both actions are equally likely
    info, fragment = player.collect(2, None, 8, "explore")
    assert (info.version, fragment.sequence) == (7, 1)


def test_weights_are_copied(player):
    """Weights are copied."""
    weights = to_arrays(player.policy)
    weights["network.0.bias"].flags.writeable = False  # as in the object store
    player.collect(1, weights, 0, "explore")
    weights["network.0.weight"][:] = 77
    assert not (player.policy.get_parameter("network.0.weight") == 77).any()


# --------------------------------------------------------------------------------------------------- actions


@pytest.mark.parametrize(
    ("kind", "chosen", "received"),
    [
        ("discrete", [0, 2], [[5], [7]]),
        ("multi-discrete", [[0, 0], [1, 2]], [[1, -4], [2, -2]]),
        ("bounded", [[-1.0, -1.0], [0.5, 0.0]], [[-2, 0], [1, 5]]),
        ("bounded", [[1.0, 1.0], [-7.0, 9.0]], [[2, 10], [-2, 10]]),
        ("unbounded", [[-30.0, 4.0], [0.0, 1e6]], [[-30, 4], [0, 1e6]]),
        ("matrix", [[-1.0, 0.0, 0.5, 9.0], [0.0] * 4], [[-3, 0, 1.5, 3], [0] * 4]),
        ("bits", [[1, 0, 0, 1], [0] * 4], [[1, 0, 0, 1], [0] * 4]),
    ],
)
def test_actions_are_converted_for_the_environment(kind, chosen, received):
    """Actions are converted to the environment's action space."""
    player = make_player("Echo-v0", kwargs={"kind": kind})
    action = np.array(chosen, np.int64 if "discrete" in kind else np.float32)
    with_constant_action(player, torch.from_numpy(action))
    rows = collect(player, 2)[1]
    assert rows["action"][0].tolist() == chosen  # stored as the agent chose it
    assert rows["obs"][1].tolist() == received
    assert rows["reward"][1].tolist() == [first for first, *_ in received]


@pytest.mark.parametrize("kind", Echo.SPACES)
@pytest.mark.parametrize("mode", ["explore", "greedy"])
def test_every_kind_of_action_space_works(kind, mode):
    """Every kind of action space works."""
    player = make_player("Echo-v0", kwargs={"kind": kind})
    info, _ = player.collect(20, None, 0, mode)  # Echo raises for actions outside its space
    assert info.policy_steps == 40


@pytest.mark.parametrize("kind", ["discrete", "multi-discrete", "multi-binary"])
@pytest.mark.parametrize("mode", ["explore", "greedy"])
def test_players_honour_action_masks(kind, mode):
    """Players honour the masks of every kind of action; they are stored with the observation."""
    player = make_player("Masked-v0", kwargs={"kind": kind})
    _, fragment = player.collect(50, None, 0, mode)  # Masked raises for forbidden choices
    choices = {"discrete": 4, "multi-discrete": 5, "multi-binary": 6}[kind]
    assert fragment.rows["obs/action_mask"].shape == (51, 2, choices)


def test_a_scaled_action_stays_within_the_bounds():
    """A scaled action stays within the bounds."""
    space = gymnasium.spaces.Box(np.array([-0.3], np.float32), np.array([0.7], np.float32))
    transform = ActionTransform(space)
    for action in (-1.0, 1.0):
        assert space.contains(transform(np.array([[action]], np.float32))[0])


def test_random_actions_are_uniform_within_the_bounds():
    """Random actions are uniform within the environment's bounds."""
    player = make_player("Echo-v0", algo="sac", num_envs=1, kwargs={"kind": "bounded"})
    _, rows = collect(player, 2000, "random")
    received = rows["obs"][1:, 0]
    assert received.mean(0) == pytest.approx([0, 5], abs=0.2)
    assert received.std(0) == pytest.approx([4 / 12**0.5, 10 / 12**0.5], rel=0.05)


# -------------------------------------------------------------------------------------------------- failures


@pytest.mark.filterwarnings("ignore:.*ERROR")  # async workers log their failure
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("where", "after", "expected"),
    [
        ("reset", 0, "reset: RuntimeError: broken reset"),
        ("step", 0, "step 1: RuntimeError: broken step"),
        ("step", 5, "step 7: RuntimeError: broken step"),  # the fourth call of step resets
        ("reset", 1, "step 4: RuntimeError: broken reset"),
    ],
)
def test_a_failing_environment_is_named(vectorization, where, after, expected):
    """The error names environment, player and step."""
    kwargs = {"where": where, "after": after, "lengths": [3]}
    player = make_player("Raising-v0", number=4, vectorization=vectorization, kwargs=kwargs)
    with pytest.raises(EnvFailedError) as caught:
        for _ in range(3):
            collect(player, 4)
    assert str(caught.value).startswith(f"tests.helpers.envs:Raising-v0 of player 4 raised in {expected}")
    if vectorization == "sync":  # a worker process reports no place
        assert re.search(r"\(\S+/tests/helpers/envs.py:\d+\)$", str(caught.value))
    assert "Traceback" in caught.value.trace and f"broken {where}" in caught.value.trace
    assert caught.value.advice == (
        "check the environment with sheeprl check-env tests.helpers.envs:Raising-v0 "
        f"'env.kwargs={{after: {after}, lengths: [3], where: {where}}}'"
    )
    player.close()


def test_the_error_of_an_evaluation_names_it():
    """The error of a failed evaluation says so."""
    player = make_player("Raising-v0", kwargs={"where": "step", "after": 1})
    with pytest.raises(EnvFailedError, match="player 0 raised in evaluation: RuntimeError: broken step"):
        player.evaluate(to_arrays(player.policy), 2)


def test_same_step_reset_is_rejected():
    """A native vector environment with same-step reset is rejected."""
    config = resolved("SameStep-v0").config.env.model_copy(update={"vectorization": "native"})
    with pytest.raises(EnvSettingsError, match=r"SAME_STEP.*use sync or async"):
        make_vector_env(config)


def test_other_observations_of_a_native_vector_are_rejected():
    """A native vector environment with other observations is rejected."""
    with pytest.raises(
        ConfigError, match=r"native: tests\.helpers\.envs:Other-v0 has observations Box.*\(7,\).*use sync or async"
    ):
        resolved("Other-v0", vectorization="native")


# --------------------------------------------------------------------------------------- results of odd types

VECTORIZATIONS = pytest.mark.parametrize("vectorization", ["sync", "async", "native"])


@VECTORIZATIONS
@pytest.mark.parametrize(("result", "kind"), [("reward", "array"), ("terminated", "tensor"), ("truncated", "list")])
def test_one_number_of_any_type_is_accepted(vectorization, result, kind):
    """A reward or flag of any numeric type is accepted."""
    plain = with_constant_action(make_player(kwargs={"lengths": [3]}, vectorization=vectorization), 0)
    odd = with_constant_action(
        make_player("Odd-v0", kwargs={"lengths": [3], "result": result, "kind": kind}, vectorization=vectorization), 0
    )
    weights = {name: np.zeros_like(values) for name, values in to_arrays(odd.policy).items()}
    expected, found = collect(plain, 8)[1], collect(odd, 8)[1]
    assert {name: rows.tolist() for name, rows in found.items()} == {n: rows.tolist() for n, rows in expected.items()}
    assert odd.evaluate(weights, 2).returns == [6.0, 6.0]
    plain.close()
    odd.close()


@pytest.mark.filterwarnings("ignore:.*ERROR")  # async workers say that they failed
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("env_id", "kwargs", "said"),
    [
        ("Odd-v0", {"result": "reward", "kind": "text"}, "step 1: the reward is '1.0' (str), not one number"),
        ("Odd-v0", {"result": "reward", "kind": "none"}, "step 1: the reward is None (NoneType), not one number"),
        (
            "Odd-v0",
            {"result": "terminated", "kind": "text", "since": 2},
            "step 2: terminated is 'False' (str), not",
        ),
        ("Odd-v0", {"result": "truncated", "kind": "pair"}, "(ndarray), not one boolean"),
        ("Odd-v0", {"result": "obs", "kind": "text", "since": 2}, "(str), which isn't in Box"),
        (
            "Odd-v0",
            {"result": "obs", "kind": "column", "since": 2},
            "the observation has the shape (3, 1), which",
        ),
        ("Choosing-v0", {"leaves_at": 2}, "step 2: the observation is 9, which isn't in Discrete(9)"),
        ("Choosing-v0", {"leaves_at": 0, "kind": "dict"}, "reset: the observation['phase'] is 9, which isn't in"),
        (
            "Choosing-v0",
            {"leaves_at": 2, "kind": "multi-discrete"},
            "step 2: the observation contains 9, which",
        ),
    ],
)
def test_an_unreadable_result_is_named_with_its_environment(vectorization, env_id, kwargs, said):
    """The error for an unreadable result names the environment."""
    player = with_constant_action(make_player(env_id, vectorization=vectorization, kwargs=kwargs), 0)
    with pytest.raises(EnvFailedError) as caught:
        collect(player, 4)
    assert str(caught.value).startswith(f"tests.helpers.envs:{env_id} of player 0, ") and said in str(caught.value)
    with pytest.raises(EnvFailedError, match=rf"{env_id} of player 0, evaluation: "):
        player.evaluate(to_arrays(player.policy), 1)
    player.close()


def test_a_native_vector_is_checked_too():
    """The results of a native vector environment are checked too."""
    player = make_player("Odd-v0", vectorization="native", kwargs={"result": "reward", "kind": "pair"})
    with pytest.raises(EnvFailedError, match=r"step 1: the reward is array\(\[.*not one number"):
        collect(player, 1)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("kind", ["growing", "changing"])
def test_no_info_ends_a_run(vectorization, kind):
    """An unreadable info doesn't end a run."""
    # Steps that the environments take at different times, so that their infos differ within a step.
    kwargs = {"result": "info", "kind": kind, "since": 1, "lengths": []}
    player = make_player("Odd-v0", num_envs=3, vectorization=vectorization, kwargs=kwargs)
    assert len(collect(player, 9)[0].returns) > 3
    player.close()


@VECTORIZATIONS
def test_the_numbers_in_an_episodes_last_info_come_with_its_return(vectorization):
    """The numbers of an episode's last info are part of the fragment's statistics."""
    kwargs = {"result": "info", "kind": "numbers", "lengths": [2, 3]}
    player = make_player("Odd-v0", num_envs=2, vectorization=vectorization, kwargs=kwargs)
    infos = [collect(player, rows)[0] for rows in (2, 1, 3, 1)]
    assert [info.lengths for info in infos] == [(2, 2), (), (3, 3), ()]
    expected = [{"success": [0, 0], "inner/distance": [2, 2]}, {}, {"success": [1, 1], "inner/distance": [3, 3]}, {}]
    assert [info.episode_numbers for info in infos] == expected
    player.close()


LIVES = "tests.helpers.wrapped_envs:EndsEarly"


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("statistics", ["episode_statistics", "RecordEpisodeStatistics"])
def test_the_statistics_of_an_episode_replace_the_sum_of_its_rewards(vectorization, statistics):
    """Episode statistics replace the sum of the rewards."""
    settings = {"wrappers": [statistics, LIVES, "clip_reward"], "kwargs": {"lengths": [4]}}
    player = with_constant_action(make_player("Counting-v0", num_envs=2, vectorization=vectorization, **settings), 0)
    infos, rows = zip(*(collect(player, count) for count in (3, 3, 6)), strict=True)
    # 1 + 2 + 3 + 4 points; the second of the four steps loses a life, so an episode takes 4 steps and 2 resets.
    assert [info.returns for info in infos] == [(), (10.0, 10.0), (10.0, 10.0)]
    assert [info.lengths for info in infos] == [(), (4, 4), (4, 4)]
    assert all(not info.episode_numbers for info in infos)
    assert set(rows[0]["reward"][1:, 0]) == {0.0, 1.0}
    assert rows[0]["terminated"][:, 0].tolist() == [False, False, True, False]
    evaluation = player.evaluate(to_arrays(player.policy), 3)
    assert evaluation.returns == [10.0] * 3 and evaluation.lengths == [4] * 3
    player.close()


def test_an_evaluation_that_is_cut_has_the_true_return():
    """The return of a cut evaluation has no clipped rewards."""
    wrappers = ["episode_statistics", "clip_reward"]
    settings = {"wrappers": wrappers, "kwargs": {"lengths": [9]}}
    player = with_constant_action(make_player("Counting-v0", **settings), 0)
    player.config = player.config.model_copy(update={"eval": player.config.eval.model_copy(update={"step_limit": 3})})
    evaluation = player.evaluate(to_arrays(player.policy), 2)
    assert evaluation.returns == [6.0, 6.0] and evaluation.cut == 2
    player.close()


@pytest.mark.parametrize("kind", ["discrete", "multi-discrete", "equal", "dict"])
def test_choices_can_be_observed(kind):
    """Discrete observations are stored as numbers."""
    player = make_player("Choosing-v0", kwargs={"kind": kind, "lengths": [3]})
    rows = collect(player, 5)[1]
    shown = rows["obs/phase" if kind == "dict" else "obs"]
    assert shown.reshape(6, 2, -1)[:, 0, 0].tolist() == [0, 1, 2, 3, 0, 1]
    player.close()


# ------------------------------------------------------------------------------------------------ evaluation


def test_evaluation_does_not_change_collection():
    """An evaluation doesn't change the collected rows."""

    def play(evaluate):
        """Return two fragments, with or without an evaluation in between."""
        player = make_player(num_envs=2, kwargs={"lengths": [4]})
        first = collect(player, 3)[1]
        if evaluate:
            weights = {name: np.ones_like(values) for name, values in to_arrays(player.policy).items()}
            player.evaluate(weights, 3)
        second = collect(player, 5)[1]
        player.close()
        return [rows[name].tolist() for rows in (first, second) for name in rows]

    assert play(evaluate=True) == play(evaluate=False)


def test_evaluation_uses_the_given_weights():
    """An evaluation uses the given weights."""
    player = make_player(kwargs={"lengths": [2]})
    weights = {name: np.zeros_like(values) for name, values in to_arrays(player.policy).items()}
    weights["network.2.bias"][1] = 1.0  # always action 1
    evaluation = player.evaluate(weights, 3)
    assert evaluation.returns == [203, 203, 203] and evaluation.lengths == [2, 2, 2]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda output: output.action, r"returned Tensor; return a sheeprl.algos.base.PolicyOutput"),
        (
            lambda output: replace(output, action=output.action[:1]),
            r"returned action of shape \[1\]; return \[2\], for 2 environments with the actions Discrete\(2\)",
        ),
        (
            lambda output: replace(output, extras={"value": torch.zeros(3)}),
            r"returned extras\['value'\] of shape \[3\]; return \[2\], for 2 environments$",
        ),
        (lambda output: {}["camera"], r"raised KeyError: 'camera' \(\S+test_player.py:\d+\)$"),
    ],
)
def test_a_wrong_result_of_act_is_final(change, expected):
    """A replacement of the player would fail in the same way."""
    player = make_player("CartPole-v1")
    act = player.algorithm.act
    player.algorithm.act = lambda *args: change(act(*args))
    with pytest.raises(AlgorithmError, match=r"^PPO.act\(\) " + expected) as raised:
        collect(player, 4)
    assert raised.value.is_final
    player.close()


def test_a_policy_knows_the_numbers_of_its_environments():
    """A policy's input counts the environments of all players."""
    found = resolved("Counting-v0", num_envs=2)
    config = found.config.model_copy(update={"players": found.config.players.model_copy(update={"num": 3})})
    player = Player(config, found.spaces, number=2)
    act, seen = player.algorithm.act, []

    def recorded(policy, inputs, *others):
        """Record the input."""
        seen.append((inputs.first_env, inputs.num_envs, inputs.place.tolist()))
        return act(policy, inputs, *others)

    player.algorithm.act = recorded
    collect(player, 1)
    player.close()
    assert seen[0][:2] == (4, 6) and seen[0][2] == pytest.approx([0.8, 1.0])


def test_a_player_sends_initial_priorities(player):
    """With prioritized sampling, the algorithm gets the whole fragment and may return its priorities."""
    player._is_prioritized, seen = True, []

    def initial_priority(policy, rows):
        """Return twice the rewards, once."""
        seen.append({name: tuple(values.shape) for name, values in rows.items()})
        return 2 * rows["reward"][1:] if len(seen) == 1 else None

    player.algorithm.initial_priority = initial_priority
    _, rows = collect(player, 3)
    assert rows["priority"].tolist() == [*(2 * rows["reward"][1:]).tolist(), [0.0, 0.0]]
    assert seen[0]["obs"][:2] == seen[0]["reward"] == (4, 2) and set(seen[0]) == set(rows) - {"priority"}
    assert "priority" not in collect(player, 3)[1]
    player.algorithm.initial_priority = lambda policy, rows: rows["reward"]
    with pytest.raises(
        AlgorithmError, match=r"initial_priority\(\) returned a tensor of shape \[4, 2\]; return \[3, 2\]"
    ):
        collect(player, 3)
