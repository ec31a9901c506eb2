"""Hot functions: pure functions of tensors that a loss calls many times, such as the step of an unroll.

A gradient step with an unroll has too many operations to be compiled as a whole. A learner that compiles gradient steps
then compiles the hot functions by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

HotFunction = Callable[..., list[Tensor]]
"""Function of tensors; it must be equal, with an equal hash, in every gradient step, so that it is compiled once."""
Compiled = Callable[[list[Tensor]], Sequence[Tensor]]
"""Compiled function of a list of tensors; it empties the list."""
Compiler = Callable[[HotFunction, Sequence[Tensor]], "Compiled | None"]
"""Function from a hot function and example inputs to the compiled function; None if it can't be compiled."""

_compiler: ContextVar[Compiler | None] = ContextVar("compiler", default=None)


@contextmanager
def hot_functions(compiler: Compiler | None) -> Iterator[None]:
    """Make a compiler the one of `compiled` within the context; None for none."""
    token = _compiler.set(compiler)
    try:
        yield
    finally:
        _compiler.reset(token)


def compiled(function: HotFunction, examples: Sequence[Tensor]) -> Compiled | None:
    """Return the compiled function for inputs of the examples' shapes and strides; None if nothing compiles it.

    In mixed precision nothing does: the dtypes of the results would depend on the context of the call.
    """
    compiler = _compiler.get()
    if compiler is None or torch.is_autocast_enabled(examples[0].device.type):
        return None
    return compiler(function, examples)
