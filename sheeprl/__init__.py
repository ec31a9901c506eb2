"""SheepRL: reinforcement learning with PyTorch and Lightning Fabric, spread over machines by Ray."""

from sheeprl.config import Config, ConfigError, load_config
from sheeprl.errors import RunFailedError
from sheeprl.launch import Result, train
from sheeprl.version import __version__

__all__ = ["Config", "ConfigError", "Result", "RunFailedError", "__version__", "load_config", "train"]
