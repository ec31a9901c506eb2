"""An agent's parameters in a few flat vectors, so that one operation steps many parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sheeprl.algos.base import TargetUpdate


@dataclass(frozen=True)
class Slot:
    """Position of one parameter: `vectors[vector][start:stop]` in the shape `shape`."""

    vector: int
    start: int
    stop: int
    shape: torch.Size


@dataclass(frozen=True)
class Span:
    """Slice of a vector that belongs to a target network, and the slice of the online network that it follows."""

    target: int
    target_slice: slice
    online: int
    online_slice: slice


class MovedParameterError(RuntimeError):
    """Raised when a parameter of the agent isn't a view of its vector, so that training would not change it."""


class FlatParameters:
    """Parameters of an agent, moved into flat vectors.

    One vector holds the parameters that the same groups train, if they also have the same dtype and device. The
    modules' parameters become views of the vectors, so a step of a vector steps the modules. Parameters that no group
    trains, such as those of target networks, are in vectors too.

    Args:
        agent: module with all networks, on its device.
        groups: for each group, names of the submodules whose parameters it trains.
    """

    def __init__(self, agent: nn.Module, groups: Mapping[str, Sequence[str]]) -> None:
        """Move the parameters into vectors and make the modules' parameters views of them."""
        self.slots: dict[str, Slot] = {}
        self.vectors: list[nn.Parameter] = []
        self._of_group: dict[str, list[int]] = {group: [] for group in groups}
        owners = _owners(agent, groups)
        names_by_key: dict[tuple[object, ...], list[str]] = {}
        for name, parameter in agent.named_parameters():
            key = (tuple(owners.get(name, ())), parameter.dtype, parameter.device)
            names_by_key.setdefault(key, []).append(name)
        for (trained_by, *_), names in names_by_key.items():
            for group in trained_by:  # type: ignore[attr-defined]
                self._of_group[group].append(len(self.vectors))
            self._flatten(agent, names, trained=bool(trained_by))
        self._parameters = dict(agent.named_parameters())
        self._addresses = [parameter.data_ptr() for parameter in self._parameters.values()]

    def _flatten(self, agent: nn.Module, names: Sequence[str], trained: bool) -> None:
        """Move the named parameters into a new vector."""
        parameters = [agent.get_parameter(name) for name in names]
        vector = torch.cat([parameter.detach().flatten() for parameter in parameters])
        start = 0
        for name, parameter in zip(names, parameters, strict=True):
            stop = start + parameter.numel()
            parameter.data = vector[start:stop].view(parameter.shape)
            self.slots[name] = Slot(len(self.vectors), start, stop, parameter.shape)
            start = stop
        self.vectors.append(nn.Parameter(vector, requires_grad=trained))

    def check(self) -> None:
        """Check that all parameters are still views of their vectors.

        Raises:
            MovedParameterError: a parameter has been moved to other memory.
        """
        addresses = [parameter.data_ptr() for parameter in self._parameters.values()]
        if addresses != self._addresses:
            places = zip(self._parameters, addresses, self._addresses, strict=True)
            name = next(name for name, found, expected in places if found != expected)
            raise MovedParameterError(
                f"the memory of the agent's parameter {name!r} was replaced, so training would not change it; don't "
                "assign parameters or their data, and don't move modules after build_agent()"
            )

    def of_group(self, group: str) -> list[int]:
        """Return the numbers of the vectors that a group trains."""
        return self._of_group[group]

    def names_in(self, number: int) -> list[str]:
        """Return the names of the parameters in a vector, in order."""
        return [name for name, slot in self.slots.items() if slot.vector == number]

    def sizes_in(self, number: int) -> list[int]:
        """Return the numbers of elements of the parameters in a vector, in order."""
        return [slot.stop - slot.start for slot in self.slots.values() if slot.vector == number]

    def stepped_by(self, optimizer: Optimizer) -> list[int]:
        """Return the numbers of an optimizer's vectors, in the optimizer's order."""
        numbers = {id(vector): number for number, vector in enumerate(self.vectors)}
        return [numbers[id(vector)] for settings in optimizer.param_groups for vector in settings["params"]]

    def views(self, vectors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the parameters by name, as views of vectors of the same layout."""
        return {
            name: vectors[slot.vector][slot.start : slot.stop].view(slot.shape) for name, slot in self.slots.items()
        }

    def spans(self, agent: nn.Module, update: TargetUpdate) -> list[Span]:
        """Return the slices of a target update; adjacent parameters form one slice."""
        spans: list[Span] = []
        names = zip(_names(agent, update.target), _names(agent, update.online), strict=True)
        for target_name, online_name in names:
            target, online = self.slots[target_name], self.slots[online_name]
            target_start, online_start = target.start, online.start
            last = spans[-1] if spans else None
            if (
                last is not None
                and (last.target, last.online) == (target.vector, online.vector)
                and (last.target_slice.stop, last.online_slice.stop) == (target.start, online.start)
            ):
                spans.pop()
                target_start, online_start = last.target_slice.start, last.online_slice.start
            target_slice, online_slice = slice(target_start, target.stop), slice(online_start, online.stop)
            spans.append(Span(target.vector, target_slice, online.vector, online_slice))
        return spans


def _names(agent: nn.Module, module: str) -> list[str]:
    """Return the names, within the agent, of a submodule's parameters; a shared parameter has one name."""
    names = {id(parameter): name for name, parameter in agent.named_parameters()}
    return [names[id(parameter)] for parameter in agent.get_submodule(module).parameters()]


def _owners(agent: nn.Module, groups: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return the groups that train each parameter, by the parameter's name."""
    owners: dict[str, list[str]] = {}
    for group, modules in groups.items():
        for module in modules:
            for name in _names(agent, module):
                trained_by = owners.setdefault(name, [])
                if agent.get_parameter(name).requires_grad and group not in trained_by:
                    trained_by.append(group)
    return owners
