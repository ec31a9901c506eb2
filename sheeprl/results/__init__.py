"""Results of finished runs: read, summarize, compare and draw them. Imports neither torch nor Ray."""
