"""Cut a graph at its sums over ranks, so that each part between two sums becomes a library.

A compiled library holds Python's global lock (GIL) while it runs. A sum inside of it could wait forever, because the
backend's threads need the lock too. So sums stay outside. With a single rank the graph has no sums and isn't cut.

`open_graph` makes three kinds of parts: compiled libraries, sums, and short parts that run eagerly, because calling a
library would cost more than it saves.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.passes.split_module import split_module

Library = Callable[[list[Tensor]], list[Tensor]]
"""Compiled code of a graph: from input tensors, some of which it changes in place, to output tensors."""
MIN_OPERATIONS = 8  # of a part that is compiled; shorter parts run eagerly


@torch.library.custom_op("sheeprl::sum_over_ranks", mutates_args=())
def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks. As a custom operator it is a single node in a traced graph."""
    total = value.clone()
    dist.all_reduce(total)
    return total


@sum_over_ranks.register_fake
def _(value: Tensor) -> Tensor:
    """Return a tensor of the result's shape, for tracing."""
    return torch.empty_like(value)


SUM = torch.ops.sheeprl.sum_over_ranks.default


def has_sums(graph: GraphModule) -> bool:
    """Return True if a graph contains a sum over ranks."""
    return any(node.target is SUM for node in graph.graph.nodes)


def open_graph(graph: GraphModule, open_part: Callable[[GraphModule, list[Tensor]], Library]) -> Library:
    """Return a function that runs a graph: one library, or several with the sums between them.

    Args:
        graph: traced graph; its nodes carry fake tensors as `meta["val"]`.
        open_part: function that compiles or loads a part of the graph, given example inputs.
    """
    if not has_sums(graph):
        return open_part(graph, _examples(graph))
    module = _split_at_sums(graph)
    for name, part in list(module.named_children()):
        assert isinstance(part, GraphModule)
        operations = [node.target for node in part.graph.nodes if node.op == "call_function"]
        if len(operations) >= MIN_OPERATIONS and SUM not in operations:
            setattr(module, name, _LibraryModule(open_part(part, _examples(part)), _returns_tensor(part)))

    def run(tensors: list[Tensor]) -> list[Tensor]:
        """Run all parts in order."""
        with torch.no_grad():
            return list(module(*tensors))

    return run


def _split_at_sums(graph: GraphModule) -> GraphModule:
    """Return a module with one submodule per part, which it calls in order. Each sum is a separate part."""
    number, numbers = 0, dict[Node, int]()
    for node in graph.graph.nodes:
        number += node.target is SUM
        numbers[node] = number
        number += node.target is SUM
    _duplicate_views(graph, numbers)
    return split_module(graph, graph, lambda node: numbers[node])


def _duplicate_views(graph: GraphModule, numbers: dict[Node, int]) -> None:
    """Repeat a view in every part that uses it, so that no part gets a view from another part.

    A compiled part assumes that its inputs don't share memory. If it got a tensor and a view of it, a change of the
    tensor would not show in the view.

    Args:
        graph: graph to change in place.
        numbers: number of the part of each node; new nodes are added.
    """
    duplicates: dict[tuple[Node, int], Node] = {}

    def replacement(node: Node, part: int, before: Node) -> Node:
        """Return the node that a part must use in place of `node`; insert a new one at `before`."""
        if node.op != "call_function" or numbers[node] == part:
            return node
        if (node, part) in duplicates:
            return duplicates[node, part]
        if _writes(node):  # an in-place operation returns the tensor that it changed
            (changed, *_) = node.all_input_nodes
            return replacement(changed, part, before)
        if not _is_view(node):
            return node
        with graph.graph.inserting_before(before):
            duplicate = graph.graph.node_copy(node, lambda arg: replacement(arg, part, before))
        duplicates[node, part] = duplicate
        numbers[duplicate] = part
        return duplicate

    for node in list(graph.graph.nodes):
        if node.op == "call_function":
            for arg in node.all_input_nodes:
                node.replace_input_with(arg, replacement(arg, numbers[node], node))
    graph.recompile()


def _writes(node: Node) -> bool:
    """Return True if an operation changes an input in place."""
    return any(arg.alias_info is not None and arg.alias_info.is_write for arg in _schema(node).arguments)


def _is_view(node: Node) -> bool:
    """Return True if the result of an operation shares memory with an input."""
    if node.target is operator.getitem:  # selects one of several results
        return _is_view(node.all_input_nodes[0])
    return any(result.alias_info is not None for result in _schema(node).returns)


def _schema(node: Node) -> Any:
    """Return the operator's schema; a node without one is treated like a sum, which neither writes nor is a view."""
    return getattr(node.target, "_schema", SUM._schema)


def _examples(graph: GraphModule) -> list[Tensor]:
    """Return zeros in the shapes, strides, dtypes and devices of a graph's inputs."""
    inputs = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    return [
        torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device).zero_()
        for value in inputs
    ]


def _returns_tensor(graph: GraphModule) -> bool:
    """Return True if a graph returns a single tensor, False if it returns several."""
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    return isinstance(output.args[0], Node)


class _LibraryModule(nn.Module):
    """Module that calls the library of a part.

    Args:
        library: compiled part.
        returns_tensor: True if the part returns a single tensor, False if it returns several.
    """

    def __init__(self, library: Library, returns_tensor: bool) -> None:
        """Store the library."""
        super().__init__()
        self.library, self.returns_tensor = library, returns_tensor

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the library."""
        outputs = self.library(list(tensors))
        return outputs[0] if self.returns_tensor else tuple(outputs)
