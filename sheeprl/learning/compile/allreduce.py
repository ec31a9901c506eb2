"""A graph in which ranks' tensors are summed, cut into the parts between these sums.

A compiled library runs without letting other Python threads go on, which those that carry out a sum need: so no sum may
be in the midst of a library.
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
WORTH_COMPILING = 8  # operations of a part; fewer are carried out one after the other


@torch.library.custom_op("sheeprl::sum_over_ranks", mutates_args=())
def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of all ranks' values; one node of a graph that is traced."""
    total = value.clone()
    dist.all_reduce(total)
    return total


@sum_over_ranks.register_fake
def _(value: Tensor) -> Tensor:
    return torch.empty_like(value)


SUM = torch.ops.sheeprl.sum_over_ranks.default


def has_sums(graph: GraphModule) -> bool:
    """Whether ranks' tensors are summed in a graph."""
    return any(node.target is SUM for node in graph.graph.nodes)


def opened(graph: GraphModule, open_part: Callable[[GraphModule, list[Tensor]], Library]) -> Library:
    """What carries out a graph: one library, or several and what lies between them.

    Args:
        graph: of operations on tensors that have no values yet.
        open_part: makes a library of a part, given tensors as it will be called with.
    """
    if not has_sums(graph):
        return open_part(graph, _examples(graph))
    whole = _cut(graph)
    for name, part in list(whole.named_children()):
        assert isinstance(part, GraphModule)
        operations = [node.target for node in part.graph.nodes if node.op == "call_function"]
        if len(operations) >= WORTH_COMPILING and SUM not in operations:
            setattr(whole, name, _Compiled(open_part(part, _examples(part)), _gives_one(part)))

    def run(tensors: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return list(whole(*tensors))

    return run


def _cut(graph: GraphModule) -> GraphModule:
    """A module that calls the parts in turn, every sum a part of its own."""
    number, numbers = 0, dict[Node, int]()
    for node in graph.graph.nodes:
        number += node.target is SUM
        numbers[node] = number
        number += node.target is SUM
    _keep_views_within(graph, numbers)
    return split_module(graph, graph, lambda node: numbers[node])


def _keep_views_within(graph: GraphModule, numbers: dict[Node, int]) -> None:
    """Make views anew in every part that uses them.

    A part that was given a tensor and a view of it would take them for two, of which one doesn't follow the other.

    Args:
        graph: is changed.
        numbers: the part of each node; so are those of new nodes.
    """
    made: dict[tuple[Node, int], Node] = {}

    def within(node: Node, part: int, before: Node) -> Node:
        """What stands for a node in a part."""
        if node.op != "call_function" or numbers[node] == part:
            return node
        if (node, part) in made:
            return made[node, part]
        if _writes(node):  # it gives the tensor that it has changed
            (changed, *_) = node.all_input_nodes
            return within(changed, part, before)
        if not _is_view(node):
            return node
        with graph.graph.inserting_before(before):
            again = made[node, part] = graph.graph.node_copy(node, lambda arg: within(arg, part, before))
        numbers[again] = part
        return again

    for node in list(graph.graph.nodes):
        if node.op == "call_function":
            for arg in node.all_input_nodes:
                node.replace_input_with(arg, within(arg, numbers[node], node))
    graph.recompile()


def _writes(node: Node) -> bool:
    """Whether an operation changes what it is given."""
    return any(arg.alias_info is not None and arg.alias_info.is_write for arg in _schema(node).arguments)


def _is_view(node: Node) -> bool:
    """Whether an operation gives another look at what it is given."""
    if node.target is operator.getitem:  # one of several results
        return _is_view(node.all_input_nodes[0])
    return any(result.alias_info is not None for result in _schema(node).returns)


def _schema(node: Node) -> Any:
    return getattr(node.target, "_schema", SUM._schema)


def _examples(graph: GraphModule) -> list[Tensor]:
    """Tensors like those that a graph is called with."""
    shapes = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    return [
        torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device).zero_()
        for value in shapes
    ]


def _gives_one(graph: GraphModule) -> bool:
    """Whether it returns a tensor, not several."""
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    return isinstance(output.args[0], Node)


class _Compiled(nn.Module):
    """A part as a library.

    Args:
        library: which.
        gives_one: whether the part returns a tensor, not several.
    """

    def __init__(self, library: Library, gives_one: bool) -> None:
        super().__init__()
        self.library, self.gives_one = library, gives_one

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run it."""
        outputs = self.library(list(tensors))
        return outputs[0] if self.gives_one else tuple(outputs)
