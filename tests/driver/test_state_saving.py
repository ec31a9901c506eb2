"""Test after which fragments players return their state."""

import pytest

from sheeprl.actors.messages import FragmentInfo
from sheeprl.driver.state_saving import MOST_REPEATED, StateSaving

MB = 10**6


def info(seconds=1.0, state=None, state_seconds=0.0, unsaved=""):
    """Return the statistics of a fragment, with a state of so many bytes."""
    data = None if state is None else bytes(state)
    return FragmentInfo(0, 1, 1, (), (), seconds, data, unsaved, state_seconds=state_seconds)


def measured(saving, **settings):
    """Return the messages of four states of the last player."""
    return [text for _ in range(4) if (text := saving.note(saving.players - 1, info(**settings)))]


def test_only_the_last_player_returns_its_state_at_first():
    """One player finds out if its environments can be saved."""
    saving = StateSaving(3, 0.02)
    assert [saving.wants(number, 0) for number in range(3)] == [False, False, True]
    saving.note(2, info(state=10))
    assert all(saving.wants(number, 0) for number in range(3))


@pytest.mark.parametrize(
    ("settings", "interval"),
    [({"state": 10}, 1), ({"state": 10, "state_seconds": 0.05}, 3), ({"state": 10 * MB}, 5)],
)
def test_saving_takes_a_part_of_the_time(settings, interval):
    """The time of a state, or of its bytes, is at most a fiftieth of the fragments' between two states."""
    saving = StateSaving(1, 0.02)
    often = "every fragment" if interval == 1 else f"every {interval} fragments"
    (message,) = measured(saving, **settings)
    assert message.startswith("a lost player continues its episodes: ") and message.endswith(often)
    assert saving.interval == interval
    assert saving.wants(0, interval - 1) and (interval == 1 or not saving.wants(0, interval - 2))


def test_a_state_that_costs_too_much_is_not_saved():
    """The message names the setting that saves it."""
    saving = StateSaving(1, 0.02)
    (message,) = measured(saving, state=10, state_seconds=6.4)
    assert message == (
        "a lost player starts new episodes: saving a player's state takes 6.4 s, a fragment 1 s "
        "(players.state_cost=0.02); players.state_cost=0.11 saves it"
    )
    assert not saving.wants(0, 1000) and not saving.can_save(0)
    assert "continues" in measured(StateSaving(1, 0.11), state=10, state_seconds=6.4)[0]


def test_the_networks_limit_the_repeated_fragments():
    """The weights of the repeated fragments have to fit into the object store."""
    saving = StateSaving(1, 0.02)
    saving.limit(0)
    assert saving.most == MOST_REPEATED
    saving.limit(10 * 2**20)
    assert saving.most == 25
    saving.limit(2**40)
    assert saving.most == 1


def test_the_states_of_many_players_may_be_too_large():
    """States that take more than 512 MiB aren't saved."""
    saving = StateSaving(1000, 0.02)
    (message,) = measured(saving, state=MB, seconds=1000.0)
    assert message == "a lost player starts new episodes: the states of 1,000 players take 976.6 KiB each"


def test_players_whose_environments_cannot_be_saved():
    """One player may record its episodes; if the last one can't be saved, none can."""
    saving = StateSaving(2, 0.02)
    saving.note(0, info(state=10, unsaved="episodes are recorded"))
    assert [saving.can_save(number) for number in range(2)] == [False, True]
    saving.note(1, info(state=10, unsaved="it has hidden state"))
    assert not saving.can_save(1) and saving.why_not == "it has hidden state"


def test_nothing_is_saved_at_no_cost():
    """players.state_cost=0 saves nothing."""
    saving = StateSaving(1, 0.0)
    assert not saving.wants(0, 0) and not measured(saving, state=10)
