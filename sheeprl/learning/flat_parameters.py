"""An agent's parameters laid out in few long vectors, so that a step over all of them is few operations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sheeprl.algos.base import TargetUpdate


@dataclass(frozen=True)
class Slot:
    """Where in a vector a parameter lies."""

    vector: int
    start: int
    stop: int
    shape: torch.Size


@dataclass(frozen=True)
class Span:
    """A target network's part of one vector, and the part of another that it follows."""

    target: int
    target_slice: slice
    online: int
    online_slice: slice


class FlatParameters:
    """Moves an agent's parameters into one vector for each set of groups that share them.

    The modules' parameters become views into the vectors, so whoever steps a vector steps the modules. Parameters that
    are in no group (those of target networks) have vectors too.

    Args:
        agent: all networks, on their device.
        groups: names of the submodules whose parameters each group trains.
    """

    def __init__(self, agent: nn.Module, groups: Mapping[str, Sequence[str]]) -> None:
        self.slots: dict[str, Slot] = {}
        self.vectors: list[nn.Parameter] = []
        self._of_group: dict[str, list[int]] = {group: [] for group in groups}
        owners = _owners(agent, groups)
        alike: dict[tuple[object, ...], list[str]] = {}
        for name, parameter in agent.named_parameters():
            key = (tuple(owners.get(name, ())), parameter.dtype, parameter.device)
            alike.setdefault(key, []).append(name)
        for (sharing, *_), names in alike.items():
            for group in sharing:  # type: ignore[attr-defined]
                self._of_group[group].append(len(self.vectors))
            self._lay_out(agent, names, trained=bool(sharing))

    def _lay_out(self, agent: nn.Module, names: Sequence[str], trained: bool) -> None:
        parameters = [agent.get_parameter(name) for name in names]
        vector = torch.cat([parameter.detach().flatten() for parameter in parameters])
        start = 0
        for name, parameter in zip(names, parameters, strict=True):
            stop = start + parameter.numel()
            parameter.data = vector[start:stop].view(parameter.shape)
            self.slots[name] = Slot(len(self.vectors), start, stop, parameter.shape)
            start = stop
        self.vectors.append(nn.Parameter(vector, requires_grad=trained))

    def of_group(self, group: str) -> list[int]:
        """Numbers of the vectors that a group trains."""
        return self._of_group[group]

    def names_in(self, number: int) -> list[str]:
        """The parameters that a vector consists of, in order."""
        return [name for name, slot in self.slots.items() if slot.vector == number]

    def stepped_by(self, optimizer: Optimizer) -> list[int]:
        """Numbers of the vectors that an optimizer has, in its order."""
        numbers = {id(vector): number for number, vector in enumerate(self.vectors)}
        return [numbers[id(vector)] for settings in optimizer.param_groups for vector in settings["params"]]

    def views(self, vectors: Sequence[Tensor]) -> dict[str, Tensor]:
        """The parameters by name, as parts of vectors like these."""
        return {
            name: vectors[slot.vector][slot.start : slot.stop].view(slot.shape) for name, slot in self.slots.items()
        }

    def spans(self, agent: nn.Module, average: TargetUpdate) -> list[Span]:
        """What of which vector follows what of which other; neighbours joined."""
        online = _names(agent, average.online)
        target = _names(agent, average.target)
        spans: list[Span] = []
        for target_name, online_name in zip(target, online, strict=True):
            to, of = self.slots[target_name], self.slots[online_name]
            last = spans[-1] if spans else None
            if (
                last is not None
                and (last.target, last.online) == (to.vector, of.vector)
                and (last.target_slice.stop, last.online_slice.stop) == (to.start, of.start)
            ):
                begun = spans.pop()
                to_slice, of_slice = begun.target_slice, begun.online_slice
                spans.append(Span(to.vector, slice(to_slice.start, to.stop), of.vector, slice(of_slice.start, of.stop)))
            else:
                spans.append(Span(to.vector, slice(to.start, to.stop), of.vector, slice(of.start, of.stop)))
        return spans


def _names(agent: nn.Module, module: str) -> list[str]:
    """Names, within the agent, of a submodule's parameters; one that is shared has one name."""
    names = {id(parameter): name for name, parameter in agent.named_parameters()}
    return [names[id(parameter)] for parameter in agent.get_submodule(module).parameters()]


def _owners(agent: nn.Module, groups: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """The groups that train each parameter, by its name."""
    owners: dict[str, list[str]] = {}
    for group, modules in groups.items():
        for module in modules:
            for name in _names(agent, module):
                sharing = owners.setdefault(name, [])
                if agent.get_parameter(name).requires_grad and group not in sharing:
                    sharing.append(group)
    return owners
