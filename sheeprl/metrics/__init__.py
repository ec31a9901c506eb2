"""Counters, the reporter that writes them, and the time breakdown."""
