"""Configuration: schema, loading, defaults and checks."""

from sheeprl.config.loading import load_config, validate

__all__ = ["load_config", "validate"]
