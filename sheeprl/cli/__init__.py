"""Command line: convert words to a tree of settings, run a command, and return an exit code.

Help must be fast. Therefore this package doesn't import torch, Ray and gymnasium; the called functions do.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # type checkers know this name; the module typing is slow to import
if TYPE_CHECKING:
    from typing import NoReturn

__all__ = ["main"]

ENDED_BY_SIGNAL = 128  # plus the number of the signal
INTERRUPTED = 130  # 128 + SIGINT; the module signal is slow to import


def main(args: list[str] | None = None) -> None:
    """Run the command line; the entry point of the console script.

    Args:
        args: the words after `sheeprl`; by default those of this process.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        # The imports are here, so that Ctrl-C during an import is handled.
        words = sys.argv[1:] if args is None else args
        if words in ([], ["-h"], ["--help"], ["help"]) and "_SHEEPRL_COMPLETE" not in os.environ:
            from sheeprl.cli.overview import print_overview  # much faster to import than the commands
            from sheeprl.utils.output import lasting_output

            with lasting_output():
                print_overview()
            raise SystemExit(0)
        from sheeprl.cli import entry

        entry.main(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        _exit(INTERRUPTED, args)
    except SystemExit as error:
        _exit(error.code, args)


def _exit(code: object, args: list[str] | None) -> NoReturn:
    """Exit. If a signal ended the program, ignore further ones: they would kill Python while it ends."""
    if args is None and isinstance(code, int) and code > ENDED_BY_SIGNAL:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(code) from None
