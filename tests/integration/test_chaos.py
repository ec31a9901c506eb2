"""Test a run in which one process of each role is killed: no row is lost, duplicated or miscounted."""

import random

import pytest

from benchmarks.cases.chaos_checks import Verdict
from benchmarks.chaos import PARTS, ROLES, run_short


@pytest.mark.slow
def test_one_of_each_role_is_killed(tmp_path):
    """The run survives the death of one process per role."""
    verdict = run_short(random.SystemRandom().randrange(2**16), tmp_path)
    assert not verdict.wrong
    assert verdict.figures["kills"] == dict.fromkeys(ROLES, 1)
    assert verdict.figures["rows"] == verdict.figures["rows played"] >= 8000
    assert set(ROLES) <= set(PARTS["sac"].roles)


def test_a_difference_is_detected():
    """The check detects a difference."""
    verdict = Verdict()
    verdict.expect("rows", 3, 3)
    verdict.expect("rows lacking in between", 1, 0)
    assert verdict.wrong == ["rows lacking in between: 1, should be 0"]
