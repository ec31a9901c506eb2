"""Begin a run with networks of another run (`algo.init_from`)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sheeprl.checkpoint import manifest
from sheeprl.checkpoint.best import named_checkpoint
from sheeprl.checkpoint.run_dir import read_config
from sheeprl.checkpoint.runs import is_stored
from sheeprl.checkpoint.weights import read_agent
from sheeprl.config.schema import Config, structural_keys
from sheeprl.config.suggestions import shown
from sheeprl.utils.errors import ConfigError, one_line

if TYPE_CHECKING:
    from torch import Tensor

    from sheeprl.buffer.memmap import Array
    from sheeprl.envs.transforms import Spaces

MOST_NAMES = 6  # modules that a message names


@dataclass(frozen=True)
class InitialNetworks:
    """Parameters and buffers of a checkpoint that a new run begins with.

    Args:
        origin: path or URL of the checkpoint.
        tensors: those that agree with the agent in name and shape.
        summary: what was loaded and what was not, in one line.
        is_partial: True if the agent has other tensors, too, or the run another environment.
    """

    origin: str
    tensors: dict[str, Tensor]
    summary: str
    is_partial: bool

    def put_into(self, snapshot: Array) -> Array:
        """Return a snapshot of a learner with these tensors."""
        import numpy as np
        import torch

        state = torch.load(io.BytesIO(snapshot.tobytes()), map_location="cpu", weights_only=True)
        for name, values in self.tensors.items():
            state["agent"][name] = values.to(state["agent"][name].dtype)
        file = io.BytesIO()
        torch.save(state, file)
        return np.frombuffer(file.getbuffer(), np.uint8)


def read_initial(config: Config, spaces: Spaces) -> InitialNetworks | None:
    """Return the networks that `algo.init_from` names, None without the setting.

    Raises:
        ConfigError: there is no such checkpoint, it can't be loaded, or none of its tensors fits the agent.
    """
    given = config.algo.init_from
    if given is None:
        return None
    try:
        origin, folder = _checkpoint(given)
        found = read_agent(folder)
    except ConfigError as error:
        raise with_setting("algo.init_from", given, error) from error
    expected = _agent_of(config, spaces)
    fitting = {
        name: found[name] for name, part in expected.items() if name in found and found[name].shape == part.shape
    }
    others = _other_settings(config, folder)
    summary = _summary(origin, fitting, found, expected)
    summary += f"; settings that differ: {', '.join(others)}" if others else ""
    if not fitting:
        reason = f"no tensor agrees with the agent of {config.algo.name} in name and shape"
        raise ConfigError([f"algo.init_from={given}: {reason}; {summary}"])
    return InitialNetworks(origin, fitting, summary, bool(others) or len(fitting) < len(expected))


def _checkpoint(given: str) -> tuple[str, Path]:
    """Return the path or URL of a checkpoint, and a local folder with its files.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    try:
        _, folder = named_checkpoint(given)
        manifest.verify(folder)
    except (manifest.DamagedCheckpointError, OSError, ValueError) as error:
        raise ConfigError([one_line(error)]) from error
    return origin_of(given, folder), folder


def origin_of(given: str, checkpoint: Path) -> str:
    """Return the URL that a setting gives, or the path of the checkpoint that it led to."""
    return given if is_stored(given) else str(checkpoint)


def with_setting(key: str, given: str, error: ConfigError) -> ConfigError:
    """Return an error whose mistakes begin with the setting, instead of the given name alone."""
    return ConfigError([f"{key}={given}: {text.removeprefix(f'{given}: ')}" for text in error.mistakes])


def _agent_of(config: Config, spaces: Spaces) -> dict[str, Tensor]:
    """Return the parameters and buffers of a new agent by name, without a change of torch's random generator."""
    import torch

    from sheeprl.algos.build import build_algorithm

    with torch.random.fork_rng(devices=()):
        state: dict[str, Tensor] = build_algorithm(config.algo, spaces).build_agent().state_dict()
    return state


def _summary(
    origin: str, fitting: Mapping[str, Tensor], found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> str:
    """Return one line about the loaded tensors and the others."""
    parts = [f"{len(fitting)} of the agent's {len(expected)} tensors are loaded"]
    others = {
        "of another shape": [name for name in expected if name in found and name not in fitting],
        "not in the checkpoint": [name for name in expected if name not in found],
        "only in the checkpoint": [name for name in found if name not in expected],
    }
    parts += [f"{kind}: {_modules(names)}" for kind, names in others.items() if names]
    return f"networks of {origin}: {'; '.join(parts)}"


def _other_settings(config: Config, folder: Path) -> list[str]:
    """Return the environment and the settings that shape networks, if they differ from those of a checkpoint."""
    theirs, ours = read_config(folder), config.to_tree()
    keys = [("env", "id"), *(("algo", name) for name in structural_keys(type(config.algo)))]
    return [
        f"{section}.{name}={shown(ours[section][name])} (the checkpoint: {shown(theirs[section][name])})"
        for section, name in keys
        if theirs[section].get(name, ours[section][name]) != ours[section][name]
    ]


def _modules(names: Sequence[str]) -> str:
    """Return the modules of tensors with their numbers of tensors, at most `MOST_NAMES`."""
    counts: dict[str, int] = {}
    for name in names:
        module = ".".join(name.split(".")[:2]) if name.startswith("policy.") else name.partition(".")[0]
        counts[module] = counts.get(module, 0) + 1
    texts = [f"{module} ({count})" for module, count in counts.items()]
    return ", ".join(texts[:MOST_NAMES]) + (f" and {len(texts) - MOST_NAMES} more" if len(texts) > MOST_NAMES else "")
