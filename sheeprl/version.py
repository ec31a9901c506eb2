"""The version, in the one place that the build and the code read."""

__version__ = "2.0.0.dev0"
