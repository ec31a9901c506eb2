"""Callbacks of a run: the base class, and those that write its files, stop it early and feed trackers."""
