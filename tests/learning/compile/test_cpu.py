import logging
import warnings

import pytest
import torch
from torch import _inductor as inductor
from torch.fx.experimental.proxy_tensor import make_fx

from sheeprl.config import defaults
from sheeprl.learning.compile import cpu
from sheeprl.models import noise


def test_settings_that_torch_does_not_have_are_left_out():
    """Settings that torch doesn't have are omitted."""
    wanted = {"pattern_matcher": False, "cpp.vec_isa_ok": True, "cpp.removed_in_2099": True, "removed.group": False}
    known = cpu._known(wanted)
    assert known == {"pattern_matcher": False, "cpp.vec_isa_ok": True}
    with inductor.config.patch(known):
        assert inductor.config.pattern_matcher is False


def test_the_compiler_logs_nothing_within_quiet(caplog):
    """The compiler logs nothing within `quiet`, and logs again after it."""
    loggers = [logging.getLogger(name) for name in ("torch._inductor", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    with cpu.quiet(), warnings.catch_warnings(record=True) as caught:
        for logger in loggers:
            logger.warning("not heard")
    assert (caplog.text, caught) == ("", [])
    assert [logger.level for logger in loggers] == levels


@pytest.mark.slow
@pytest.mark.skipif(not defaults.has_compiler(), reason="there is no C++ compiler")
def test_a_library_draws_the_bits_of_the_stateless_generator(tmp_path):
    """A compiled library draws the eager bits, also where the compiler could assume that no integer overflows."""

    def draw(x, seed):
        """Return numbers of two places, and a tensor with dropout."""
        return [noise.uniform(seed, 3, (33,)), noise.uniform(seed, 4, (33,)), noise.dropout(x, 0.5, seed, 5)]

    seeds = [noise.seeds(torch.Size([19]), torch.Generator().manual_seed(number)) for number in range(2)]
    x = torch.rand(19, 64)
    graph, calls = make_fx(draw, tracing_mode="fake")(x, seeds[0]), []
    for _ in range(2):  # only the first one compiles
        library, is_new = cpu.open_library(graph, [x, seeds[0]], tmp_path, lambda: calls.append("compiled"))
    assert (calls, is_new) == (["compiled"], False)
    for found, expected in zip(library([x, seeds[1]]), draw(x, seeds[1]), strict=True):
        assert torch.equal(found, expected)
