"""A gradient step on a CUDA device: kernels that Inductor makes, recorded once and started together from then on.

A step of small networks is some hundred kernels of a few microseconds each, fewer than it takes to start one of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch import _inductor as inductor
from torch.fx import GraphModule

from sheeprl.learning.parts import Library

WARM_UPS = 3  # steps before recording: kernels are loaded, and libraries choose theirs, when they are first called


def open_kernels(graph: GraphModule, examples: Sequence[Tensor], folder: Path) -> tuple[Library, bool]:
    """What carries out a graph on the device of its inputs, and whether it had to be made.

    Inductor keeps what it has made in its own way: in the folder, unless the user has told it where.
    """
    # Parts of torch that may be elsewhere in another version: then steps aren't compiled, and that is said.
    from torch._dynamo.utils import counters
    from torch._guards import TracingContext, tracing
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    if os.environ.get("TORCHINDUCTOR_CACHE_DIR") in (None, default_cache_dir()):  # which importing it has set
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "torch")
    missed = counters["inductor"]["fxgraph_cache_miss"]
    with tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv()))):  # it looks up graphs with one of those only
        run = inductor.compile(graph, list(examples))

    def library(tensors: list[Tensor]) -> list[Tensor]:
        return list(run(*tensors))

    return library, counters["inductor"]["fxgraph_cache_miss"] > missed


class Recorded:
    """A library's kernels as one CUDA graph.

    Args:
        library: only asks for work on the device, of which it waits for nothing.
        kept: tensors that it changes in place; the first that it is given, always the same ones.
    """

    def __init__(self, library: Library, kept: Sequence[Tensor]) -> None:
        self.library, self.kept = library, list(kept)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: list[Tensor] = []
        self._last: list[Tensor] = []  # what was given and copied
        self._results: list[Tensor] = []

    def __call__(self, given: Sequence[Tensor]) -> list[Tensor]:
        """Call the library with what it keeps and what it is given."""
        if self._graph is None:
            self._graph = self._record(given)
        self._take_over(given)
        self._graph.replay()
        return [values.clone() for values in self._results]  # the next replay writes to the same places

    def _take_over(self, given: Sequence[Tensor]) -> None:
        """Copy what is given to where the kernels read it; a rollout is the same for many steps."""
        new = [
            number for number, (values, last) in enumerate(zip(given, self._last, strict=True)) if values is not last
        ]
        if new:
            torch._foreach_copy_([self._given[number] for number in new], [given[number] for number in new])
        self._last = list(given)

    def _record(self, given: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
        """Record the kernels, which doesn't carry them out."""
        self._given = [values.clone() for values in given]
        self._last = list(given)
        aside, here = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                self.library([values.clone() for values in self.kept] + self._given)
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads of this process may use the device meanwhile, for transfers.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._results = self.library(self.kept + self._given)
        return graph
