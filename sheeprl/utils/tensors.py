"""Trees of tensors (nested dicts and lists), and their transfer between devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

Tree = Mapping[str, Any]
"""Tensors by name, in nested dicts and lists."""
AnyTree = TypeVar("AnyTree")


def flattened(tree: Any) -> list[Tensor]:
    """Return the tensors of a tree, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, Mapping) else tree
    return [tensor for value in values for tensor in flattened(value)]


def unflattened(like: Any, tensors: Iterator[Tensor]) -> Any:
    """Return a tree of the same structure with other tensors."""
    if isinstance(like, Tensor):
        return next(tensors)
    if isinstance(like, Mapping):
        return {name: unflattened(value, tensors) for name, value in like.items()}
    return [unflattened(value, tensors) for value in like]


def moved(tree: AnyTree, device: torch.device) -> AnyTree:
    """Return the tree with all tensors on a device; return the same tree if they already are.

    Tensors of one dtype are transferred together, because starting a transfer costs more than most tensors do.
    Transfers to a CUDA device use pinned memory and are asynchronous.
    """
    tensors = flattened(tree)
    alike: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for number, tensor in enumerate(tensors):
        if tensor.device != device:
            alike.setdefault((tensor.device, tensor.dtype), []).append(number)
    if not alike:
        return tree
    for numbers in alike.values():
        for number, values in zip(numbers, _moved([tensors[number] for number in numbers], device), strict=True):
            tensors[number] = values
    moved_tree: AnyTree = unflattened(tree, iter(tensors))
    return moved_tree


def _moved(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Transfer tensors of one dtype together."""
    sizes = [tensor.numel() for tensor in tensors]
    is_pinned = device.type == "cuda" and tensors[0].device.type == "cpu"
    together = tensors[0].new_empty(sum(sizes), pin_memory=is_pinned)
    torch.cat([tensor.detach().reshape(-1) for tensor in tensors], out=together)
    parts = torch.split(together.to(device, non_blocking=is_pinned), sizes)
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
