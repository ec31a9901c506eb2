"""SheepRL: reinforcement learning with PyTorch and Lightning Fabric, spread over machines by Ray."""

from importlib import import_module

from sheeprl.version import __version__

TYPE_CHECKING = False  # type checkers know this name; the module typing is slow to import
if TYPE_CHECKING:
    from sheeprl.callbacks.base import Callback
    from sheeprl.config.loading import load_config
    from sheeprl.config.schema import Config
    from sheeprl.launch import train
    from sheeprl.policy.enjoy import enjoy
    from sheeprl.policy.loading import load_policy
    from sheeprl.session import Result
    from sheeprl.utils.errors import ConfigError, RunFailedError

__all__ = [
    "Callback",
    "Config",
    "ConfigError",
    "Result",
    "RunFailedError",
    "__version__",
    "enjoy",
    "load_config",
    "load_policy",
    "train",
]

_MODULES = {
    "Callback": "sheeprl.callbacks.base",
    "Config": "sheeprl.config.schema",
    "ConfigError": "sheeprl.utils.errors",
    "Result": "sheeprl.session",
    "RunFailedError": "sheeprl.utils.errors",
    "enjoy": "sheeprl.policy.enjoy",
    "load_config": "sheeprl.config.loading",
    "load_policy": "sheeprl.policy.loading",
    "train": "sheeprl.launch",
}
"""Module of each public name. It is imported at the first use, so that the command line can handle Ctrl-C before."""


def __getattr__(name: str) -> object:
    """Import a public name at its first use.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    """Return the names of the package, with those that aren't imported yet."""
    return sorted({*globals(), *__all__})
