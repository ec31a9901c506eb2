"""Shared libraries of compiled graphs for the CPU, kept in a folder that survives.

Whoever finds a library of the same operations in the folder loads it, which takes milliseconds instead of seconds.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import _inductor as inductor
from torch.export import ExportedProgram
from torch.fx import GraphModule

from sheeprl.learning.compile.allreduce import Library


def cache_folder() -> Path:
    """Where compiled libraries are kept: `SHEEPRL_CACHE`, or a folder of the user's."""
    root = (
        os.environ.get("SHEEPRL_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sheeprl"
    )
    return Path(root) / "compiled"


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


def open_library(graph: GraphModule, examples: Sequence[Tensor], folder: Path) -> tuple[Library, bool]:
    """The library of a graph, and whether it had to be made: it wasn't in the folder, or damaged."""
    path = folder / f"{fingerprint(graph, examples)}.pt2"
    if path.exists():
        with contextlib.suppress(Exception):  # which may be anything, from a file that was cut short
            return load_library(path), False
    compile_graph(graph, examples, path)
    return load_library(path), True


def fingerprint(graph: GraphModule, inputs: Sequence[Tensor]) -> str:
    """What decides how a graph's library looks: operations, constants, inputs, versions, threads and the processor."""
    parts = [graph.code, torch.__version__, torch.get_num_threads(), processor()]
    parts += [(value.shape, value.stride(), value.dtype, value.device) for value in inputs]
    digest = hashlib.sha256(repr(parts).encode())
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = operator.attrgetter(node.target)(graph)
            digest.update(f"{node.target} {value.dtype} {value.tolist()}".encode())
    return digest.hexdigest()[:32]


def processor() -> str:
    """What the processor can do: libraries are made for the one at hand, and a folder may be seen from many."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:  # no Linux
        told = ""
    flags = next((line for line in told.splitlines() if line.lower().startswith(("flags", "features"))), "")
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"


def compile_graph(graph: GraphModule, inputs: Sequence[Tensor], path: Path) -> None:
    """Make a library of a graph; whole or not at all, whoever else makes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        program = torch.export.export(graph, tuple(inputs), strict=False)
        try:
            made = _package(program, Path(folder) / path.name, trusting=True)
        except Exception:  # a compiler that doesn't know the processor's newest instructions
            made = _package(program, Path(folder) / path.name, trusting=False)
        os.replace(made, path)


def _package(program: ExportedProgram, path: Path, trusting: bool) -> str:
    """Compile a program, for the processor as it says it is, or for what of that was tried, which takes ten seconds."""
    settings = {"pattern_matcher": False}  # which would make one operation again of what SPLIT has made two of
    if trusting:
        settings["cpp.vec_isa_ok"] = True
    # To precompile them takes longer than to compile a library with them, and most runs need one library.
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
    """What calls a library: from the tensors of its inputs to those of its outputs."""
    # That a processor does what its kind does needn't be tried; trying it takes seconds.
    with removed_afterwards(), inductor.config.patch(_known({"cpp.vec_isa_ok": True})):
        library: Library = _loader(str(path)).boxed_run
    return library


def _loader(path: str) -> Any:
    """PyTorch's own loader of libraries."""
    try:
        # What `aoti_load_package` ends with, but for the compiler, which it imports: that takes 20 times as long.
        return torch._C._aoti.AOTIModelPackageLoader(path, "model", False, 1, -1)
    except (AttributeError, TypeError):  # PyTorch 2.6 makes it in another way
        return inductor.aoti_load_package(path).loader


@contextlib.contextmanager
def removed_afterwards() -> Iterator[None]:
    """Remove what the loader unpacks, which it does itself only at an end of the process that is no kill."""
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
