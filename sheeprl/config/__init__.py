"""The configuration: its sections, how it is loaded, its defaults and its checks."""
