"""Test results of environments: they are converted if their value is clear, else refused."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sheeprl.envs.results import ResultError, episode_numbers, observation_check, split_statistics, to_flag, to_number

ONES = [1, 1.0, True, np.int8(1), np.float16(1), np.longdouble(1), np.bool_(True), np.array(1.0), np.array([[1]])]
ONES += [[1.0], (True,), [np.array([1])], torch.tensor(1.0), torch.tensor([1]), torch.ones(1, requires_grad=True)]
NO_NUMBERS = [None, "1.0", np.str_("1"), b"1", [], [1, 2], np.array([1.0, 2.0]), torch.zeros(0), 1j, np.array([1j])]
NO_NUMBERS += [{"r": 1.0}, object(), np.array("1"), np.datetime64(1, "s"), float]


@pytest.mark.parametrize("value", ONES, ids=repr)
def test_one_number_of_any_type(value):
    """A number of any type is converted."""
    number, flag = to_number(value, "the reward"), to_flag(value, "terminated")
    assert type(number) is float and number == 1.0
    assert flag is True


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: type(value).__name__)
def test_other_values_than_one_number_are_refused(value):
    """Other values than one number are refused with their type."""
    kind = type(value).__name__
    with pytest.raises(ResultError, match=rf"^the reward is .*\({kind}\), not one number; convert it in a wrapper"):
        to_number(value, "the reward")
    with pytest.raises(ResultError, match=rf"^truncated is .*\({kind}\), not one boolean; convert it in a wrapper"):
        to_flag(value, "truncated")


@pytest.mark.parametrize("value", [0.5, 2, -1, np.nan, [2]])
def test_a_flag_is_true_or_false(value):
    """A flag that is neither true nor false is refused."""
    with pytest.raises(ResultError, match="not one boolean"):
        to_flag(value, "terminated")


def test_rewards_that_are_not_finite_stay_so():
    """Infinite rewards are returned unchanged; a number too large for a float is refused."""
    assert np.isnan(to_number(np.float32("nan"), "the reward"))
    with pytest.raises(ResultError, match="not one number"):
        to_number(10**400, "the reward")


def test_a_message_is_one_short_line():
    """The message is one short line."""
    with pytest.raises(ResultError) as caught:
        to_number(np.arange(10_000).reshape(100, 100), "the reward")
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- observations

BYTES = spaces.Box(0, 255, (3,), np.uint8)
FLOATS = spaces.Box(-1.0, 1.0, (3,), np.float32)


@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (FLOATS, np.zeros(3, np.float64)),
        (FLOATS, np.full(3, 7.0)),  # outside: the bounds of many environments are approximate
        (FLOATS, [0.1, 0.2, 0.3]),
        (FLOATS, torch.zeros(3, requires_grad=True)),
        (FLOATS, np.arange(3)),
        (BYTES, np.array([0, 200, 255])),
        (BYTES, np.array([0.0, 200.0, 255.0])),
        (BYTES, [True, False, True]),
        (spaces.Box(0, 1, (2,), np.bool_), np.array([0, 1])),
        (spaces.Box(0.0, 1.0, (), np.float32), np.array([0.5])),
        (spaces.Box(0.0, 1.0, (1,), np.float32), 0.5),
        (spaces.Discrete(4), 3),
        (spaces.Discrete(4), np.int32(3)),
        (spaces.Discrete(4), np.array([3])),
        (spaces.Discrete(4), 3.0),
        (spaces.Discrete(4, dtype=np.int32), torch.tensor([3])),
        (spaces.Discrete(2), True),
        (spaces.Discrete(4, start=-2), -2),
        (spaces.MultiDiscrete([2, 3], start=[1, -1]), [2, 1]),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), np.array([[1, 2], [3, 4]], np.int8)),
        (spaces.MultiBinary(3), np.array([True, False, True])),
    ],
    ids=str,
)
def test_observations_get_the_shape_and_dtype_of_their_space(space, obs):
    """Observations get the shape and dtype of their space."""
    checked = observation_check(space)(obs)
    before = obs.detach().numpy() if isinstance(obs, torch.Tensor) else np.asarray(obs)
    assert np.shape(checked) == space.shape
    assert isinstance(checked, int) or checked.dtype == space.dtype
    assert np.ravel(checked).astype(np.float64) == pytest.approx(before.ravel().astype(np.float64))


def test_an_observation_that_fits_is_returned_unchanged():
    """An observation that fits its space is returned unchanged."""
    for space in (FLOATS, BYTES, spaces.MultiDiscrete([2, 3]), spaces.Dict({"a": FLOATS, "b": spaces.Discrete(2)})):
        obs = space.sample()
        assert observation_check(space)(obs) is obs


@pytest.mark.parametrize(
    ("space", "obs", "said"),
    [
        (BYTES, np.array([0, 12.5, 3]), "contains 12.5 (float64), which uint8 can't represent; declare a space of"),
        (BYTES, np.array([0, 256, 3]), "contains 256 (int64), which uint8 can't represent"),
        (BYTES, np.array([0, -1, 3]), "contains -1 (int64), which uint8 can't represent"),
        (BYTES, np.array([0, np.nan, 3]), "contains nan (float64), which uint8 can't represent"),
        (spaces.Box(0, 1, (2,), np.bool_), np.array([0, 2]), "contains 2 (int64), which bool can't represent"),
        (FLOATS, np.zeros((3, 1)), "has the shape (3, 1), which isn't that of Box(-1.0, 1.0, (3,), float32)"),
        (FLOATS, 0.5, "has the shape (), which"),
        (FLOATS, ["a", "b", "c"], "is ['a', 'b', 'c'] (list), which isn't in Box"),
        (FLOATS, [[1.0], [1.0, 2.0]], "(list), which isn't in Box"),
        (FLOATS, None, "is None (NoneType), which isn't in Box"),
        (FLOATS, np.zeros(3, np.complex64), "which isn't in Box"),
        (spaces.Discrete(4), 4, "is 4, which isn't in Discrete(4)"),
        (spaces.Discrete(4), -1, "is -1, which isn't in Discrete(4)"),
        (spaces.Discrete(4), np.int64(4), "is 4, which isn't in Discrete(4)"),
        (spaces.Discrete(4), np.array([4]), "is 4, which isn't in Discrete(4)"),
        (spaces.Discrete(4), 1.5, "contains 1.5 (float64), which int64 can't represent"),
        (spaces.Discrete(4, start=2), 1, "is 1, which isn't in Discrete(4, start=2)"),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 3]), "contains 3, which isn't in MultiDiscrete([2 3])"),
        (spaces.MultiBinary(2), np.array([1, 2], np.int8), "contains 2, which isn't in MultiBinary(2)"),
    ],
    ids=str,
)
def test_observations_that_do_not_fit_are_named_with_their_space(space, obs, said):
    """The error for an observation outside its space names the space."""
    with pytest.raises(ResultError) as caught:
        observation_check(space)(obs)
    assert str(caught.value).startswith("the observation ") and said in str(caught.value)


def test_parts_of_a_dict_are_named_by_their_keys():
    """The error names the part of a dict by its keys."""
    space = spaces.Dict({"a": FLOATS, "inner": spaces.Dict({"phase": spaces.Discrete(3)})})
    check = observation_check(space)
    converted = check({"a": [0, 1, 0], "inner": {"phase": np.array([2])}, "unused": None})
    assert converted["a"].dtype == np.float32 and converted["inner"]["phase"] == 2
    for obs, said in (
        (
            {"a": np.zeros(3, np.float32), "inner": {"phase": 3}},
            "the observation['inner']['phase'] is 3, which isn't in",
        ),
        ({"a": np.zeros(3, np.float32), "inner": 1}, "the observation['inner'] is 1 (int), not a dict with the keys"),
        ({"a": np.zeros(3, np.float32)}, "the observation has no key 'inner', which its space has"),
    ):
        with pytest.raises(ResultError) as caught:
            check(obs)
        assert said in str(caught.value)


def test_observations_of_a_vector_have_a_batch_axis():
    """Observations of a vector environment have a batch axis."""
    check = observation_check(spaces.Discrete(3, start=1), (2,))
    assert check(np.array([1.0, 3.0])).dtype == np.int64
    with pytest.raises(ResultError, match=r"contains 4, which isn't in Discrete\(3, start=1\)"):
        check(np.array([1, 4]))


# ----------------------------------------------------------------------------------------------------- infos


class Hostile(dict):
    """Raises at every use."""

    def items(self):
        """Raise an error."""
        raise RuntimeError("no")


RECURSIVE = {"a": 1}
RECURSIVE["self"] = RECURSIVE


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (
            {"success": True, "x": np.float32(0.5), "n": 3, "one": np.array([2])},
            {"success": 1, "x": 0.5, "n": 3, "one": 2},
        ),
        ({"t": torch.tensor(2.0), "f": Fraction(1, 2), "big": 10**30}, {"t": 2, "f": 0.5, "big": 1e30}),
        ({"text": "a", "none": None, "mask": np.zeros(3), "huge": 10**400, "nan": np.nan, "inf": -np.inf}, {}),
        ({"episode": {"r": 1.5, "deeper": {"l": 7}}}, {"episode/r": 1.5, "episode/deeper/l": 7}),
        ({1: 2, (1, 2): 3, None: 4, "": 5, "a\nb": 6, "\ud800": 7}, {"1": 2}),
        ({"_x": 1.0, "x": "mine"}, {"_x": 1}),
        (Hostile(a=1), {}),
        (None, {}),
        ([1], {}),
    ],
)
def test_the_finite_numbers_of_an_info(info, expected):
    """Only finite numbers of an info are returned."""
    assert dict(episode_numbers(info)) == expected


def test_statistics_are_separated_from_the_other_numbers():
    """Episode statistics are separated from the other numbers."""
    pairs = episode_numbers({"episode": {"r": 2.5, "l": 7, "t": 0.1}, "success": True}, has_statistics=True)
    assert split_statistics(pairs) == ((2.5, 7), {"success": 1.0})
    assert split_statistics(episode_numbers({"success": True})) == (None, {"success": 1.0})
    (own, others) = split_statistics(episode_numbers({"lives": 2}, has_statistics=True))
    assert np.isnan(own[0]) and others == {}


def test_an_info_that_contains_itself():
    """An info that contains itself is read up to a limit."""
    assert dict(episode_numbers(RECURSIVE))["a"] == 1
