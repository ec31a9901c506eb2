import logging
import warnings

from torch import _inductor as inductor

from sheeprl.learning.compile import cpu


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
