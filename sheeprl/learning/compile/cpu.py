"""Compile a graph into a shared library for the CPU, and cache libraries in a folder.

`open_library` computes the fingerprint of a graph, a hash of everything that its library depends on. If the folder has
a file of this name, it is loaded within milliseconds. If not, AOTInductor compiles the graph to C++ within about 20 s,
and the library is stored and loaded. All runs and all ranks of a machine share the folder, and never overwrite a file
by a partial one: a library is renamed into place when it is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import operator
import os
import platform
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import _inductor as inductor
from torch.export import ExportedProgram
from torch.fx import GraphModule

from sheeprl.learning.compile.allreduce import Library
from sheeprl.utils.folders import cache_root


def cache_folder() -> Path:
    """Return the folder of compiled libraries: below `SHEEPRL_CACHE` if set, else below the user's cache folder."""
    return cache_root() / "compiled"


def make_cache_folder() -> None:
    """Make the folder of the compiled libraries.

    Raises:
        RuntimeError: it can't be made.
    """
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # no home folder
        raise RuntimeError(
            f"their cache can't be made ({error}); set SHEEPRL_CACHE to a folder that can be written"
        ) from error


def open_library(
    graph: GraphModule, examples: Sequence[Tensor], folder: Path, on_compile: Callable[[], None] = lambda: None
) -> tuple[Library, bool]:
    """Load the library of a graph from the folder; compile it first if it is missing or damaged.

    Args:
        graph: traced graph.
        examples: inputs of the shapes, strides and dtypes of later calls.
        folder: cache folder.
        on_compile: called before the graph is compiled.

    Returns:
        The library, and True if it was compiled.
    """
    path = folder / f"{fingerprint(graph, examples)}.pt2"
    if path.exists():
        with contextlib.suppress(Exception):  # a truncated file can raise any error
            return load_library(path), False
    on_compile()
    compile_graph(graph, examples, path)
    return load_library(path), True


def fingerprint(graph: GraphModule, inputs: Sequence[Tensor]) -> str:
    """Return a hash of all that a library depends on.

    These are the operations and constants of the graph, the layout of its inputs, the version of torch, the number of
    threads and the processor.
    """
    parts = [graph.code, torch.__version__, torch.get_num_threads(), processor()]
    parts += [(value.shape, value.stride(), value.dtype, value.device) for value in inputs]
    digest = hashlib.sha256(repr(parts).encode())
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = operator.attrgetter(node.target)(graph)
            digest.update(f"{node.target} {value.dtype} {value.tolist()}".encode())
    return digest.hexdigest()[:32]


def processor() -> str:
    """Return a description of the processor's instruction set; several kinds of machines may share the folder."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        cpuinfo = ""
    flags = next((line for line in cpuinfo.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"


def compile_graph(graph: GraphModule, inputs: Sequence[Tensor], path: Path) -> None:
    """Compile a graph into a library at `path`. The file appears atomically, also if other processes write it too."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        program = torch.export.export(graph, tuple(inputs), strict=False)
        try:
            package = _package(program, Path(folder) / path.name, probe_cpu=False)
        except Exception:  # the compiler may not support the newest instructions of the processor
            package = _package(program, Path(folder) / path.name, probe_cpu=True)
        os.replace(package, path)


def _package(program: ExportedProgram, path: Path, probe_cpu: bool) -> str:
    """Compile a program into a package and return its path.

    Args:
        program: exported graph.
        path: file to write.
        probe_cpu: compile and run a test program for each vector instruction set, which takes 10 s. If False, trust
            the flags of the processor.
    """
    settings = {"pattern_matcher": False}  # it would undo `tracing.DECOMPOSITIONS`
    if not probe_cpu:
        settings["cpp.vec_isa_ok"] = True
    # Precompiling the headers takes longer than compiling a single library, and most runs need one.
    settings["aot_inductor.precompile_headers"] = False
    with inductor.config.patch(_known(settings)):
        return str(inductor.aoti_compile_and_package(program, package_path=str(path)))


def _known(settings: dict[str, bool]) -> dict[str, bool]:
    """Return the settings that this version of torch has; all of them only save time."""
    found = {}
    for name, value in settings.items():
        with contextlib.suppress(AttributeError):
            operator.attrgetter(name)(inductor.config)
            found[name] = value
    return found


def load_library(path: Path) -> Library:
    """Load a library from a file."""
    # Trust the processor's flags here too: probing it takes seconds.
    with removed_afterwards(), inductor.config.patch(_known({"cpp.vec_isa_ok": True})):
        loader = _loader(str(path))
    library: Library = loader.boxed_run if hasattr(loader, "boxed_run") else loader.run  # PyTorch 2.6 has `run` only
    return library


def _loader(path: str) -> Any:
    """Return PyTorch's loader of a package."""
    try:
        # `aoti_load_package` makes the same call, but imports the compiler first, which takes 20 times as long.
        return torch._C._aoti.AOTIModelPackageLoader(path, "model", False, 1, -1)
    except (AttributeError, TypeError):  # PyTorch 2.6 has another signature
        return inductor.aoti_load_package(path).loader


@contextlib.contextmanager
def removed_afterwards() -> Iterator[None]:
    """Remove the files that the loader unpacks. It removes them at exit only, so a killed process would leak them."""
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the log lines and warnings of the compiler."""
    # The second one warns on every machine without a GPU when torch is built for CUDA.
    loggers = [logging.getLogger(name) for name in ("torch._inductor", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
