"""Record a run's calls and re-execute them."""
