"""Trees of tensors (nested dicts and lists), and their way from one device to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

Tree = Mapping[str, Any]
"""Tensors by name, in nested dicts and lists."""
AnyTree = TypeVar("AnyTree")


def flattened(tree: Any) -> list[Tensor]:
    """The tensors of a tree, in order."""
    if isinstance(tree, Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, Mapping) else tree
    return [tensor for value in values for tensor in flattened(value)]


def unflattened(like: Any, tensors: Iterator[Tensor]) -> Any:
    """A tree like that, of other tensors."""
    if isinstance(like, Tensor):
        return next(tensors)
    if isinstance(like, Mapping):
        return {name: unflattened(value, tensors) for name, value in like.items()}
    return [unflattened(value, tensors) for value in like]


def moved(tree: AnyTree, device: torch.device) -> AnyTree:
    """The same tree with all of it on one device; itself if it is there already.

    All tensors of a dtype travel as one: to begin a transfer takes longer than most of them need. What goes to a CUDA
    device goes from pinned memory, and nobody waits for it.
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
    """Tensors of one dtype, all in one transfer."""
    sizes = [tensor.numel() for tensor in tensors]
    is_pinned = device.type == "cuda" and tensors[0].device.type == "cpu"
    together = tensors[0].new_empty(sum(sizes), pin_memory=is_pinned)
    torch.cat([tensor.detach().reshape(-1) for tensor in tensors], out=together)
    parts = torch.split(together.to(device, non_blocking=is_pinned), sizes)
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
