"""Algorithms, one folder each, and their common contract."""
