"""Command line: convert words to a tree of settings, run a command, and return an exit code.

Help must be fast. Therefore this package doesn't import torch, Ray and gymnasium; the called functions do.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

INTERRUPTED = 130  # 128 + SIGINT; the module signal is slow to import


def main(args: list[str] | None = None) -> None:
    """Run the command line; the entry point of the console script.

    Args:
        args: the words after `sheeprl`; by default those of this process.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        from sheeprl.cli import entry  # here, so that Ctrl-C during the import is handled

        entry.main(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
