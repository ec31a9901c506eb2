"""Test how many hosts a run wants."""

import random
from itertools import pairwise

import pytest

from sheeprl.actors.demand import GIVE_BACK_AFTER, GROW_AFTER, Demand

HOUR = 3600.0


class Cluster:
    """Cluster in which the trainers wait for a part of the time that depends on the hosts.

    Args:
        least: fewest hosts.
        most: most hosts.
    """

    def __init__(self, least, most):
        """Start at time 0 with the fewest hosts."""
        self.demand, self.now, self.waited, self.there = Demand(least, most), 0.0, 0.0, least
        self.room = most
        self.changes = []  # time and number

    def pass_time(self, seconds, needed):
        """Advance the time while `needed` hosts are enough; others come within a minute if there is room."""
        for _ in range(int(seconds)):
            self.now += 1.0
            self.waited += max(0.0, 1.0 - self.there / needed)
            before = self.demand.wanted
            wanted = self.demand.update(self.now, self.waited, self.there)
            if wanted != before:
                self.changes.append((self.now, wanted))
            self.there = min(self.there, wanted, self.room)
            if self.there < min(wanted, self.room) and self.now % 60 == 0:
                self.there += 1


def test_hosts_that_bring_nothing_are_given_back_after_minutes():
    """A run at its bottleneck of trainers gives back the pending hosts first, then some at a time."""
    cluster = Cluster(2, 16)
    cluster.room = 8
    cluster.pass_time(GIVE_BACK_AFTER + 10, needed=1)
    assert cluster.demand.wanted == cluster.there < 8  # without those that have not come yet
    cluster = Cluster(2, 16)
    cluster.there = 16
    cluster.pass_time(GIVE_BACK_AFTER - 1, needed=1)
    assert cluster.demand.wanted == 16
    cluster.pass_time(10 * HOUR, needed=1)
    assert cluster.demand.wanted == 2 and len(cluster.changes) == 13
    assert all(later[0] - earlier[0] >= GIVE_BACK_AFTER for earlier, later in pairwise(cluster.changes))


def test_hosts_are_wanted_once_the_trainers_wait():
    """A run whose trainers wait for players wants more hosts, an eighth at a time."""
    cluster = Cluster(2, 16)
    cluster.demand.wanted = 2
    cluster.pass_time(GROW_AFTER - 1, needed=100)
    assert cluster.demand.wanted == 2
    cluster.pass_time(HOUR, needed=100)
    assert cluster.demand.wanted == 16


def test_a_number_between_the_thresholds_does_not_change():
    """While the trainers wait neither little nor much, the number stays."""
    cluster = Cluster(2, 16)
    cluster.demand.wanted = cluster.there = 9
    cluster.pass_time(4 * HOUR, needed=10)
    assert not cluster.changes


@pytest.mark.parametrize("seed", range(3))
def test_a_day_of_spot_prices_and_bounds_shows_no_flapping(seed):
    """Over a day in which hosts come and go and the bottleneck changes, the number seldom changes its direction."""
    rng, cluster = random.Random(seed), Cluster(2, 32)
    for _ in range(24):
        cluster.room = rng.choice([4, 16, 32])  # by the prices
        cluster.there = min(cluster.there, cluster.room)
        cluster.pass_time(HOUR, needed=rng.choice([1, 3, 11, 40]))
    steps = [later[1] - earlier[1] for earlier, later in pairwise([(0.0, 32), *cluster.changes])]
    turns = [
        cluster.changes[place + 1][0] - cluster.changes[place][0]
        for place, (one, other) in enumerate(pairwise(steps))
        if one < 0 < other or other < 0 < one
    ]
    assert len(turns) <= 2 * 24
    assert min(turns, default=GIVE_BACK_AFTER) >= GROW_AFTER


def test_a_need_between_two_numbers_does_not_swing():
    """If one host less makes the trainers wait much, the number settles: its returns become rare."""
    cluster = Cluster(1, 2)
    cluster.there = 2
    cluster.pass_time(24 * HOUR, needed=1.9)
    assert len(cluster.changes) <= 24
