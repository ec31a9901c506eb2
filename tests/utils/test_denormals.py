"""Test the flushing of denormal numbers."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sheeprl.utils.denormals import flushed_denormals

DENORMAL = 1e-40


def is_kept(values: torch.Tensor) -> bool:
    """Return True if a product of denormals isn't zero in any element."""
    return bool((values * 0.5).view(torch.int32).all())  # a comparison of floats could flush its inputs


def test_denormals_are_flushed_in_the_block_only() -> None:
    """A denormal is zero in the block, and not after it, also after an error."""
    values = torch.full((16,), DENORMAL)
    with pytest.raises(ValueError, match="in between"), flushed_denormals():
        assert not (values * 0.5).view(torch.int32).any()
        raise ValueError("in between")
    assert is_kept(values)


def test_threads_flush_denormals_too() -> None:
    """Threads started by `start_flushing_threads` flush denormals."""
    program = (
        "import torch\n"
        "from sheeprl.utils.denormals import flushed_denormals, start_flushing_threads\n"
        "torch.set_num_threads(2)\n"
        "start_flushing_threads(2)\n"
        "values = torch.full((1 << 20,), 1e-40)\n"
        "with flushed_denormals(): product = values * 0.5\n"
        "assert not product.view(torch.int32).any()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
