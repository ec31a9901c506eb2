"""Compile a graph into CUDA kernels, capture them as one CUDA graph and launch it for each step.

A step that is too large to be compiled is captured as it runs eagerly.

A step of small networks is some hundred kernels of a few microseconds each, and the CPU needs longer to launch a kernel
than the device to run it. A CUDA graph launches all of them by one call. It reads from and writes to fixed addresses:

1. `open_kernels` compiles the graph by Inductor or loads it from Inductor's cache.
2. `CudaGraphLibrary.capture` allocates tensors for the inputs and captures the kernels on them (`CapturedGraph`).
3. Each call copies its inputs to these tensors and launches the graph. `InputTransfer` copies inputs from the CPU
   asynchronously, so the CPU prepares the next steps while the device runs this one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch import _inductor as inductor
from torch.fx import GraphModule

from sheeprl.learning.compile.allreduce import Library

ALIGNMENT = 16  # bytes, which Inductor's kernels require of their inputs
STAGING_BUFFERS = 8  # transfers that can be in progress while the CPU prepares further steps
WARM_UP_RUNS = 3  # before capturing: on their first runs, kernels are loaded and libraries select algorithms


def open_kernels(
    graph: GraphModule, examples: Sequence[Tensor], folder: Path, on_compile: Callable[[], None] = lambda: None
) -> tuple[Library, bool]:
    """Compile a graph for the device of its inputs, or load its kernels from Inductor's cache.

    Args:
        graph: traced graph.
        examples: inputs of the shapes, strides and dtypes of later calls.
        folder: cache folder, unless `TORCHINDUCTOR_CACHE_DIR` names another one.
        on_compile: called before; only Inductor knows if its cache has the kernels.

    Returns:
        The library, and True if it was compiled.
    """
    # These modules are private to torch. If another version has moved them, the error disables compilation.
    from torch._dynamo.utils import counters
    from torch._guards import TracingContext, tracing
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    if os.environ.get("TORCHINDUCTOR_CACHE_DIR") in (None, default_cache_dir()):  # importing Inductor sets the default
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "torch")
    on_compile()
    misses = counters["inductor"]["fxgraph_cache_miss"]
    with tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv()))):  # Inductor's cache needs a shape environment
        run = inductor.compile(graph, list(examples))

    def library(tensors: list[Tensor]) -> list[Tensor]:
        """Run the kernels."""
        return list(run(*tensors))

    return library, counters["inductor"]["fxgraph_cache_miss"] > misses


class CudaGraphLibrary:
    """Library whose kernels are captured as a CUDA graph once and launched on every call.

    Args:
        library: compiled graph, or an eager function. It must not wait for the device.
        state: tensors that the library changes in place; its first inputs, the same ones in every call.
    """

    def __init__(self, library: Library, state: Sequence[Tensor]) -> None:
        """Store library and state; nothing is captured yet."""
        self.library, self.state = library, list(state)
        self._captured: CapturedGraph | None = None

    def capture(self, inputs: Sequence[Tensor]) -> CapturedGraph:
        """Return the captured kernels; the first call captures them, for inputs on these devices."""
        if self._captured is None:
            self._captured = CapturedGraph(self.library, self.state, inputs)
        return self._captured

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run the library on its state and on inputs, which may be on the CPU."""
        return self.capture(inputs).launch(inputs)


class CapturedGraph:
    """Captured kernels, and the device memory from which they read their inputs.

    Args:
        library: compiled graph or eager function to capture.
        state: tensors that the library changes in place.
        inputs: inputs of the first launch.
    """

    def __init__(self, library: Library, state: list[Tensor], inputs: Sequence[Tensor]) -> None:
        """Allocate memory for the inputs and capture the kernels; the state doesn't change."""
        device = state[0].device
        self._from_cpu = [number for number, values in enumerate(inputs) if values.device != device]
        self._on_device = [number for number, values in enumerate(inputs) if values.device == device]
        self._transfer = InputTransfer([inputs[number] for number in self._from_cpu], device)
        self._copies = [inputs[number].clone() for number in self._on_device]
        # A reference to an input is safe here: tensors on the device are never in Ray's object store.
        self._last = [inputs[number] for number in self._on_device]
        static = list(inputs)
        for numbers, tensors in ((self._from_cpu, self._transfer.received), (self._on_device, self._copies)):
            for number, values in zip(numbers, tensors, strict=True):
                static[number] = values
        self._transfer.send([inputs[number] for number in self._from_cpu])
        side_stream, stream = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
        side_stream.wait_stream(stream)
        with torch.cuda.stream(side_stream):
            for _ in range(WARM_UP_RUNS):
                library([values.clone() for values in state] + static)
        stream.wait_stream(side_stream)
        self._graph = torch.cuda.CUDAGraph()
        # "thread_local" permits other threads of this process to use the device, for transfers. Capturing runs nothing.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = library(state + static)

    def launch(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Copy the inputs to the captured addresses, launch the graph and return its outputs."""
        self._transfer.send([inputs[number] for number in self._from_cpu])
        on_device = [inputs[number] for number in self._on_device]
        changed = [place for place, last in enumerate(self._last) if on_device[place] is not last]
        if changed:  # many minibatches share the tensors of one rollout
            torch._foreach_copy_([self._copies[place] for place in changed], [on_device[place] for place in changed])
            self._last = on_device
        self._graph.replay()
        return [values.clone() for values in self._outputs]  # the next launch overwrites the outputs


class InputTransfer:
    """Asynchronous transfer of tensors from the CPU to fixed memory on the device.

    The tensors are packed into one pinned staging buffer and sent by one copy. Several buffers take turns, so the CPU
    waits only if the oldest of their transfers is unfinished.

    Args:
        like: tensors with the shapes and dtypes of all transfers.
        device: CUDA device.
    """

    def __init__(self, like: Sequence[Tensor], device: torch.device) -> None:
        """Allocate device memory and staging buffers."""
        sizes = [math.ceil(values.nbytes / ALIGNMENT) * ALIGNMENT for values in like]
        self._device_memory = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        self.received = _views(self._device_memory, sizes, like)
        self._buffers = [self._staging_buffer(sizes, like) for _ in range(STAGING_BUFFERS)]
        self._next = 0

    def _staging_buffer(
        self, sizes: Sequence[int], like: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor], torch.cuda.Event]:
        """Return pinned memory, views of it for the tensors, and the event that its last transfer records."""
        memory = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True)
        return memory, _views(memory, sizes, like), torch.cuda.Event()  # type: ignore[no-untyped-call]

    def send(self, tensors: Sequence[Tensor]) -> None:
        """Start the transfer of tensors to `received`."""
        if not tensors:
            return
        memory, views, done = self._buffers[self._next]
        self._next = (self._next + 1) % STAGING_BUFFERS
        done.synchronize()
        torch._foreach_copy_(views, list(tensors))
        self._device_memory.copy_(memory, non_blocking=True)
        done.record()


def _views(memory: Tensor, sizes: Sequence[int], like: Sequence[Tensor]) -> list[Tensor]:
    """Return views of bytes of memory with the shapes and dtypes of tensors.

    Args:
        memory: `[sum(sizes)]` uint8.
        sizes: bytes reserved for each tensor.
        like: tensors with the shapes and dtypes.
    """
    parts = torch.split(memory, list(sizes))
    return [
        part[: values.nbytes].view(values.dtype).view(values.shape) for part, values in zip(parts, like, strict=True)
    ]
