"""Compiled gradient steps."""
