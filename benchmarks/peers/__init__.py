"""Other libraries' side of the comparisons: scripts that run in separate environments."""
