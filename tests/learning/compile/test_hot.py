"""Test the compilation of hot functions."""

import pytest
import torch

from sheeprl.config import defaults
from sheeprl.learning.compile.hot import COMPILING, HotFunctions


class Ranks:
    """Two ranks, of which the other one may fail to compile."""

    rank, world = 0, 2

    def __init__(self, failures=0.0):
        """Store the failures of the other rank."""
        self.failures = failures

    def sum(self, value):
        """Return the sum with the other rank's value."""
        return value + self.failures


def scaled(x, y):
    """Return a product and a sum."""
    return [x @ y, x + 1.0]


def conditional(x, y):
    """Return a result that depends on a value, which can't be traced."""
    return [x if x.sum() > 0 else y]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Use an empty cache."""
    monkeypatch.setenv("SHEEPRL_CACHE", str(tmp_path))


def test_a_function_that_cannot_be_compiled_is_noted_once():
    """The caller takes its steps without the compiled function."""
    functions, examples = HotFunctions(Ranks()), [torch.ones(2, 2)] * 2
    assert functions(conditional, examples) is functions(conditional, examples) is None
    (note,) = functions.notes
    assert note.startswith("conditional isn't compiled: ")


@pytest.mark.slow
@pytest.mark.skipif(not defaults.has_compiler(), reason="there is no C++ compiler")
def test_compiled_functions_are_cached_by_shape():
    """The compiled function equals its origin, and a later run loads it."""
    functions, shown = HotFunctions(Ranks()), []
    functions.on_compile = shown.append
    examples = [torch.randn(3, 4), torch.randn(4, 5)]
    library = functions(scaled, examples)
    torch.testing.assert_close(list(library(list(examples))), scaled(*examples))
    assert functions(scaled, [torch.randn(3, 4), torch.randn(4, 5)]) is library
    assert shown == [COMPILING] and functions.notes[0].startswith("compiled scaled in ") and functions.seconds > 0
    later = HotFunctions(Ranks())
    torch.testing.assert_close(list(later(scaled, examples)(list(examples))), scaled(*examples))
    assert not later.notes
    assert HotFunctions(Ranks(failures=1.0))(scaled, examples) is None
