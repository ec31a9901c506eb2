"""Looks for numbers that aren't finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def find_non_finite(values: npt.NDArray[Any]) -> tuple[tuple[int, ...], float] | None:
    """Where the first number stands that is infinite or not a number, and which of these it is."""
    if values.dtype.names:  # of a dtype that NumPy lacks
        from sheeprl.buffer.tensordicts import to_tensor

        tensor = to_tensor(values)
        where = np.argwhere(~tensor.isfinite().numpy())
        return (tuple(where[0].tolist()), tensor[tuple(where[0])].item()) if len(where) else None
    if values.dtype.kind not in "fc":
        return None
    where = np.argwhere(~np.isfinite(values))
    return (tuple(where[0].tolist()), values[tuple(where[0])].item()) if len(where) else None
