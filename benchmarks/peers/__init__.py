"""Other libraries' side of the comparisons: scripts that run in environments of their own."""
