"""SheepRL: reinforcement learning with PyTorch and Lightning Fabric, spread over machines by Ray."""

from sheeprl.config.loading import load_config
from sheeprl.config.schema import Config
from sheeprl.launch import Result, train
from sheeprl.utils.errors import ConfigError, RunFailedError
from sheeprl.version import __version__

__all__ = ["Config", "ConfigError", "Result", "RunFailedError", "__version__", "load_config", "train"]
