"""When Python looks for garbage, and when not."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from sheeprl.utils.gc_control import not_collected


def test_it_is_looked_for_again_afterwards_whatever_happened() -> None:
    assert gc.isenabled()
    with pytest.raises(ValueError, match="in between"), not_collected():
        assert not gc.isenabled()
        raise ValueError("in between")
    assert gc.isenabled()


def test_who_never_looks_is_left_alone() -> None:
    gc.disable()
    try:
        with not_collected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_process_leaves_everything_to_its_end() -> None:
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


def test_what_imports_make_is_never_looked_at_but_only_if_they_do() -> None:
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
