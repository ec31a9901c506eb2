"""The process-wide random generators of Python, NumPy and Torch, from which some environments draw.

Each player swaps its own generators in while it plays. Its draws don't depend on other code in the process, and its
snapshot includes them.

Torch is imported inside functions because the driver makes an environment without needing Torch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.random import mtrand


def seed_all(seed: int) -> None:
    """Seed the process's generators."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def capture() -> dict[str, Any]:
    """Return the state of the process's generators as plain data."""
    import torch

    return {"python": random.getstate(), "numpy": np.random.get_state(legacy=False), "torch": torch.get_rng_state()}


def restore(state: dict[str, Any]) -> None:
    """Set the state of the process's generators."""
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])


@contextmanager
def preserved() -> Iterator[None]:
    """Restore the process's generators at the end of the block."""
    before = capture()
    try:
        yield
    finally:
        restore(before)


class OwnGenerators:
    """A private set of generators that can replace the process's.

    Args:
        seed: seed of all three generators.
    """

    def __init__(self, seed: int) -> None:
        """Seed the generators."""
        import torch

        self._python = random.Random(seed).getstate()
        self._numpy = np.random.MT19937(seed)
        self._torch = torch.Generator().manual_seed(seed).get_state()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Replace the process's generators by these within the block."""
        import torch

        others = random.getstate(), mtrand.get_bit_generator(), torch.get_rng_state()
        random.setstate(self._python)
        mtrand.set_bit_generator(self._numpy)  # by reference: copying a NumPy state is slow
        torch.set_rng_state(self._torch)
        try:
            yield
        finally:
            self._python, self._torch = random.getstate(), torch.get_rng_state()
            random.setstate(others[0])
            mtrand.set_bit_generator(others[1])
            torch.set_rng_state(others[2])

    @property
    def state(self) -> dict[str, Any]:
        """State of the generators as plain data."""
        return {"python": self._python, "numpy": self._numpy.state, "torch": self._torch}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        """Set the state of the generators."""
        self._python, self._numpy.state, self._torch = state["python"], state["numpy"], state["torch"]
