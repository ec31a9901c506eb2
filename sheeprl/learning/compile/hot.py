"""Compile the hot functions of losses that are too large to be compiled as a whole; see `sheeprl.models.hot`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from sheeprl.learning.compile.allreduce import Library
from sheeprl.learning.compile.cpu import cache_folder, make_cache_folder, open_library, quiet
from sheeprl.learning.compile.tracing import DECOMPOSITIONS
from sheeprl.models.hot import HotFunction
from sheeprl.models.ranks import Ranks
from sheeprl.utils.errors import one_line
from sheeprl.utils.gc_control import not_collected

COMPILING = "compiling a part of the gradient step, which takes about 20 s; later runs load it from the cache"


class HotFunctions:
    """Compiled hot functions of a run, by function and shapes. All ranks compile a function or none does.

    Args:
        ranks: ranks of the trainer.
    """

    def __init__(self, ranks: Ranks) -> None:
        """Start without compiled functions."""
        self.ranks = ranks
        self.seconds = 0.0  # total time spent on compiling and loading
        self.notes: list[str] = []  # messages for the log of the run
        self.on_compile: Callable[[str], None] = lambda text: None  # shows a message before a function is compiled
        self.while_compiling: Callable[[], AbstractContextManager[None]] = nullcontext
        self._libraries: dict[tuple[Any, ...], Library | None] = {}

    def __call__(self, function: HotFunction, examples: Sequence[Tensor]) -> Library | None:
        """Return the compiled function; compile it or load it from the cache at the first call.

        Args:
            function: function of tensors.
            examples: inputs of the shapes, strides and dtypes of all calls.

        Returns:
            The compiled function of a list of tensors; None if it can't be compiled on all ranks.
        """
        key = (function, *((values.shape, values.stride(), values.dtype) for values in examples))
        if key not in self._libraries:
            self._libraries[key] = self._compile(function, [values.detach() for values in examples])
        return self._libraries[key]

    def _compile(self, function: HotFunction, examples: list[Tensor]) -> Library | None:
        """Compile a function or load it from the cache, and note the result for the log."""
        name = getattr(function, "__qualname__", type(function).__name__)
        started, library = time.perf_counter(), None
        try:
            make_cache_folder()
            with self.while_compiling(), quiet(), not_collected(), torch.no_grad():
                graph = make_fx(function, DECOMPOSITIONS, tracing_mode="fake")(*examples)
                library, is_new = open_library(graph, examples, cache_folder(), lambda: self.on_compile(COMPILING))
            if is_new:
                seconds = time.perf_counter() - started
                self.notes.append(f"compiled {name} in {seconds:.0f} s; cached in {cache_folder()}")
        except Exception as error:  # tracer and compiler can raise any error
            self.notes.append(f"{name} isn't compiled: {one_line(error)[:300]}")
        failures = self.ranks.sum(torch.tensor(float(library is None)))
        self.seconds += time.perf_counter() - started
        return None if failures > 0 else library
