"""Command line: convert words to a tree of settings, run a command, and return an exit code.

Help must be fast. Therefore this package doesn't import torch, Ray and gymnasium; the called functions do.
"""

from sheeprl.cli.entry import main
from sheeprl.cli.flags import flags_of

__all__ = ["flags_of", "main"]
