"""Find rewards and observations that are not finite."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sheeprl.buffer.memmap import Array


def why_not_finite(fragment: Mapping[str, Array]) -> str | None:
    """Return name, value and place of the first reward or observation that isn't finite, None if all are."""
    for name, values in fragment.items():
        if name.partition("/")[0] in ("obs", "reward") and (found := _find_non_finite(values)) is not None:
            index, value = found
            place = f" in row {index[0]} of environment {index[1]}" if len(index) > 1 else ""
            return f"{name} is {value}{place}"
    return None


def _find_non_finite(values: Array) -> tuple[tuple[int, ...], float] | None:
    """Return index and value of the first number that is infinite or NaN, None if there is none."""
    if values.dtype.names:  # a dtype that NumPy does not have, such as bfloat16
        from sheeprl.buffer.tensordicts import to_tensor

        tensor = to_tensor(values)
        indices = np.argwhere(~tensor.isfinite().numpy())
        return (tuple(indices[0].tolist()), tensor[tuple(indices[0])].item()) if len(indices) else None
    if values.dtype.kind not in "fc":
        return None
    indices = np.argwhere(~np.isfinite(values))
    return (tuple(indices[0].tolist()), values[tuple(indices[0])].item()) if len(indices) else None
