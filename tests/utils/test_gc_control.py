"""Test the control of the garbage collector."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from sheeprl.utils.gc_control import not_collected


def test_collection_is_enabled_after_the_block() -> None:
    """Collection is enabled again after the block, also after an error."""
    assert gc.isenabled()
    with pytest.raises(ValueError, match="in between"), not_collected():
        assert not gc.isenabled()
        raise ValueError("in between")
    assert gc.isenabled()


def test_disabled_collection_stays_disabled() -> None:
    """Disabled collection stays disabled."""
    gc.disable()
    try:
        with not_collected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_nothing_is_collected_at_exit() -> None:
    """No objects are collected at exit."""
    program = (
        "import gc, sheeprl.utils.gc_control as garbage\n"
        "class Noticed:\n"
        "    def __del__(self): print('collected', flush=True)\n"
        "def make():\n"
        "    ring = Noticed(); ring.me = ring\n"
        "if {leaving}: garbage.leave_to_the_end()\n"
        "make()\n"
    )
    for leaving, printed in ((True, ""), (False, "collected\n")):
        command = [sys.executable, "-c", program.format(leaving=leaving)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == printed


def test_objects_are_frozen_only_after_imports() -> None:
    """Objects are frozen only if modules were imported."""
    program = (
        "import gc\n"
        "from sheeprl.utils.gc_control import importing\n"
        "with importing(): pass\n"
        "print(gc.get_freeze_count(), end=' ')\n"
        "with importing(): import colorsys\n"
        "print(gc.get_freeze_count() > 1000, gc.isenabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0 True True\n"


@pytest.mark.parametrize("leaving", [True, False])
def test_triton_does_not_report_what_is_left_to_the_end(leaving: bool) -> None:
    """Triton doesn't report the objects that remain at the end of the process."""
    program = (
        "import atexit, gc, os, sys, sheeprl.utils.gc_control as garbage\n"
        "sys.modules['triton._C.libtriton'] = sys\n"
        "def report(): os.write(2, b'leaked!') if gc.get_freeze_count() else None\n"
        "atexit.register(report)\n"
        f"if {leaving}: garbage.leave_to_the_end()\n"
        "with garbage.importing(): import colorsys\n"
        "os.write(2, b'seen;')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "seen;"
