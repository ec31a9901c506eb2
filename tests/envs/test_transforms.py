"""Test the conversion of the agent's actions for the environment."""

import numpy as np
import pytest
from gymnasium import spaces

from sheeprl.envs.transforms import ActionTransform, Spaces, action_choices, action_space, pixel_keys, vector_size

INT64, UINT64 = np.iinfo(np.int64), np.iinfo(np.uint64)
WHOLE = [
    spaces.Box(0, 10, (1,), np.int64),
    spaces.Box(-3, 3, (1,), np.int8),
    spaces.Box(-128, 127, (1,), np.int8),
    spaces.Box(0, 255, (1,), np.uint8),
    spaces.Box(0, 1, (1,), np.bool_),
    spaces.Box(2, 4, (), np.int32),
    spaces.Box(7, 7, (1,), np.int16),
    spaces.Box(2**62, 2**62 + 4, (1,), np.int64),
    spaces.Box(UINT64.max - 4, UINT64.max, (1,), np.uint64),
]
WIDE = [
    spaces.Box(INT64.min, INT64.max, (1,), np.int64),
    spaces.Box(0, UINT64.max, (1,), np.uint64),
    spaces.Box(-np.inf, np.inf, (1,), np.int64),
    spaces.Box(np.array([-5.0]), np.array([np.inf]), (1,), np.int32),
    spaces.Box(-np.finfo(np.float64).max, np.finfo(np.float64).max, (1,), np.float64),
    spaces.Box(-2.0, 2.0, (1,), np.float16),
    spaces.Box(-0.3, 0.7, (1,), np.float32),
    spaces.Discrete(3, start=5, dtype=np.int32),
    spaces.Discrete(3, start=-1, dtype=np.int8),
    spaces.MultiDiscrete([2, 3], start=[1, -4], dtype=np.int16),
]


def played(space):
    """The environment's actions of a fine grid of the agent's, ends and beyond included."""
    if isinstance(space, spaces.Box):
        return ActionTransform(space)(np.append(np.linspace(-1, 1, 5001), [-1e30, 1e30])[:, None].astype(np.float32))
    choices = [[0, 0], [1, 2]] if isinstance(space, spaces.MultiDiscrete) else [0, 2]
    return ActionTransform(space)(np.array(choices))


@pytest.mark.parametrize("space", [*WHOLE, *WIDE], ids=str)
def test_every_action_is_in_the_space_and_of_its_dtype(space):
    """Every converted action is in the space and has its dtype."""
    actions = played(space)
    assert actions.dtype == space.dtype
    assert all(space.contains(np.asarray(action)) for action in actions)


@pytest.mark.parametrize("space", WHOLE, ids=str)
def test_uniform_actions_give_uniform_integers(space):
    """Uniform actions give every integer of the space equally often."""
    numbers, counts = np.unique(played(space), return_counts=True)
    assert [int(number) for number in numbers] == list(range(int(space.low.min()), int(space.high.max()) + 1))
    assert counts.max() - counts.min() <= 3  # the grid's rounding, and its two points beyond the ends


def test_whole_numbers_without_bounds_are_rounded():
    """Integer actions without bounds are rounded."""
    space = spaces.Box(-np.inf, np.inf, (4,), np.int64)
    assert ActionTransform(space)(np.array([[0.4, 0.6, -0.6, 7.0]], np.float32)).tolist() == [[0, 1, -1, 7]]


def test_each_dimension_has_its_own_bounds():
    """Each dimension is converted with its own bounds."""
    space = spaces.Box(np.array([0, -2]), np.array([1, 2]), (2,), np.int64)
    grid = np.repeat(np.linspace(-0.99, 0.99, 10, dtype=np.float32)[:, None], 2, 1)
    expected = [[0] * 5 + [1] * 5, [-2, -2, -1, -1, 0, 0, 1, 1, 2, 2]]
    assert ActionTransform(space)(grid).T.tolist() == expected


def test_bits_get_the_shape_and_dtype_of_the_space():
    """Agents see a flat MultiBinary; the environment gets its own shape."""
    space = spaces.MultiBinary((2, 3))
    assert action_space(space) == spaces.MultiBinary(6)
    bits = np.array([[1, 0, 0, 1, 1, 0]], np.int8)
    action = ActionTransform(space)(bits)
    assert action.dtype == np.int8 and action.tolist() == [[[1, 0, 0], [1, 1, 0]]]
    assert space.contains(action[0])
    assert Spaces(spaces.Discrete(2), action_space(space)).action_kind == "multi-binary"


@pytest.mark.parametrize(
    ("space", "choices"),
    [
        (spaces.Discrete(3, start=2), [3]),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), [2, 3, 4, 5]),
        (spaces.MultiBinary(3), [2, 2, 2]),
        (spaces.Box(-1.0, 1.0, (2,)), []),
    ],
    ids=str,
)
def test_choices_of_an_action(space, choices):
    """Their sum is the length of an action mask."""
    assert action_choices(space) == choices


def test_an_action_mask_is_no_input():
    """It has no part in the vector and is no picture."""
    space = spaces.Dict({"action_mask": spaces.Box(0, 1, (2, 2), np.uint8), "state": spaces.Box(-1.0, 1.0, (3,))})
    assert vector_size(space) == 3 and pixel_keys(space) == []
