"""A gradient step on a CUDA device: kernels that Inductor makes, recorded once and started together from then on.

A step of small networks is some hundred kernels of a few microseconds each, less than it takes to start one of them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch import _inductor as inductor
from torch.fx import GraphModule

from sheeprl.learning.compile.allreduce import Library

ALIGNMENT = 16  # bytes, as Inductor's kernels expect of their inputs
PARCELS = 8  # transfers that may be under way while the next steps are prepared
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
        self._recording: Recording | None = None

    def __call__(self, given: Sequence[Tensor]) -> list[Tensor]:
        """Call the library with what it keeps and what it is given, some of it on the CPU."""
        if self._recording is None:
            self._recording = Recording(self.library, self.kept, given)
        return self._recording.replay(given)


class Recording:
    """Kernels, and where they read what each replay is given.

    Args:
        library: what is recorded.
        kept: tensors that it changes in place.
        given: of the first replay.
    """

    def __init__(self, library: Library, kept: list[Tensor], given: Sequence[Tensor]) -> None:
        device = kept[0].device
        self._sent = [number for number, values in enumerate(given) if values.device != device]
        self._copied = [number for number, values in enumerate(given) if values.device == device]
        self._mail = Mail([given[number] for number in self._sent], device)
        self._copies = [given[number].clone() for number in self._copied]
        self._last = [given[number] for number in self._copied]  # never what lies in the object store
        inputs = list(given)
        for numbers, tensors in ((self._sent, self._mail.arrived), (self._copied, self._copies)):
            for number, values in zip(numbers, tensors, strict=True):
                inputs[number] = values
        self._mail.send([given[number] for number in self._sent])
        aside, here = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                library([values.clone() for values in kept] + inputs)
        here.wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads of this process may use the device meanwhile, for transfers. Recorded kernels aren't run.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._results = library(kept + inputs)

    def replay(self, given: Sequence[Tensor]) -> list[Tensor]:
        """Run the kernels."""
        self._mail.send([given[number] for number in self._sent])
        there = [given[number] for number in self._copied]
        new = [place for place, last in enumerate(self._last) if there[place] is not last]
        if new:  # a rollout is the same for many steps
            torch._foreach_copy_([self._copies[place] for place in new], [there[place] for place in new])
            self._last = there
        self._graph.replay()
        return [values.clone() for values in self._results]  # the next replay writes to the same places


class Mail:
    """Tensors on the CPU on their way to the device, always to the same places there: as one transfer, not waited for.

    Args:
        like: tensors of the same shapes.
        device: a CUDA device.
    """

    def __init__(self, like: Sequence[Tensor], device: torch.device) -> None:
        sizes = [math.ceil(values.nbytes / ALIGNMENT) * ALIGNMENT for values in like]
        self._there = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        self.arrived = _places(self._there, sizes, like)
        self._parcels = [self._parcel(sizes, like) for _ in range(PARCELS)]
        self._turn = 0

    def _parcel(self, sizes: Sequence[int], like: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], torch.cuda.Event]:
        """Memory that a transfer is from, places in it, and what tells when it is done."""
        here = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True)
        return here, _places(here, sizes, like), torch.cuda.Event()  # type: ignore[no-untyped-call]

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Begin the transfer."""
        if not tensors:
            return
        here, places, done = self._parcels[self._turn]
        self._turn = (self._turn + 1) % PARCELS
        done.synchronize()
        torch._foreach_copy_(places, list(tensors))
        self._there.copy_(here, non_blocking=True)
        done.record()


def _places(memory: Tensor, sizes: Sequence[int], like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors like those, one after the other in bytes of memory."""
    parts = torch.split(memory, list(sizes))
    return [
        part[: values.nbytes].view(values.dtype).view(values.shape) for part, values in zip(parts, like, strict=True)
    ]
