"""Learning gates, speed comparisons and their figures: every claim with the command that repeats it."""
