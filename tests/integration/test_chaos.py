"""Half a minute of a real run in which one process of each role is killed: nothing is lost, doubled or miscounted."""

import random

import pytest

from benchmarks.cases.chaos_checks import Verdict
from benchmarks.chaos import PARTS, ROLES, play_short


@pytest.mark.slow
def test_one_of_each_role_is_killed(tmp_path):
    verdict = play_short(random.SystemRandom().randrange(2**16), tmp_path)
    assert not verdict.wrong
    assert verdict.figures["kills"] == dict.fromkeys(ROLES, 1)
    assert verdict.figures["rows"] == verdict.figures["rows played"] >= 8000
    assert set(ROLES) <= set(PARTS["sac"].roles)


def test_what_differs_is_wrong():
    verdict = Verdict()
    verdict.expect("rows", 3, 3)
    verdict.expect("rows lacking in between", 1, 0)
    assert verdict.wrong == ["rows lacking in between: 1, should be 0"]
