"""Test the sum tree against NumPy's cumsum and searchsorted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sheeprl.buffer import sum_tree
from sheeprl.buffer.sum_tree import SumTree, even

TOPS = (2, 3, 4, 8)
SIZES = sorted({n for power in (1, 2, 4, 8, 16, 32, 64) for n in (power - 1, power, power + 1, power + 2)} - {0})


@pytest.fixture(autouse=True)
def top():
    """Restore the constant that tests set."""
    before = sum_tree.TOP
    yield
    sum_tree.TOP = before


def tree_of(weights, top):
    """Return a tree of weights with at most `top` nodes in its top level."""
    sum_tree.TOP = top
    leaves = np.zeros(even(len(weights)))
    leaves[: len(weights)] = weights
    return SumTree(leaves)


def check_sums(tree):
    """Assert that every node is the sum of its children."""
    below = tree.leaves
    for level in tree.levels:
        sums = below[0::2] + below[1::2]
        assert level[: len(sums)].tolist() == sums.tolist() and not level[len(sums) :].any()
        below = level


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(TOPS), st.sampled_from(SIZES), st.data())
def test_find_equals_searchsorted(top, size, data):
    """Test with integer weights, whose sums are exact."""
    weights = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    tree = tree_of(weights, top)
    for _ in range(data.draw(st.integers(0, 4))):
        leaves = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=10))  # may contain duplicates
        new = data.draw(st.lists(st.integers(0, 3), min_size=len(leaves), max_size=len(leaves)))
        tree.update(np.array(leaves), np.array(new, float))
        for leaf, weight in zip(leaves, new, strict=True):
            weights[leaf] = weight
    assert tree.leaves[:size].tolist() == weights
    assert tree.total == sum(weights)
    check_sums(tree)
    if tree.total:
        heights = np.arange(0, tree.total, 0.25)
        assert tree.find(heights).tolist() == np.cumsum(weights).searchsorted(heights, side="right").tolist()
        shuffled = np.random.default_rng(0).permutation(heights)
        assert tree.find(shuffled).tolist() == np.cumsum(weights).searchsorted(shuffled, side="right").tolist()


WEIGHT = st.one_of(st.just(0.0), st.floats(1e-6, 1e6), st.sampled_from([0.1, 0.2, 0.3, 1 / 3]))


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(TOPS), st.lists(WEIGHT, min_size=1, max_size=40).filter(any))
def test_find_never_returns_a_leaf_without_weight(top, weights):
    """Test heights at the borders of leaves, where rounding matters."""
    tree = tree_of(weights, top)
    borders = np.concatenate([np.cumsum(weights), np.cumsum(weights[::-1]), [0.0, tree.total]])
    heights = np.concatenate([np.nextafter(borders, -1), borders, np.nextafter(borders, np.inf)])
    heights = heights[heights >= 0]
    found = tree.find(heights)
    assert (tree.leaves[found] > 0).all()
    ends = np.cumsum(tree.leaves)
    slack = 1e-12 * tree.total
    assert (heights >= ends[found] - tree.leaves[found] - slack).all()
    assert ((heights <= ends[found] + slack) | (heights > ends[-1])).all()


@pytest.mark.parametrize("size", [4095, 4096, 4097, 8191, 8192, 8193, 10_001, 40_000])
def test_sizes_around_a_large_top_level(size):
    """Test sizes around powers of two with 4096 top nodes."""
    rng = np.random.default_rng(size)
    weights = rng.integers(0, 5, size).astype(float)
    tree = tree_of(weights, 4096)
    check_sums(tree)
    heights = np.sort(rng.random(2000)) * tree.total
    assert tree.find(heights).tolist() == weights.cumsum().searchsorted(heights, side="right").tolist()


@pytest.mark.parametrize("top", TOPS)
def test_sums_do_not_drift(top):
    """Test that weights of 0 give sums of exactly 0 after many updates."""
    rng = np.random.default_rng(1)
    tree = tree_of(rng.random(33), top)
    for _ in range(500):
        tree.update(rng.integers(33, size=7), rng.random(7) * 10.0 ** rng.integers(-6, 7, 7))
    tree.update(np.arange(33), np.zeros(33))
    assert tree.total == 0.0
    tree.update(np.array([32]), np.array([0.25]))
    assert tree.total == 0.25 and tree.find(np.array([0.1])).tolist() == [32]


def test_rebuild_gives_the_same_sums_as_update():
    """Test that both give bit-identical sums."""
    rng = np.random.default_rng(2)
    tree = tree_of(np.zeros(100), 4)
    for _ in range(50):
        tree.update(rng.integers(100, size=9), rng.random(9))
    again = tree_of(tree.leaves[:100].copy(), 4)
    assert again.total == tree.total
    for one, other in zip(tree.levels, again.levels, strict=True):
        assert one.tolist() == other.tolist()
