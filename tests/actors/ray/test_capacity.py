"""Test the comparison of actors' shapes with single nodes, and of labels with selectors."""

import pytest

from sheeprl.actors.ray.capacity import Node, Shape, describe_shortage, matches, placeable

SMALL, LARGE = Node({"CPU": 2.0}, {"CPU": 2.0}), Node({"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0}, {"market": "spot"})


def test_actors_are_placed_on_single_nodes():
    """A shape that fits the sum of the nodes but no node finds no room; spread shapes use a node each."""
    player = Shape("player", {"CPU": 3}, 2, "players.cpus=3")
    assert placeable([player], [SMALL] * 4) == [0]
    assert placeable([player], [SMALL, LARGE]) == [2]
    assert placeable([Shape("node", {"CPU": 1}, 3, "", spread=True)], [SMALL, LARGE]) == [2]
    assert placeable([Shape("rank", {"CPU": 8}, 1, ""), player], [LARGE]) == [1, 0]
    assert placeable([Shape("player", {"CPU": 1}, 9, "", selectors=[{"market": "spot"}])], [SMALL, LARGE]) == [8]
    assert placeable([Shape("player", {"CPU": 1}, 9, "", selectors=[{"market": "spot"}, {}])], [SMALL, LARGE]) == [9]


def test_a_shortage_names_the_shape_and_the_largest_node():
    """The description names the shape that no node can hold, or the number that find room."""
    player = Shape("player", {"CPU": 3, "GPU": 0}, 3, "players.cpus=3")
    assert describe_shortage([player], [LARGE, LARGE]) is None
    nowhere = describe_shortage([player], [SMALL] * 4)
    assert nowhere == "no node can hold a player of 3 CPUs (players.cpus=3): the largest has 2 CPUs, 0 GPUs"
    assert describe_shortage([player], [LARGE]) == "there is room for 2 of 3 players of 3 CPUs (players.cpus=3)"
    labelled = Shape("player", {"CPU": 1}, 1, "players.label_selector={'zone': 'a'}", selectors=[{"zone": "a"}])
    assert describe_shortage([labelled], [SMALL, LARGE]) == (
        "no node has the labels of a player (players.label_selector={'zone': 'a'})"
    )


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({}, True),
        ({"market": "spot"}, True),
        ({"market": "!spot"}, False),
        ({"market": "in(spot, reserved)", "zone": "a"}, True),
        ({"market": "!in(spot,reserved)"}, False),
        ({"kind": "gpu"}, False),
        ({"kind": "!gpu"}, True),
    ],
)
def test_labels_match_ray_s_selectors(selector, expected):
    """A node matches a selector by Ray's rules."""
    assert matches({"market": "spot", "zone": "a"}, selector) == expected
