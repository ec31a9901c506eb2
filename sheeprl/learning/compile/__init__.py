"""Compiled gradient steps. The learner uses them through `cache.CompiledSteps`.

A gradient step of small networks is hundreds of operations of a few microseconds each. Python and PyTorch's dispatcher
take longer to start them than they take to run. One compiled graph removes most of this overhead. In order:

1. The learner takes the first step eagerly, because torch's optimizers create their state in it.
2. `cache` looks the next step up by its phases and its tensors' shapes. A known step continues at 6.
3. `tracing` runs `GradientStep.take` on fake tensors and records all of its operations as one FX graph.
4. `allreduce` cuts the graph at every sum over ranks, because such a sum can't run inside of a library.
5. Each part becomes a library. On the CPU, `cpu` computes a fingerprint of the graph and loads the file of this name
   from the cache folder; only if there is none, it compiles and stores one. On CUDA, `cuda_graph` does the same with
   Inductor's cache of kernels.
6. `tracing` runs the libraries on parameters, optimizer state and batch. On CUDA the first run captures a CUDA graph,
   which later runs launch. The step changes parameters and state in place.
7. `cache.CompiledSteps.settle` checks at the end of the update that all gradients were finite, and returns the metrics.

If a step can't be compiled, `cache` raises a `CompileError`. The learner then logs the reason and takes steps of this
variant eagerly; if no variant was compiled before, it takes all steps eagerly.
"""
